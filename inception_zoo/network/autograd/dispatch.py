"""Choose between a module's own forward pass and a function of the training path."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from inception_zoo.errors import ZooError
from inception_zoo.network import kernels

M = TypeVar("M", bound=nn.Module)


def recording(module: nn.Module, x: Any) -> bool:
    """Return True if a backward pass of `module`, called with `x`, may follow.

    False under torch.compile, export, tracing, torch.fx (where `x` is a proxy), torch.func and forward-mode AD: they need plain
    modules.
    """
    if not (module.training and torch.is_grad_enabled() and isinstance(x, Tensor)):
        return False
    compiled = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not (compiled or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


def trained_by(train: Callable[[Any, Tensor], Tensor]) -> Callable[[type[M]], type[M]]:
    """Add a second forward pass to a module class, used while `recording` is True.

    The class's own forward pass remains available as ``module.plain(x)``. ``module.lean`` is True in the modes `lean` and
    `minimal`.

    Args:
        train: The second forward pass, ``train(module, x)``, with the shapes of the first.
    """

    def decorate(cls: Any) -> Any:
        plain = cls.forward

        @wraps(plain)
        def forward(self: Any, x: Tensor) -> Tensor:
            return train(self, x) if recording(self, x) else plain(self, x)

        cls.forward, cls.plain, cls.lean = forward, plain, False
        return cls

    return decorate


def first_derivative(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Compute a `backward` of an autograd function without recording it; raise a ZooError if more than that is asked for.

    PyTorch's `once_differentiable` lets the second derivative pass as zero if the incoming gradient does not require one.
    """

    @wraps(backward)
    def wrapped(ctx: Any, *gradients: Tensor | None) -> Any:
        if asked := _beyond(gradients):
            raise ZooError(
                f"{asked}: {kernels.SWITCH}=1 and model.memory=lean or minimal give first derivatives only, one at a time; "
                f"set {kernels.SWITCH}=0 and model.memory=plain"
            )
        with torch.no_grad():
            return backward(ctx, *gradients)

    return wrapped


def _beyond(gradients: Sequence[Tensor | None]) -> str | None:
    """Return what the caller of a backward pass asks for beyond a first derivative; `gradients` have any shape."""
    if torch.is_grad_enabled():  # autograd enables them in a backward pass only for this
        return "create_graph=True"
    if forward_ad._current_level >= 0:
        return "torch.autograd.forward_ad"
    batched = any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in gradients)
    return "is_grads_batched=True" if batched or torch._C._are_functorch_transforms_active() else None


def by_kernels(x: Tensor) -> bool:
    """Return True if the CPU kernels support the device and the compute dtype of feature maps `x` (N, C, H, W)."""
    return kernels.ready(x) and dtype_of(x) in kernels.DTYPES


def dtype_of(x: Tensor) -> torch.dtype:
    """Return the compute dtype of a convolution of `x` (any shape): autocast's if it is enabled, otherwise that of `x`."""
    device = x.device.type
    known = torch.amp.is_autocast_available(device)  # False for the meta device
    return torch.get_autocast_dtype(device) if known and torch.is_autocast_enabled(device) else x.dtype


def autocast_of(x: Tensor) -> Callable[[], AbstractContextManager[Any]]:
    """Return a function that restores autocast as it is now, on or off, for the device of `x` (any shape)."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return partial(torch.autocast, device, dtype, enabled=enabled, cache_enabled=False)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context that computes in the dtype of `x` (any shape), even inside an autocast region."""
    device = x.device.type
    known = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if known and torch.is_autocast_enabled(device) else nullcontext()
