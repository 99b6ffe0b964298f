"""Convolution, average pool, batch normalization and ReLU as one autograd function."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.network import kernels
from inception_zoo.network.autograd.dispatch import dtype_of, first_derivative, without_autocast
from inception_zoo.network.autograd.narrow import convolve_narrow, is_narrow, width_of
from inception_zoo.network.autograd.pools import pool_arguments
from inception_zoo.network.autograd.recipes import SavedInput, annotate

# Up to these sizes, a weight gradient is faster as a matrix product than by oneDNN (docs/speed.md).
FEW = 1024  # positions, N * H * W
NARROW = 1024  # input channels of a 1x1 convolution, at any number of positions


@dataclass
class Unit:
    """``relu(norm(pool(conv(x))))``; only the convolution is required."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None = None
    relu: bool = False
    pool: nn.AvgPool2d | None = None


def run_units(x: Tensor, units: Sequence[Unit], lean: bool) -> list[Tensor]:
    """Return ``relu(norm(pool(conv(x))))`` of each unit, computed by one autograd function.

    Args:
        x: Feature maps (N, C, H, W).
        units: One unit, or several 1x1 convolutions with batch normalization, which become one matrix product.
        lean: Attach a recipe to the outputs; it saves the convolution's output and ``affine`` instead of the outputs.

    Returns:
        Feature maps (N, K_u, H', W') per unit.
    """
    parameters = [p for u in units for p in (u.conv.weight, u.conv.bias, *((u.norm.weight, u.norm.bias) if u.norm else ()))]
    x = x.to(dtype_of(x))
    results = list(_Convolve.apply(x, units, SavedInput.of(x), lean, *parameters))
    outputs, rest = results[: len(units)], results[len(units) :]
    if lean and rest:
        c, *affines = rest
        for y, affine, u, part in zip(outputs, affines, units, spans(_widths(units)), strict=True):
            annotate(y, (c, affine), _Renormalize(u.relu, part))
    return outputs


@dataclass
class _Renormalize:
    """``y = relu(shift + scale * c[:, part])``, with scale and shift from `affine` (4, K_u)."""

    relu: bool
    part: slice

    def __call__(self, c: Tensor, affine: Tensor) -> Tensor:
        return kernels.normalize(c[:, self.part], affine, self.relu)

    def into(self, out: Tensor, c: Tensor, affine: Tensor) -> None:
        kernels.normalize(c[:, self.part], affine, self.relu, out)


def spans(lengths: Sequence[int]) -> list[slice]:
    """Return consecutive slices of these lengths."""
    return [slice(end - length, end) for length, end in zip(lengths, accumulate(lengths), strict=True)]


class _Convolve(torch.autograd.Function):
    """``c = pool(conv(x, w) + b)``, ``y = relu(gamma * (c - mean(c)) / sqrt(var(c) + eps) + beta)`` for each unit u.

    The units' weights are one w (K, C, kh, kw) with K = sum(K_u), and their outputs are slices of one c (N, K, H', W').
    ``affine`` (4, K_u) holds scale, shift, mean and 1 / standard deviation of the batch.

    Saves for backward: x or the tensors of its recipe; w in the compute dtype, in lean mode the units' weights instead; with
    normalization, also c and ``affine``. Recomputes: x if it has a recipe, w in lean mode, and the mask ``y > 0`` from c and
    ``affine``. Neither y nor the pool's input is saved.

    Backward: ``gc`` is the gradient of normalization and ReLU at c, spread over the pool's windows. Then
    ``gx = conv^T(gc, w)``, ``gw = x^T gc`` over all positions and ``gb = sum(gc)``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, units: Sequence[Unit], source: SavedInput, lean: bool, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Map x (N, C, H, W) to (c,) without normalization, otherwise to each unit's y (N, K_u, H', W'), c, each ``affine``."""
        first = units[0]
        ctx.units, ctx.source, ctx.parameters = units, source, parameters
        ctx.set_materialize_grads(False)  # saves memory: otherwise zeros of the size of `c`, never read
        weights = [u.conv.weight for u in units]
        w, ctx.dtype, ctx.count = _joined(weights, x.dtype), x.dtype, len(weights) if lean else 1
        kept = weights if lean else [w]  # a joined or cast copy takes as much memory as the weights, at any batch size
        bias = None if first.conv.bias is None else torch.cat([u.conv.bias.to(x.dtype) for u in units])  # type: ignore[union-attr]
        with without_autocast(x):
            conv = first.conv
            place = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups}
            run = partial(torch.conv2d, weight=w, bias=bias, **place)
            c = convolve_narrow(run, x, width_of(first.conv))
        if first.pool is not None:
            c = kernels.average_pool(channels_last(c), *pool_arguments(first.pool, c.shape))
        if first.norm is None:
            source.save(ctx, x, *kept)
            return (c,)
        c = channels_last(c)
        normalized = [
            kernels.batch_norm(own, u.norm, u.relu)  # type: ignore[arg-type]
            for u, own in zip(units, _split(c, units, 1), strict=True)
        ]
        outputs, affines = zip(*normalized, strict=True)
        source.save(ctx, x, *kept, c, *affines)
        ctx.mark_non_differentiable(c, *affines)
        return *outputs, c, *affines

    @staticmethod
    @first_derivative
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Map the gradients of the outputs to those of x, and of weight, bias, gamma and beta of each unit."""
        units, source = ctx.units, ctx.source
        first = units[0]
        saved, others = source.load(ctx)
        kept, rest = others[: ctx.count], others[ctx.count :]
        w = _joined(kept, ctx.dtype)
        g, norms = gradients[0], []
        if rest:
            c, *affines = rest
            g = torch.empty_like(c)
            parts = zip(_split(c, units, 1), _split(g, units, 1), strict=True)
            for each, affine, u, (of_c, of_g) in zip(gradients, affines, units, parts, strict=False):
                each = torch.zeros_like(of_c) if each is None else each
                norms.append(kernels.batch_norm_backward(each, of_c, affine, u.relu, of_g))
        g = g.to(w.dtype)
        if first.pool is not None:
            g = kernels.average_pool_backward(g, *pool_arguments(first.pool, g.shape))
        gx, gw, gb = convolution_backward(g, source.restore(saved), w, first.conv, _needed(ctx))
        found: list[Tensor | None] = []
        own = iter(ctx.parameters)  # not those of the modules: they may be others by now, as in torch.func.functional_call
        for index, (of_w, of_b) in enumerate(zip(_split(gw, units, 0), _split(gb, units, 0), strict=True)):
            found += gradient_for(next(own), of_w), gradient_for(next(own), of_b)
            found += [each.to(next(own).dtype) for each in norms[index]] if norms else []
        return gx, None, None, None, *found


def _widths(units: Sequence[Unit]) -> list[int]:
    return [u.conv.out_channels for u in units]


def _split(whole: Tensor | None, units: Sequence[Unit], dim: int) -> Sequence[Any]:
    """Return each unit's part of a tensor for all units, as views."""
    if whole is None or len(units) == 1:
        return [whole] * len(units)
    return whole.split(_widths(units), dim)


