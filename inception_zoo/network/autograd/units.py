"""Convolutions with what follows them, as one step of autograd."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from inception_zoo.network import kernels
from inception_zoo.network.autograd.pools import pool_arguments
from inception_zoo.network.autograd.recipes import Source, annotate

# Up to these, a weight gradient takes less time as a matrix product than by oneDNN (docs/speed.md).
FEW = 1024  # rows
NARROW = 1024  # channels that a 1x1 reads, on any number of rows


@dataclass
class Unit:
    """A convolution, an average pool, batch normalization and ReLU."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None = None
    relu: bool = False
    pool: nn.AvgPool2d | None = None


def run_units(x: Tensor, units: Sequence[Unit], lean: bool) -> list[Tensor]:
    """What each unit makes of the same maps, in one step of autograd. Several must be 1x1 and normalized: one product."""
    parameters = [p for u in units for p in (u.conv.weight, u.conv.bias, *((u.norm.weight, u.norm.bias) if u.norm else ()))]
    x = x.to(dtype_of(x))
    made = list(_Convolve.apply(x, units, Source.of(x), *parameters))
    maps, rest = made[: len(units)], made[len(units) :]
    if lean and rest:
        c, *affines = rest
        for y, affine, u, part in zip(maps, affines, units, spans(_widths(units)), strict=True):
            annotate(y, (c, affine), _Renormalize(u.relu, part))
    return maps


@dataclass
class _Renormalize:
    relu: bool
    part: slice

    def __call__(self, c: Tensor, affine: Tensor) -> Tensor:
        return kernels.normalize(c[:, self.part], affine, self.relu)

    def into(self, out: Tensor, c: Tensor, affine: Tensor) -> None:
        kernels.normalize(c[:, self.part], affine, self.relu, out)


def spans(lengths: Sequence[int]) -> list[slice]:
    """What follows one after the other."""
    return [slice(end - length, end) for length, end in zip(lengths, accumulate(lengths), strict=True)]


def in_its_own_type(maps: Tensor) -> AbstractContextManager[Any]:
    device = maps.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def dtype_of(maps: Tensor) -> torch.dtype:
    device = maps.device.type
    known = torch.amp.is_autocast_available(device)  # not for meta
    return torch.get_autocast_dtype(device) if known and torch.is_autocast_enabled(device) else maps.dtype


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, units: Sequence[Unit], source: Source, *_: Tensor | None) -> tuple[Tensor, ...]:
        first = units[0]
        ctx.units, ctx.source = units, source
        ctx.set_materialize_grads(False)  # zeros as large as `c` and never read
        w = _joined(units, x.dtype)
        bias = None if first.conv.bias is None else torch.cat([u.conv.bias.to(x.dtype) for u in units])  # type: ignore[union-attr]
        with in_its_own_type(x):
            c = torch.conv2d(x, w, bias, first.conv.stride, first.conv.padding)
        if first.pool is not None:
            c = kernels.average_pool(channels_last(c), *pool_arguments(first.pool, c.shape))
        if first.norm is None:
            source.save(ctx, x, w)
            return (c,)
        c = channels_last(c)
        normalized = [
            kernels.batch_norm(own, u.norm, u.relu)  # type: ignore[arg-type]
            for u, own in zip(units, _split(c, units, 1), strict=True)
        ]
        maps, affines = zip(*normalized, strict=True)
        source.save(ctx, x, w, c, *affines)
        ctx.mark_non_differentiable(c, *affines)
        return *maps, c, *affines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        units, source = ctx.units, ctx.source
        first = units[0]
        kept, (w, *rest) = source.load(ctx)
        g, norms = gradients[0], []
        if rest:
            c, *affines = rest
            g = torch.empty_like(c)
            own = zip(_split(c, units, 1), _split(g, units, 1), strict=True)
            for each, affine, u, (of_c, of_g) in zip(gradients, affines, units, own, strict=False):
                each = torch.zeros_like(of_c) if each is None else each
                norms.append(kernels.batch_norm_backward(each, of_c, affine, u.relu, of_g))
        g = g.to(w.dtype)
        if first.pool is not None:
            g = kernels.average_pool_backward(g, *pool_arguments(first.pool, g.shape))
        gx, gw, gb = convolution_backward(g, source.maps(kept), w, first.conv, _needed(ctx, units))
        found: list[Tensor | None] = []
        for index, (u, of_w, of_b) in enumerate(zip(units, _split(gw, units, 0), _split(gb, units, 0), strict=True)):
            found += gradient_for(u.conv.weight, of_w), gradient_for(u.conv.bias, of_b)
            found += [each.to(u.norm.weight.dtype) for each in norms[index]] if norms else []
        return gx, None, None, *found


