"""Forward passes in training for the modules of `network.blocks`; they depend on the memory mode and the device."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.network.autograd.dispatch import autocast_of, by_kernels, without_autocast
from inception_zoo.network.autograd.pools import Pool, has_kernel, windows
from inception_zoo.network.autograd.recipes import Recompute, annotate, recipe_of, rerun
from inception_zoo.network.autograd.snapshot import Snapshot
from inception_zoo.network.autograd.sums import add
from inception_zoo.network.autograd.units import Unit, run_units, spans

PARTS = {"conv", "norm", "act"}  # of a convolution unit
REPEATABLE = {kind.__module__ for kind in (nn.ReLU, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)}


def convolve(unit: Any, x: Tensor, pool: nn.AvgPool2d | None = None) -> Tensor:
    """Return ``act(norm(pool(conv(x))))`` of a `ConvUnit`, which may lack `norm` and `act`.

    Args:
        unit: The module.
        x: Feature maps (N, C, H, W).
        pool: An average pool that `run_steps` moved after the convolution; requires `takes_kernels`.

    Returns:
        Feature maps (N, K, H', W').
    """
    norm, act = (getattr(unit, name, None) for name in ("norm", "act"))
    if takes_kernels(x, unit):
        return run_units(x, [Unit(unit.conv, norm, act is not None, pool)], unit.lean)[0]
    if not unit.lean or is_changed(unit) or not (is_repeatable(norm) and is_repeatable(act)):
        return unit.plain(x)
    (c,) = run_units(x, [Unit(unit.conv)], unit.lean)
    if norm is None and isinstance(act, nn.ReLU):  # ReLU saves only its output
        y = F.relu(c)
        return annotate(y, (y,), lambda y: y)
    if norm is None and act is None:
        return c
    parameters = list(unit.parameters())[sum(1 for _ in unit.conv.parameters()) :]
    return rerun(c, partial(_finish, unit), parameters, Snapshot(unit))


def _finish(unit: nn.Sequential, c: Tensor) -> Tensor:
    """Return ``act(norm(c))``, without changing `c` in place."""
    norm, act = (getattr(unit, name, None) for name in ("norm", "act"))
    with without_autocast(c):
        c = c.clone() if norm is None else norm(c)
        return c if act is None else act(c)


def pooled(pool: Any, x: Tensor) -> Tensor:
    """Return ``pool(x)`` of a `MaxPool` or `AvgPool`: (N, C, H, W) → (N, C, H', W')."""
    if has_kernel(pool, x):
        return Pool.apply(x, pool)
    return rerun(x, pool.plain) if pool.lean else pool.plain(x)


def repeated(layer: Any, x: Tensor) -> Tensor:
    """Return ``layer(x)`` of a layer that is cheap to repeat, which lean mode does: (N, C, H, W) → (N, C, H', W')."""
    if not layer.lean or is_hooked(layer) or not all(map(is_repeatable, layer.children())):
        return layer.plain(x)
    again = autocast_of(x)  # the backward pass runs outside of autocast

    def run(x: Tensor) -> Tensor:
        with again():
            return layer.plain(x)

    return rerun(x, run, list(layer.parameters()), Snapshot(layer))


def run_steps(steps: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run modules one after the other: (N, C, H, W) → (N, K, H', W').

    An average pool before a 1x1 convolution runs after it instead: both are linear and commute, and there are fewer channels.
    """
    left = list(steps)
    while left:
        step = left.pop(0)
        unit = left[0] if left else None
        swapped = unit is not None and commute(step, unit) and takes_kernels(x, unit)
        x = convolve(left.pop(0), x, step) if swapped else step(x)  # type: ignore[arg-type]
    return x


def run_branches(concat: Any, x: Tensor) -> Tensor:
    """Return ``cat([branch(x) for branch in concat], 1)``: (N, C, H, W) → (N, sum(K_i), H', W').

    All 1x1 convolutions that read `x` are computed as one matrix product.
    """
    if len(concat) == 1:
        return concat.plain(x)
    first: dict[nn.Module, Any] = {branch: unit for branch in concat if (unit := opening(branch, x)) is not None}
    units = [Unit(unit.conv, unit.norm, hasattr(unit, "act")) for unit in first.values()]
    opened = dict(zip(first, run_units(x, units, concat.lean), strict=True)) if len(units) > 1 else {}
    parts = [run_steps(list(branch)[1:], opened[branch]) if branch in opened else branch(x) for branch in concat]
    return concatenated(parts, concat.lean)


