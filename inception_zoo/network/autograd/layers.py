"""What a network's modules do in training, each as the mode of memory and the device want it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from inception_zoo.network import kernels
from inception_zoo.network.autograd.pools import AnyPool, Pool, windows
from inception_zoo.network.autograd.recipes import Maker, Source, annotate, recipe_of
from inception_zoo.network.autograd.segments import learning_apart
from inception_zoo.network.autograd.units import (
    Unit,
    channels_last,
    convolution_backward,
    dtype_of,
    gradient_for,
    in_its_own_type,
    run_units,
    spans,
)

Maps = Callable[[Tensor], Tensor]
PARTS = {"conv", "norm", "act"}  # of a convolution unit


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
    if not lean or is_changed(parts) or isinstance(norm, nn.SyncBatchNorm):  # which would meet the other processes again
        return nn.Sequential.forward(parts, x)
    (c,) = run_units(x, [Unit(parts.conv)], lean)
    if norm is None and isinstance(act, nn.ReLU):  # whose result is all that it keeps
        y = F.relu(c)
        return annotate(y, (y,), lambda y: y)
    if norm is None and act is None:
        return c
    parameters = list(parts.parameters())[sum(1 for _ in parts.conv.parameters()) :]
    finish = partial(_finish, parts)
    return rerun(c, finish, learning_apart(parts)(finish), parameters)


def _finish(parts: nn.Sequential, c: Tensor) -> Tensor:
    """Normalization and activation, neither of them in place of `c`."""
    norm, act = (getattr(parts, name, None) for name in ("norm", "act"))
    with in_its_own_type(c):
        if norm is not None:
            c = norm(c)
        elif act is not None:
            c = c.clone()
        return c if act is None else act(c)


def is_hooked(module: nn.Module) -> bool:
    """Whether a user has hooks there, which are called with modules only."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def is_changed(unit: nn.Module) -> bool:
    """Whether it is no convolution unit of ours, or a user has put something else into it, or hooks."""
    known = hasattr(unit, "lean") and _is_plain(unit._modules.get("conv")) and unit._modules.keys() <= PARTS
    return not known or any(map(is_hooked, (unit, *unit.children())))


def _is_plain(conv: nn.Module | None) -> bool:
    """Whether kernel, stride and padding are all that there is to say of a convolution."""
    if type(conv) is not nn.Conv2d or isinstance(conv.padding, str):
        return False
    return conv.dilation == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"


def takes_kernels(x: Tensor, unit: nn.Module) -> bool:
    """Whether `convolve` takes our kernels: batch statistics, and ReLU or nothing after it."""
    norm, act = (unit._modules.get(name) for name in ("norm", "act"))
    usual = type(norm) is nn.BatchNorm2d and norm.training and norm.affine and norm.momentum is not None
    return usual and (act is None or type(act) is nn.ReLU) and by_kernels(x) and not is_changed(unit)


def is_plain_sum(block: Any) -> bool:
    """Whether a residual block is a 1x1, a sum and perhaps ReLU, without hooks."""
    parts = block.project, block.drop, block.act
    usual = type(block.drop) is nn.Identity and type(block.act) in (nn.ReLU, nn.Identity)
    return usual and _is_matrix(block.project) and not any(map(is_hooked, parts))


