"""Choose between a module's own forward pass and a function of the training path."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from inception_zoo.network import kernels

M = TypeVar("M", bound=nn.Module)


def recording(module: nn.Module) -> bool:
    """Return True if a backward pass may follow; False under torch.compile, export and tracing, which need plain modules."""
    return module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


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
            return train(self, x) if recording(self) else plain(self, x)

        cls.forward, cls.plain, cls.lean = forward, plain, False
        return cls

    return decorate


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
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
