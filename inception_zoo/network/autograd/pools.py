"""Pools by our kernels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from inception_zoo.network import kernels

AnyPool = nn.MaxPool2d | nn.AvgPool2d


class Pool(torch.autograd.Function):
    """Maximum or average, by our kernels: what is kept is a byte for each maximum, or nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: AnyPool) -> Tensor:
        ctx.pool, ctx.shape = pool, x.shape
        if isinstance(pool, nn.AvgPool2d):
            return kernels.average_pool(x, *pool_arguments(pool, x.shape))
        y, which = kernels.max_pool(x, *_axes(pool, x.shape))
        ctx.save_for_backward(which)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        if isinstance(ctx.pool, nn.AvgPool2d):
            return kernels.average_pool_backward(g, *pool_arguments(ctx.pool, ctx.shape)), None
        (which,) = ctx.saved_tensors
        h, w = _axes(ctx.pool, ctx.shape)
        return kernels.max_pool_backward(g, which, h, w), None


def windows(pool: AnyPool) -> list[tuple[int, int, int]]:
    """Kernel, stride and padding of the height, and of the width."""
    sizes = (each if isinstance(each, tuple) else (each, each) for each in (pool.kernel_size, pool.stride, pool.padding))
    return list(zip(*sizes, strict=True))


def _axes(pool: AnyPool, shape: Sequence[int]) -> list[kernels.Axis]:
    axes = []
    for n, (k, s, p) in zip(shape[-2:], windows(pool), strict=True):
        out = (n + 2 * p - k + (s - 1 if pool.ceil_mode else 0)) // s + 1
        if pool.ceil_mode and (out - 1) * s >= n + p:  # a window that would begin in the padding
            out -= 1
        axes.append((n, out, k, s, p))
    return axes


def pool_arguments(pool: nn.AvgPool2d, shape: Sequence[int]) -> tuple[kernels.Axis, kernels.Axis, bool]:
    h, w = _axes(pool, shape)
    return h, w, bool(pool.count_include_pad)