def concatenated(parts: Sequence[Tensor], lean: bool) -> Tensor:
    """Return ``cat(parts, 1)``; in lean mode with a recipe that recomputes each part into its slice of the result.

    Args:
        parts: Feature maps (N, C_i, H, W).
        lean: Attach the recipe.

    Returns:
        Feature maps (N, sum(C_i), H, W).
    """
    y = torch.cat(list(parts), 1)
    recipes = [recipe_of(part) for part in parts]
    if not lean or not any(recipes) or any(part.dtype != y.dtype for part in parts):
        return y
    saved = [recipe.saved if recipe else (part,) for part, recipe in zip(parts, recipes, strict=True)]
    functions = [recipe.recompute if recipe else Recompute(lambda x: x) for recipe in recipes]
    shape, y_dtype = y.shape, y.dtype
    widths, counts = [part.shape[1] for part in parts], [len(each) for each in saved]

    def join(*saved: Tensor) -> Tensor:
        joined = torch.empty(shape, dtype=y_dtype, device=saved[0].device, memory_format=torch.channels_last)
        for function, channels, some in zip(functions, spans(widths), spans(counts), strict=True):
            function.into(joined[:, channels], *saved[some])
        return joined

    return annotate(y, [t for each in saved for t in each], join)


def residual(block: Any, x: Tensor) -> Tensor:
    """Return ``act(shortcut(x) + scale * project(concat(x)))`` of a `ResidualBlock`: (N, C, H, W) → (N, K, H', W')."""
    if not (block.lean or by_kernels(x)) or not is_plain_sum(block):
        return block.plain(x)
    joined = block.concat(x)
    return add(block.shortcut(x), joined, block.project, block.scale, isinstance(block.act, nn.ReLU), block.lean)


def takes_kernels(x: Tensor, unit: nn.Module) -> bool:
    """Return True if `convolve` can use the CPU kernels for `x` (N, C, H, W).

    They support BatchNorm in training mode, followed by ReLU or nothing.
    """
    norm, act = (unit._modules.get(name) for name in ("norm", "act"))
    usual = type(norm) is nn.BatchNorm2d and norm.training and norm.affine and norm.momentum is not None
    return usual and (act is None or type(act) is nn.ReLU) and by_kernels(x) and not is_changed(unit)


def opening(branch: Any, x: Tensor) -> nn.Module | None:
    """Return the first step of a row if it is a 1x1 convolution that can use the CPU kernels for `x` (N, C, H, W)."""
    ours = isinstance(branch, nn.Sequential) and hasattr(branch, "lean") and len(branch) and not is_hooked(branch)
    unit = branch[0] if ours else None
    return unit if unit is not None and _is_matrix(unit._modules.get("conv"), bias=False) and takes_kernels(x, unit) else None


def commute(pool: nn.Module, unit: nn.Module) -> bool:
    """Return True if `pool` is an average pool that keeps the grid, and the convolution of `unit` is a 1x1 without bias."""
    if not isinstance(pool, nn.AvgPool2d) or pool.divisor_override or is_hooked(pool):
        return False
    return _is_matrix(unit._modules.get("conv"), bias=False) and all(k == 2 * p + 1 and s == 1 for k, s, p in windows(pool))


def is_plain_sum(block: Any) -> bool:
    """Return True if a residual block consists of a 1x1 convolution, a sum and an optional ReLU, without hooks."""
    parts = block.project, block.drop, block.act
    usual = type(block.drop) is nn.Identity and type(block.act) in (nn.ReLU, nn.Identity)
    return usual and _is_matrix(block.project) and not any(map(is_hooked, parts))


def is_changed(unit: nn.Module) -> bool:
    """Return True if `unit` is not a `ConvUnit`, or a user has replaced or added a layer or a hook in it."""
    known = hasattr(unit, "lean") and _is_plain(unit._modules.get("conv")) and unit._modules.keys() <= PARTS
    return not known or any(map(is_hooked, (unit, *unit.children())))


def is_repeatable(layer: nn.Module | None) -> bool:
    """Return True for PyTorch's normalizations and activations that give the same again: no draws, no communication."""
    known = layer is None or type(layer).__module__ in REPEATABLE
    return known and not isinstance(layer, nn.RReLU | nn.SyncBatchNorm)


def is_hooked(module: nn.Module) -> bool:
    """Return True if a module has hooks. The training path would skip them: they run only if the module is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def _is_plain(conv: nn.Module | None) -> bool:
    """Return True for a convolution with zero padding, given as numbers."""
    return type(conv) is nn.Conv2d and not isinstance(conv.padding, str) and conv.padding_mode == "zeros"


def _is_matrix(conv: nn.Module | None, bias: bool = True) -> bool:
    """Return True for a 1x1 convolution of stride 1 without padding; with a bias only if `bias` is True."""
    if not isinstance(conv, nn.Conv2d) or not _is_plain(conv):
        return False
    one = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
    return one and (bias or conv.bias is None)
