"""Explain in one line why a network cannot compute an input, where PyTorch's error names an operator inside the network.

Nothing is checked in advance: a check would refuse inputs that fit after a user has replaced a layer. Only PyTorch's errors in
the network's own layers are explained: those of a user's layer or hook, and a lack of memory, have another cause.
"""

from collections.abc import Callable
from functools import wraps
from traceback import walk_tb
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from inception_zoo.errors import ZooError

P = ParamSpec("P")
T = TypeVar("T")
OWN = {"torch", "torchvision", "inception_zoo"}  # the packages of the network's own layers


def explained(run: Callable[Concatenate[Any, Tensor, P], T]) -> Callable[Concatenate[Any, Tensor, P], T]:
    """Return the method ``run(model, x, …)``, which raises ZooError if it fails because the network cannot read images `x`."""

    @wraps(run)
    def wrapper(model: Any, x: Tensor, *args: P.args, **options: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return run(model, x, *args, **options)
        try:
            return run(model, x, *args, **options)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # PyTorch raises all of them
            if is_pytorchs(error) and (found := mistake(model, x, str(error))):
                raise ZooError(found) from error
            raise

    return wrapper


def is_pytorchs(error: Exception) -> bool:
    """Return True if PyTorch raised the error in the network's own layers, and not for lack of memory."""
    packages = {str(frame.f_globals.get("__name__")).split(".")[0] for frame, _ in walk_tb(error.__traceback__)}
    return packages <= OWN and "alloc" not in str(error).lower() and not isinstance(error, torch.OutOfMemoryError)


def mistake(model: Any, x: Any, error: str) -> str | None:
    """Return what is wrong with the images `x` of the `Inception` `model`, and what to do; None if nothing is wrong.

    Args:
        model: The network.
        x: The images, which may be anything.
        error: The text of PyTorch's error.
    """
    if isinstance(x, torch.fx.Proxy):
        return None
    plan, weight = model.plan, next(model.parameters(), None)
    if weight is None:  # a fused network without classifier has none
        return None
    first = next(module for module in model.modules() if list(module.parameters(recurse=False)))  # a user may have replaced it
    channels = first.in_channels if isinstance(first, nn.Conv2d) else None
    reads = f"{plan.net.name} reads images (N, {channels or plan.in_channels}, height, width)"
    if not isinstance(x, Tensor):
        return f"x is of type {type(x).__name__}: {reads} as a tensor"
    shape = tuple(map(int, x.shape))
    if len(shape) != 4:
        return f"x.shape={shape}: {reads}" + ("; add the first dimension: x[None]" if len(shape) == 3 else "")
    if channels not in (None, shape[1]):
        other = f"create the network with in_channels={shape[1]}"
        return f"x.shape={shape}: {reads}; {'use x.permute(0, 3, 1, 2)' if shape[3] == channels else other}"
    if x.device != weight.device:
        return f"x.device={x.device}: the weights are on {weight.device}; use x.to('{weight.device}')"
    if not x.is_floating_point():
        return f"x.dtype={x.dtype}: the weights are {weight.dtype}; convert x, and normalize it as in training"
    if error.startswith("Expected more than 1 value per channel"):  # also of a group of one value
        reason = "one value per channel is too few for batch normalization in training"
        return f"x.shape={shape}: {reason}; use 2 or more images" if plan.choices.norm == "batch" else None
    try:
        if "size" in error.lower():  # of a kernel, of an output, of tensors to concatenate, of a batch
            plan.shapes(shape[2:])
    except ZooError as found:
        return str(found)
    device = x.device.type
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and x.dtype != torch.float64
    if x.dtype != weight.dtype and not cast:
        return f"x.dtype={x.dtype}: the weights are {weight.dtype}; use x.to({weight.dtype})"
    return None
