"""Explain in one line why a network cannot compute an input, where PyTorch's error names an operator inside the network.

Nothing is checked in advance: a check would refuse inputs that fit after a user has replaced a layer.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from inception_zoo.errors import ZooError

T = TypeVar("T")


def explained(run: Callable[[Any, Tensor], T]) -> Callable[[Any, Tensor], T]:
    """Return the method ``run(model, x)``, which raises ZooError if it fails because the network cannot read the images `x`."""

    @wraps(run)
    def wrapper(model: Any, x: Tensor) -> T:
        if torch.compiler.is_compiling():
            return run(model, x)
        try:
            return run(model, x)
        except Exception as error:  # PyTorch raises many types
            if found := mistake(model, x):
                raise ZooError(found) from error
            raise

    return wrapper


def mistake(model: Any, x: Any) -> str | None:
    """Return what is wrong with the images `x` of the `Inception` `model`, and what to do; None if nothing is wrong."""
    if isinstance(x, torch.fx.Proxy):
        return None
    plan, weight = model.plan, next(model.parameters())
    reads = f"{plan.net.name} reads images (N, {plan.in_channels}, height, width)"
    if not isinstance(x, Tensor):
        return f"x is of type {type(x).__name__}: {reads} as a tensor"
    shape = tuple(map(int, x.shape))
    if len(shape) != 4:
        return f"x.shape={shape}: {reads}" + ("; add the first dimension: x[None]" if len(shape) == 3 else "")
    if shape[1] != plan.in_channels:
        other = f"create the network with in_channels={shape[1]}"
        return f"x.shape={shape}: {reads}; {'use x.permute(0, 3, 1, 2)' if shape[3] == plan.in_channels else other}"
    if x.device != weight.device:
        return f"x.device={x.device}: the weights are on {weight.device}; use x.to('{weight.device}')"
    if not x.is_floating_point():
        return f"x.dtype={x.dtype}: the weights are {weight.dtype}; convert x, and normalize it as in training"
    try:
        shapes = plan.shapes(shape[2:])
    except ZooError as error:
        return str(error)
    cast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    if x.dtype != weight.dtype and not cast:
        return f"x.dtype={x.dtype}: the weights are {weight.dtype}; use x.to({weight.dtype})"
    if shape[0] == 1 and model.training and (1, 1) in (each[1:] for each in shapes.values()):
        reason = "one value per channel is too few for batch normalization in training"
        return f"x.shape={shape}: {reason}; use 2 or more images, or larger ones"
    return None
