"""What a network's modules do in training, each as the mode of memory and the device want it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from inception_zoo import kernels
from inception_zoo.memory.pools import AnyPool, Pool, windows
from inception_zoo.memory.recipes import Maker, Source, annotate, recipe_of
from inception_zoo.memory.segments import is_running_again
from inception_zoo.memory.units import Unit, channels_last, dtype_of, in_its_own_type, run_units, spans, times

Maps = Callable[[Tensor], Tensor]


def recording(module: nn.Module) -> bool:
    """Whether a backward pass of ours may follow; what is compiled, traced or exported runs as PyTorch's own modules."""
    return module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def by_kernels(maps: Tensor) -> bool:
    return kernels.ready(maps) and dtype_of(maps) in kernels.DTYPES


def convolve(x: Tensor, parts: Any, pool: nn.AvgPool2d | None, lean: bool) -> Tensor:
    """Convolution, normalization and activation (`parts.conv`, `.norm`, `.act`, of which the last two may be missing)."""
    norm, act = (getattr(parts, name, None) for name in ("norm", "act"))
    if takes_kernels(x, parts):
        return run_units(x, [Unit(parts.conv, norm, act is not None, pool)], lean)[0]
    if not lean or _is_changed(parts) or isinstance(norm, nn.SyncBatchNorm):  # which would meet the other processes again
        return nn.Sequential.forward(parts, x)
    (c,) = run_units(x, [Unit(parts.conv)], lean)
    if norm is None and isinstance(act, nn.ReLU):  # whose result is all that it keeps
        y = F.relu(c)
        return annotate(y, (y,), lambda y: y)
    if norm is None and act is None:
        return c
    parameters = list(parts.parameters())[sum(1 for _ in parts.conv.parameters()) :]
    return rerun(c, lambda c: _finish(parts, c, track=True), lambda c: _finish(parts, c, track=False), parameters)


def _finish(parts: nn.Sequential, c: Tensor, track: bool) -> Tensor:
    """Normalization and activation, neither of them in place of `c`."""
    norm, act = (getattr(parts, name, None) for name in ("norm", "act"))
    with in_its_own_type(c):
        if isinstance(norm, nn.BatchNorm2d) and norm.training and not track:
            c = F.batch_norm(c, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        elif norm is not None:
            c = norm(c)
        elif act is not None:
            c = c.clone()
        return c if act is None else act(c)


def _is_changed(parts: nn.Module) -> bool:
    """Whether a user has put another convolution in, or hooks, which are called with modules only."""
    hooked = any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in parts.modules()
    )
    return type(getattr(parts, "conv", None)) is not nn.Conv2d or hooked


def takes_kernels(x: Tensor, parts: nn.Module) -> bool:
    """Whether `convolve` takes our kernels: batch statistics, and ReLU or nothing after it."""
    norm, act = getattr(parts, "norm", None), getattr(parts, "act", None)
    if _is_changed(parts):
        return False
    usual = type(norm) is nn.BatchNorm2d and norm.training and norm.affine and norm.momentum is not None
    return usual and (act is None or isinstance(act, nn.ReLU)) and by_kernels(x)


def pooled(x: Tensor, pool: AnyPool, usual: Maps, lean: bool) -> Tensor:
    """What `pool` makes of maps; `usual` is PyTorch's way."""
    if not by_kernels(x) or not x.is_contiguous(memory_format=torch.channels_last):
        return rerun(x, usual, usual) if lean else usual(x)
    return Pool.apply(x, pool)  # and kept: to pool again would take longer than all the rest


class _Again:
    def __init__(self, make: Callable[..., Tensor], then: Maps) -> None:
        self.make, self.then = make, then

    def __call__(self, *kept: Tensor) -> Tensor:
        with torch.no_grad():
            return self.then(self.make(*kept))


def rerun(x: Tensor, first: Maps, again: Maps, parameters: Sequence[Tensor] = ()) -> Tensor:
    """``first(x)``; ``again``, the same without side effects, runs in the backward pass. For what has no kernel of ours."""
    recipe = recipe_of(x)
    y = _Rerun.apply(x, Source.of(x), first, again, *parameters)
    make = recipe.make if recipe else (lambda x: x)
    return annotate(y, recipe.kept if recipe else (x,), _Again(make, again))


