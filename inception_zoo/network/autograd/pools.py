"""Pooling with the CPU kernels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inception_zoo.network import kernels
from inception_zoo.network.autograd.dispatch import by_kernels, first_derivative

AnyPool = nn.MaxPool2d | nn.AvgPool2d


class Pool(torch.autograd.Function):
    """``y = max(window of x)`` or ``y = sum(window of x) / count``, per channel.

    Saves for backward: max pooling, the position of each maximum in its window, (N, C, H', W') uint8; average pooling, nothing.
    Recomputes: nothing. To repeat the pooling would take longer than all other recomputation of lean mode.

    Backward: max pooling adds each gradient at the saved position; average pooling spreads it evenly over the window.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: AnyPool) -> Tensor:
        """Map feature maps (N, C, H, W), channels_last, to (N, C, H', W')."""
        ctx.pool, ctx.shape = pool, x.shape
        if isinstance(pool, nn.AvgPool2d):
            return kernels.average_pool(x, *pool_arguments(pool, x.shape))
        y, position = kernels.max_pool(x, *_axes(pool, x.shape))
        ctx.save_for_backward(position)
        return y

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor) -> Any:
        """Map the gradient of y (N, C, H', W') to the gradient of x (N, C, H, W)."""
        if isinstance(ctx.pool, nn.AvgPool2d):
            return kernels.average_pool_backward(g, *pool_arguments(ctx.pool, ctx.shape)), None
        (position,) = ctx.saved_tensors
        return kernels.max_pool_backward(g, position, *_axes(ctx.pool, ctx.shape)), None


def has_kernel(pool: AnyPool, x: Tensor) -> bool:
    """Return True if `Pool` supports `x` (N, C, H, W), and one byte is enough for a position in the window."""
    (height, *_), (width, *_) = windows(pool)
    return by_kernels(x) and height * width <= 256 and x.is_contiguous(memory_format=torch.channels_last)


def windows(pool: AnyPool) -> list[tuple[int, int, int]]:
    """Return (kernel, stride, padding) of height and width."""
    sizes = (each if isinstance(each, tuple) else (each, each) for each in (pool.kernel_size, pool.stride, pool.padding))
    return list(zip(*sizes, strict=True))


def _axes(pool: AnyPool, shape: Sequence[int]) -> list[kernels.Axis]:
    """Return (input size, output size, kernel, stride, padding) of height and width, for an input of `shape` (N, C, H, W)."""
    axes = []
    for n, (k, s, p) in zip(shape[-2:], windows(pool), strict=True):
        out = (n + 2 * p - k + (s - 1 if pool.ceil_mode else 0)) // s + 1
        if pool.ceil_mode and (out - 1) * s >= n + p:  # PyTorch drops a window that starts in the padding
            out -= 1
        axes.append((n, out, k, s, p))
    return axes


def pool_arguments(pool: nn.AvgPool2d, shape: Sequence[int]) -> tuple[kernels.Axis, kernels.Axis, bool]:
    """Return the arguments of `kernels.average_pool` for an input of `shape` (N, C, H, W)."""
    h, w = _axes(pool, shape)
    return h, w, bool(pool.count_include_pad)
