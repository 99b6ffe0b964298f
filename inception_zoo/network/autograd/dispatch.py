"""Choose between a module's own forward pass and a function of the training path."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from inception_zoo.errors import ZooError
from inception_zoo.network import kernels

M = TypeVar("M", bound=nn.Module)


def recording(module: nn.Module, x: Any) -> bool:
    """Return True if a backward pass of `module`, called with `x`, may follow.

    False under torch.compile, export, tracing, torch.fx (where `x` is a proxy) and torch.func, which need plain modules.
    """
    usual = module.training and torch.is_grad_enabled() and isinstance(x, Tensor)
    transformed = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    return usual and not transformed


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


class _Refuse(torch.autograd.Function):
    """Identity of gradients whose own derivative is an error."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return views of the gradients (of any shape); `anchor` makes them differentiable."""
        return tuple(g if g is None else g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise ZooError(
            f"{kernels.SWITCH}=1, model.memory=lean or minimal: training has first derivatives only; "
            f"set {kernels.SWITCH}=0 and model.memory=plain for a gradient penalty"
        )


def first_derivative(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Compute a `backward` of an autograd function without recording it; a second derivative through it raises a ZooError.

    PyTorch's `once_differentiable` lets the second derivative pass as zero if the incoming gradient does not require one.
    """

    @wraps(backward)
    def wrapped(ctx: Any, *gradients: Tensor) -> Any:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():  # unless create_graph=True
            return found
        anchor = torch.zeros((), requires_grad=True)
        return _Refuse.apply(anchor, *found) if isinstance(found, tuple) else _Refuse.apply(anchor, found)[0]

    return wrapped


def by_kernels(x: Tensor) -> bool:
    """Return True if the CPU kernels support the device and the compute dtype of feature maps `x` (N, C, H, W)."""
    return kernels.ready(x) and dtype_of(x) in kernels.DTYPES


def dtype_of(x: Tensor) -> torch.dtype:
    """Return the compute dtype of a convolution of `x` (any shape): autocast's if it is enabled, otherwise that of `x`."""
    device = x.device.type
    known = torch.amp.is_autocast_available(device)  # False for the meta device
    return torch.get_autocast_dtype(device) if known and torch.is_autocast_enabled(device) else x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context that computes in the dtype of `x` (any shape), even inside an autocast region."""
    device = x.device.type
    known = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if known and torch.is_autocast_enabled(device) else nullcontext()
