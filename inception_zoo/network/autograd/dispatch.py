"""Choose how a module computes: by its own forward pass, or by a function of the training path."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from inception_zoo.network import kernels

M = TypeVar("M", bound=nn.Module)


def recording(module: nn.Module) -> bool:
    """Return True if a backward pass may follow; False under torch.compile, export and tracing, which read plain modules."""
    return module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def trained_by(train: Callable[[Any, Tensor], Tensor]) -> Callable[[type[M]], type[M]]:
    """Give a module class a second forward pass: ``train(module, x)``, taken while `recording`.

    The class's own forward pass stays in reach of `train` as ``module.plain(x)``. ``module.lean`` is True if the mode is
    `lean` or `minimal`.
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
    """Return True if our CPU kernels support the device and the compute dtype of feature maps (N, C, H, W)."""
    return kernels.ready(x) and dtype_of(x) in kernels.DTYPES


def dtype_of(x: Tensor) -> torch.dtype:
    """Return the dtype that a convolution of `x` computes in: autocast's, otherwise that of `x`."""
    device = x.device.type
    known = torch.amp.is_autocast_available(device)  # not for meta
    return torch.get_autocast_dtype(device) if known and torch.is_autocast_enabled(device) else x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Compute in the dtype of `x`, even inside an autocast region."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