def pooled(x: Tensor, pool: AnyPool, usual: Maps, lean: bool) -> Tensor:
    """What `pool` makes of maps; `usual` is PyTorch's way."""
    (height, *_), (width, *_) = windows(pool)
    in_a_byte = height * width <= 256  # where in its window a maximum was found
    if not by_kernels(x) or not in_a_byte or not x.is_contiguous(memory_format=torch.channels_last):
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
        return first(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        kept, parameters = ctx.source.load(ctx)
        x = ctx.source.maps(kept).detach().requires_grad_()
        learnt = [p for p in parameters if p.requires_grad]
        with torch.enable_grad():
            gx, *found = torch.autograd.grad(ctx.again(x), [x, *learnt], g)
        gradients = iter(found)
        return gx, None, None, None, *(next(gradients) if p.requires_grad else None for p in parameters)


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
    if not isinstance(pool, nn.AvgPool2d) or pool.divisor_override or is_hooked(pool):
        return False
    return _is_matrix(unit._modules.get("conv"), bias=False) and all(k == 2 * p + 1 and s == 1 for k, s, p in windows(pool))


def _is_matrix(conv: nn.Module | None, bias: bool = True) -> bool:
    """Whether a convolution is 1x1, without stride; `bias`: it may have one."""
    if not isinstance(conv, nn.Conv2d) or not _is_plain(conv):
        return False
    one = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    return one and (bias or conv.bias is None)


def run_branches(branches: Iterable[nn.Module], x: Tensor, lean: bool) -> Tensor:
    """What rows make of the same maps, concatenated. The 1x1s that open several of them are one matrix product."""
    every: list[Any] = list(branches)
    first: dict[nn.Module, Any] = {branch: unit for branch in every if (unit := opening(branch, x)) is not None}
    units = [Unit(unit.conv, unit.norm, hasattr(unit, "act")) for unit in first.values()]
    opened = dict(zip(first, run_units(x, units, lean), strict=True)) if len(units) > 1 else {}
    return concatenated([branch.run(opened[branch], 1) if branch in opened else branch(x) for branch in every], lean)


def opening(branch: Any, x: Tensor) -> nn.Module | None:
    """A row's first step, if it is a 1x1 by our kernels."""
    unit = branch[0] if hasattr(branch, "run") and len(branch) and not is_hooked(branch) else None
    return unit if unit is not None and _is_matrix(unit._modules.get("conv"), bias=False) and takes_kernels(x, unit) else None


def concatenated(parts: Sequence[Tensor], lean: bool) -> Tensor:
    y = torch.cat(list(parts), 1)
    recipes = [recipe_of(part) for part in parts]
    if not lean or not any(recipes) or any(part.dtype != y.dtype for part in parts):
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


@dataclass
class _Addition:
    """``relu(x + scale * project(joined))``: `source` makes `joined` again, `sums` the result."""

    project: nn.Conv2d
    scale: float
    relu: bool
    source: Source
    sums: Source

    def __call__(self, x: Tensor, joined: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """In one call of oneDNN where it can."""
        weight, *rest = self.scaled(parameters, joined.dtype)
        bias = rest[0] if rest else None
        if x.dtype == joined.dtype and kernels.ready(joined) and kernels.in_one_call(joined.dtype):
            return kernels.convolve_and_add(joined, x, weight, bias, ([0, 0], [1, 1], [1, 1], 1), self.relu)
        with in_its_own_type(joined):
            y = x + torch.conv2d(joined, weight, bias)
        return y.relu_() if self.relu else y

    def scaled(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        typed = (p.detach().to(dtype) for p in parameters)
        return [p if self.scale == 1 else p * self.scale for p in typed]


def residual(x: Tensor, joined: Tensor, project: nn.Conv2d, scale: float, relu: bool, lean: bool) -> Tensor:
    """``relu(x + scale * project(joined))``. Lean, of a chain of sums every other one is made again of the one before it."""
    joined = joined.to(dtype_of(joined))
    parameters = [p for p in (project.weight, project.bias) if p is not None]
    recipe, add = recipe_of(joined), _Addition(project, scale, relu, Source.of(joined), Source())
    if not lean or recipe is None or recipe_of(x) is not None or not relu:
        return _Add.apply(x, joined, add, *parameters)
    join, again = recipe.make, replace(add)  # not the recipe, which holds what is to be let go

    def make(x: Tensor, *kept: Tensor) -> Tensor:
        return again(x, join(*kept[len(parameters) :]), kept[: len(parameters)])

    maker, kept = Maker(make), (x, *parameters, *recipe.kept)
    add.sums = Source(maker, kept)
    return annotate(_Add.apply(x, joined, add, *parameters), kept, maker)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, joined: Tensor, add: _Addition, *parameters: Tensor) -> Tensor:
        ctx.add = add
        y = add(x, joined, parameters)
        add.source.save(ctx, joined, parameters[0], *(add.sums.take(y) if add.relu else ()))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        add = ctx.add
        kept, (weight, *kept_of_sums) = add.source.load(ctx)
        g = channels_last(g)  # what comes from a pool over the whole grid is not, and would hand it on along the chain
        if add.relu:
            g = torch.ops.aten.threshold_backward(g, add.sums.maps(kept_of_sums), 0)
        joined = add.source.maps(kept)
        (w,), own = add.scaled([weight], joined.dtype), (add.project.weight, add.project.bias)
        needed = ctx.needs_input_grad[1], *(p is not None and p.requires_grad for p in own)
        g_joined, *found = convolution_backward(g.to(w.dtype), joined, w, add.project, needed)
        parts = (gradient_for(p, each, add.scale) for p, each in zip(own, found, strict=True) if p is not None)
        return g, g_joined, None, *parts