class _Rerun(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Source, first: Maps, again: Maps, *parameters: Tensor) -> Tensor:
        ctx.source, ctx.again = source, again
        source.save(ctx, x, *parameters)
        return (again if is_running_again() else first)(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        kept, parameters = ctx.source.load(ctx)
        x = ctx.source.maps(kept).detach().requires_grad_()
        with torch.enable_grad():
            gx, *others = torch.autograd.grad(ctx.again(x), [x, *parameters], g)
        return gx, None, None, None, *others


def run_steps(steps: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Modules one after the other; an average pool before a 1x1 after it, where there are fewer channels: the same sums."""
    left = list(steps)
    while left:
        step = left.pop(0)
        unit = left[0] if left else None
        swapped = unit is not None and commute(step, unit) and takes_kernels(x, unit)
        x = left.pop(0)(x, step) if swapped else step(x)
    return x


def commute(pool: nn.Module, unit: nn.Module) -> bool:
    """Whether `pool` is an average that keeps the grid, and the convolution of `unit` is but a matrix."""
    if not isinstance(pool, nn.AvgPool2d) or not is_matrix(unit):
        return False
    return all(k == 2 * p + 1 and s == 1 for k, s, p in windows(pool))


def is_matrix(unit: nn.Module) -> bool:
    """Whether the convolution of a unit is 1x1, without stride or bias."""
    conv = getattr(unit, "conv", None)
    if not isinstance(conv, nn.Conv2d):
        return False
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0) and conv.bias is None


def run_branches(branches: Iterable[nn.Module], x: Tensor, lean: bool) -> Tensor:
    """What rows make of the same maps, concatenated. The 1x1s that open several of them are one matrix product."""
    every = list(branches)
    first: dict[nn.Module, Any] = {branch: unit for branch in every if (unit := opening(branch, x)) is not None}
    units = [Unit(unit.conv, unit.norm, hasattr(unit, "act")) for unit in first.values()]
    opened = dict(zip(first, run_units(x, units, lean), strict=True)) if len(units) > 1 else {}
    parts = [branch(opened[branch], 1) if branch in opened else branch(x) for branch in every]
    return concatenated(parts, lean)


def opening(branch: nn.Module, x: Tensor) -> nn.Module | None:
    """A row's first step, if it is a 1x1 by our kernels."""
    unit = branch[0] if isinstance(branch, nn.Sequential) else None
    return unit if unit is not None and is_matrix(unit) and takes_kernels(x, unit) else None


def concatenated(parts: Sequence[Tensor], lean: bool) -> Tensor:
    y = torch.cat(list(parts), 1)
    recipes = [recipe_of(part) for part in parts]
    if not lean or not any(recipes):
        return y
    kept = [recipe.kept if recipe else (part,) for part, recipe in zip(parts, recipes, strict=True)]
    makes = [recipe.make if recipe else Maker(lambda x: x) for recipe in recipes]
    shape, y_dtype = y.shape, y.dtype
    widths, counts = [part.shape[1] for part in parts], [len(each) for each in kept]

    def join(*kept: Tensor) -> Tensor:
        joined = torch.empty(shape, dtype=y_dtype, device=kept[0].device, memory_format=torch.channels_last)
        for make, channels, some in zip(makes, spans(widths), spans(counts), strict=True):
            make.into(joined[:, channels], *kept[some])
        return joined

    return annotate(y, [t for each in kept for t in each], join)


def residual(x: Tensor, joined: Tensor, project: nn.Conv2d, scale: float, relu: bool, lean: bool) -> Tensor:
    """``relu(x + scale * project(joined))``. Lean, of a chain of sums every other one is made again of the one before it."""
    (branches,) = run_units(joined, [Unit(project, scale=scale)], lean)
    recipe = recipe_of(joined)
    if not lean or recipe is None or recipe_of(x) is not None or not relu:
        return _Sum.apply(x, branches, relu, Source())
    bias = () if project.bias is None else (project.bias,)

    def make(x: Tensor, weight: Tensor, *kept: Tensor) -> Tensor:
        b = None if not bias else times(kept[0].to(x.dtype), scale)
        return torch.conv2d(recipe.make(*kept[len(bias) :]), times(weight.to(x.dtype), scale), b).add_(x).relu_()

    maker, kept = Maker(make), (x, project.weight, *bias, *recipe.kept)
    return annotate(_Sum.apply(x, branches, relu, Source(maker, kept)), kept, maker)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branches: Tensor, relu: bool, source: Source) -> Tensor:
        ctx.relu, ctx.source = relu, source
        y = x + branches
        if relu:
            source.save(ctx, y.relu_())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        g = channels_last(g)  # what comes from a pool over the whole grid is not, and would hand it on along the chain
        if ctx.relu:
            kept, _ = ctx.source.load(ctx)
            g = torch.ops.aten.threshold_backward(g, ctx.source.maps(kept), 0)
        return g, g, None, None