def _widths(units: Sequence[Unit]) -> list[int]:
    return [u.conv.out_channels for u in units]


def _split(whole: Tensor | None, units: Sequence[Unit], dim: int) -> Sequence[Any]:
    """Each unit's part of what all have together: views."""
    if whole is None or len(units) == 1:
        return [whole] * len(units)
    return whole.split(_widths(units), dim)


def gradient_for(own: Tensor | None, gradient: Tensor | None, scale: float = 1.0) -> Tensor | None:
    """A parameter's gradient, in its type and with its strides, as DistributedDataParallel wants it."""
    if own is None or gradient is None:
        return None
    gradient = torch.empty_like(own).copy_(gradient)
    return gradient if scale == 1 else gradient.mul_(scale)


def _joined(units: Sequence[Unit], dtype: torch.dtype) -> Tensor:
    """The weights of all units, in `dtype`: no copy of one that has it."""
    if len(units) == 1:
        return units[0].conv.weight.detach().to(dtype)
    device = units[0].conv.weight.device
    w = torch.empty(sum(_widths(units)), units[0].conv.in_channels, 1, 1, dtype=dtype, device=device)
    for u, own in zip(units, _split(w, units, 0), strict=True):
        own.copy_(u.conv.weight)
    return w


def _needed(ctx: Any, units: Sequence[Unit]) -> tuple[bool, bool, bool]:
    """Which gradients of input, weights and biases are asked for."""
    biases = [u.conv.bias for u in units if u.conv.bias is not None]
    return ctx.needs_input_grad[0], any(u.conv.weight.requires_grad for u in units), any(b.requires_grad for b in biases)


def channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def convolution_backward(
    g: Tensor, x: Tensor, w: Tensor, conv: nn.Conv2d, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, as `needed`."""
    need_x, need_w, need_b = needed
    matrix = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    few, narrow = g.numel() <= FEW * g.shape[1], conv.in_channels <= NARROW
    pays = (few or narrow) if matrix else (few and g.dtype == torch.bfloat16)
    product = need_w and pays
    gw = gb = None
    if product or matrix:
        rows = _rows(g)
        if need_b:  # a sum as a product, in a quarter of the time of `sum`
            gb = (rows.new_ones(1, len(rows)) @ rows)[0]
        if product:
            gw = (rows.t() @ _windows(x, conv)).unflatten(1, (*conv.kernel_size, -1)).permute(0, 3, 1, 2)
    mask = [need_x, need_w and gw is None, need_b and gb is None]
    if any(mask):
        bias, args = [w.shape[0]] if mask[2] else None, (conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups)
        found = torch.ops.aten.convolution_backward(g, x, w, bias, *args, mask)
        gx, gw, gb = (old if new is None else new for old, new in zip((None, gw, gb), found, strict=True))
    else:
        gx = None
    return gx, gw, gb


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N * H * W, C), a view of what is channels_last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _windows(maps: Tensor, conv: nn.Conv2d) -> Tensor:
    """(N, C, H, W) → (N * H' * W', height * width * C): what the window of a convolution covers; a view for a 1x1."""
    assert not isinstance(conv.padding, str)
    (kh, kw), (sh, sw), (ph, pw) = conv.kernel_size, conv.stride, conv.padding
    padded = F.pad(maps, (pw, pw, ph, ph)) if ph or pw else maps
    windows = padded.permute(0, 2, 3, 1).unfold(1, kh, sh).unfold(2, kw, sw).permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(-1, kh * kw * maps.shape[1])