def gradient_for(own: Tensor | None, gradient: Tensor | None, scale: float = 1.0) -> Tensor | None:
    """Return ``scale * gradient`` with the dtype and strides of its parameter `own` (same shape), as DDP requires."""
    if own is None or gradient is None:
        return None
    gradient = torch.empty_like(own).copy_(gradient)
    return gradient if scale == 1 else gradient.mul_(scale)


def _joined(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the units' weights (K_u, C, kh, kw) as one (K, C, kh, kw) in `dtype`; no copy of a single one in this dtype."""
    if len(weights) == 1:
        return weights[0].detach().to(dtype)
    heights = [len(each) for each in weights]
    w = torch.empty(sum(heights), *weights[0].shape[1:], dtype=dtype, device=weights[0].device)
    for each, own in zip(weights, w.split(heights), strict=True):
        own.copy_(each)
    return w


def _needed(ctx: Any) -> tuple[bool, bool, bool]:
    """Return True for each gradient that is needed: of the input, the weights, the biases."""
    (of_x, _, _, _, *others), each = ctx.needs_input_grad, len(ctx.parameters) // len(ctx.units)
    return of_x, any(others[::each]), any(others[1::each])


def channels_last(x: Tensor) -> Tensor:
    """Return `x` (N, C, H, W) in the channels_last memory format; a copy only if it has another format."""
    return x.contiguous(memory_format=torch.channels_last)


def convolution_backward(
    g: Tensor, x: Tensor, w: Tensor, conv: nn.Conv2d, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of ``y = conv(x, w) + b``; None for those that are not `needed`.

    The weight gradient over few positions or input channels, or of a strided 1x1, is the matrix product
    ``gw = g^T @ windows(x)``. The bias gradient of a 1x1 is ``ones @ g``. oneDNN computes the rest.

    Args:
        g: Gradient of y, (N, K, H', W'), channels_last.
        x: Input of the convolution, (N, C, H, W), channels_last.
        w: Weight (K, C, kh, kw), in the dtype of g.
        conv: The module; gives kernel, stride, padding, dilation and groups.
        needed: True for each gradient to compute: of x, w and b.

    Returns:
        Gradients of x (N, C, H, W), w (K, C, kh, kw) and b (K).
    """
    if is_narrow(x, *(width := width_of(conv))):  # two columns of outputs, as in the forward pass
        gx, gw, gb = convolution_backward(F.pad(g, (0, 1)), F.pad(x, (0, width[1])), w, conv, needed)
        return None if gx is None else channels_last(gx[..., : x.shape[-1]]), gw, gb
    need_x, need_w, need_b = needed
    whole = conv.groups == 1 and conv.dilation == (1, 1)
    matrix = whole and conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    few, narrow = g.numel() <= FEW * g.shape[1], conv.in_channels <= NARROW
    pays = (few or narrow) if matrix else (few and g.dtype == torch.bfloat16)
    aborts = conv.kernel_size == (1, 1) and conv.stride != (1, 1)  # oneDNN 3.12, in some of these
    product = need_w and whole and (pays or aborts)
    gw = gb = None
    if product or matrix:
        rows = _rows(g)
        with without_autocast(g):  # of a user who calls `backward` inside a region
            if need_b:  # takes a quarter of the time of `sum`
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


def _rows(x: Tensor) -> Tensor:
    """Reshape (N, C, H, W) → (N * H * W, C); a view if `x` is channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _windows(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Unfold (N, C, H, W) → (N * H' * W', kh * kw * C), one row per window of the convolution; a view for a 1x1."""
    assert not isinstance(conv.padding, str)
    (kh, kw), (sh, sw), (ph, pw) = conv.kernel_size, conv.stride, conv.padding
    padded = F.pad(x, (pw, pw, ph, ph)) if ph or pw else x
    windows = padded.permute(0, 2, 3, 1).unfold(1, kh, sh).unfold(2, kw, sw).permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(-1, kh * kw * x.shape[1])
