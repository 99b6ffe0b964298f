"""What training keeps of the forward pass for the backward pass, and how the rest is made again: `model.memory`.

    plain    the output of every convolution, and the maps that every convolution reads
    lean     the output of every convolution; what is made of it cheaply (normalized, activated, pooled, joined) is made again
    minimal  the maps between the segments of the network; each segment runs once more, lean

Maps that can be made again carry a recipe; whoever reads them keeps what the recipe needs, in place of the maps. Loss and
gradients are the same in every mode, to rounding. On CPUs our own kernels do the work, in plain, too: `inception_zoo.kernels`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from inception_zoo import kernels

Maps = Callable[[Tensor], Tensor]
FEW = 1024  # rows: of a 1x1 on no more of them, oneDNN's weight gradient takes up to twice the time of a matrix product
_running_again = False  # a segment, for the backward pass


class Maker:
    """Makes maps again, once for all who read them: they stay until the last of `users` has them."""

    def __init__(self, make: Callable[..., Tensor]) -> None:
        self.make, self.users = make, 0
        self.made: Tensor | None = None

    def __call__(self, *kept: Tensor) -> Tensor:
        return self.made if self.made is not None else self.make(*kept)

    def into(self, out: Tensor, *kept: Tensor) -> None:
        if self.made is None and isinstance(self.make, _Renormalize):
            self.make(kept[0], kept[1], out)
        else:
            out.copy_(self(*kept))

    def serve(self, *kept: Tensor) -> Tensor:
        """For one of the users."""
        made = self(*kept)
        self.users -= 1
        self.made = made if self.users > 0 else None
        return made


@dataclass(frozen=True)
class Recipe:
    """The tensors that maps can be made of; `version` tells whether somebody has changed the maps since."""

    make: Maker
    kept: tuple[Tensor, ...]
    version: int


def annotate(maps: Tensor, kept: Sequence[Tensor], make: Callable[..., Tensor]) -> Tensor:
    maps.recipe = Recipe(Maker(make), tuple(t.detach() for t in kept), maps._version)  # type: ignore[attr-defined]
    return maps


def recipe_of(maps: Tensor) -> Recipe | None:
    recipe = getattr(maps, "recipe", None)
    return recipe if recipe and recipe.version == maps._version else None


class Source:
    """What a function reads, as it keeps it: the maps, or what their recipe needs."""

    def __init__(self, maps: Tensor) -> None:
        recipe = recipe_of(maps)
        self.maker = recipe.make if recipe else None
        self._kept = recipe.kept if recipe else None
        if self.maker:
            self.maker.users += 1

    def save(self, ctx: Any, maps: Tensor, *others: Tensor) -> None:
        kept, self._kept = self._kept or (maps,), None  # from here on the tensors are autograd's alone
        self.count = len(kept)
        ctx.save_for_backward(*kept, *others)

    def load(self, ctx: Any) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        saved = ctx.saved_tensors  # read once: a segment runs for it
        return saved[: self.count], saved[self.count :]

    def maps(self, kept: Sequence[Tensor]) -> Tensor:
        return self.maker.serve(*kept) if self.maker else kept[0]


def recording(module: nn.Module) -> bool:
    """Whether a backward pass of ours may follow; what is compiled, traced or exported runs as PyTorch's own modules."""
    return module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


@dataclass
class Unit:
    """A convolution (its weights times `scale`), an average pool, batch normalization and ReLU."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None = None
    relu: bool = False
    pool: nn.AvgPool2d | None = None
    scale: float = 1.0


def run_units(x: Tensor, units: Sequence[Unit], lean: bool) -> list[Tensor]:
    """What each unit makes of the same maps, in one step of autograd. Several must be 1x1 and normalized: one product."""
    parameters = [p for u in units for p in (u.conv.weight, u.conv.bias, *((u.norm.weight, u.norm.bias) if u.norm else ()))]
    made = list(_Convolve.apply(x.to(_dtype(x)), units, Source(x), *parameters))
    maps, rest = made[: len(units)], made[len(units) :]
    if lean and rest:
        c, *affines = rest
        for y, affine, u, part in zip(maps, affines, units, _parts(units), strict=True):
            annotate(y, (c, affine), _Renormalize(u.relu, part))
    return maps


@dataclass
class _Renormalize:
    relu: bool
    part: slice

    def __call__(self, c: Tensor, affine: Tensor, out: Tensor | None = None) -> Tensor:
        return kernels.normalize(c[:, self.part], affine, self.relu, out)


def _parts(units: Sequence[Unit]) -> list[slice]:
    """The channels of each unit."""
    return _spans([u.conv.out_channels for u in units])


def _spans(lengths: Sequence[int]) -> list[slice]:
    """What follows one after the other."""
    return [slice(end - length, end) for length, end in zip(lengths, accumulate(lengths), strict=True)]


def _in_its_own_type(maps: Tensor) -> AbstractContextManager[Any]:
    device = maps.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _dtype(maps: Tensor) -> torch.dtype:
    device = maps.device.type
    known = torch.amp.is_autocast_available(device)  # not for meta
    return torch.get_autocast_dtype(device) if known and torch.is_autocast_enabled(device) else maps.dtype


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, units: Sequence[Unit], source: Source, *_: Tensor | None) -> tuple[Tensor, ...]:
        first = units[0]
        ctx.units, ctx.source = units, source
        w = _joined(units, x.dtype)
        bias = None if first.conv.bias is None else torch.cat([_times(u.conv.bias.to(x.dtype), u.scale) for u in units])  # type: ignore[union-attr]
        with _in_its_own_type(x):
            c = torch.conv2d(x, w, bias, first.conv.stride, first.conv.padding)
        if first.pool is not None:
            c = kernels.average_pool(_channels_last(c), *_pooled(first.pool, c))
        if first.norm is None:
            source.save(ctx, x, w)
            return (c,)
        c = _channels_last(c)
        normalized = [
            kernels.batch_norm(c[:, part], u.norm, u.relu, track=not _running_again)  # type: ignore[arg-type]
            for u, part in zip(units, _parts(units), strict=True)
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
            for each, affine, u, part in zip(gradients, affines, units, _parts(units), strict=False):
                norms.append(kernels.batch_norm_backward(each, c[:, part], affine, u.relu, g[:, part]))
        g = g.to(w.dtype)
        if first.pool is not None:
            g = kernels.average_pool_backward(g, *_pooled(first.pool, g))
        gx, gw, gb = convolution_backward(g, source.maps(kept), w, first.conv, _needed(ctx, units))
        found: list[Tensor | None] = []
        for index, (u, part) in enumerate(zip(units, _parts(units), strict=True)):
            found += [None if each is None else _times(each[part].to(u.conv.weight.dtype), u.scale) for each in (gw, gb)]
            found += [each.to(u.norm.weight.dtype) for each in norms[index]] if norms else []
        return gx, None, None, *found


def _joined(units: Sequence[Unit], dtype: torch.dtype) -> Tensor:
    """The weights of all units, in `dtype`: no copy of one that has it."""
    if len(units) == 1:
        return _times(units[0].conv.weight.detach().to(dtype), units[0].scale)
    w = torch.empty(_parts(units)[-1].stop, units[0].conv.in_channels, 1, 1, dtype=dtype, device=units[0].conv.weight.device)
    for u, part in zip(units, _parts(units), strict=True):
        w[part] = u.conv.weight.detach()
    return w


def _needed(ctx: Any, units: Sequence[Unit]) -> tuple[bool, bool, bool]:
    """Which gradients of input, weights and biases are asked for."""
    biases = [u.conv.bias for u in units if u.conv.bias is not None]
    return ctx.needs_input_grad[0], any(u.conv.weight.requires_grad for u in units), any(b.requires_grad for b in biases)


def _times(tensor: Tensor, scale: float) -> Tensor:
    return tensor if scale == 1 else tensor * scale


def _channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def convolution_backward(
    g: Tensor, x: Tensor, w: Tensor, conv: nn.Conv2d, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, as `needed`."""
    need_x, need_w, need_b = needed
    matrix = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    rows = _rows(g) if matrix else None
    # a sum as a product, in a quarter of the time of `sum`
    gb = (rows.new_ones(1, len(rows)) @ rows)[0] if rows is not None and need_b else None
    gw = (rows.t() @ _rows(x)).view_as(w) if rows is not None and need_w and len(rows) <= FEW else None
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


class _Pool(torch.autograd.Function):
    """Maximum or average, by our kernels: what is kept is a byte for each maximum, or nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: nn.MaxPool2d | nn.AvgPool2d) -> Tensor:
        ctx.pool, ctx.shape = pool, x.shape
        if isinstance(pool, nn.AvgPool2d):
            return kernels.average_pool(x, *_pooled(pool, x))
        y, which = kernels.max_pool(x, *_axes(pool, x.shape))
        ctx.save_for_backward(which)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        h, w = _axes(ctx.pool, ctx.shape)
        if isinstance(ctx.pool, nn.AvgPool2d):
            return kernels.average_pool_backward(g, h, w, bool(ctx.pool.count_include_pad)), None
        (which,) = ctx.saved_tensors
        return kernels.max_pool_backward(g, which, h, w), None


def windows(pool: nn.MaxPool2d | nn.AvgPool2d) -> list[tuple[int, int, int]]:
    """Kernel, stride and padding of the height, and of the width."""
    sizes = (each if isinstance(each, tuple) else (each, each) for each in (pool.kernel_size, pool.stride, pool.padding))
    return list(zip(*sizes, strict=True))


def _axes(pool: nn.MaxPool2d | nn.AvgPool2d, shape: Sequence[int]) -> list[kernels.Axis]:
    axes = []
    for n, (k, s, p) in zip(shape[-2:], windows(pool), strict=True):
        out = (n + 2 * p - k + (s - 1 if pool.ceil_mode else 0)) // s + 1
        if pool.ceil_mode and (out - 1) * s >= n + p:  # a window that would begin in the padding
            out -= 1
        axes.append((n, out, k, s, p))
    return axes


def _pooled(pool: nn.AvgPool2d, x: Tensor) -> tuple[kernels.Axis, kernels.Axis, bool]:
    h, w = _axes(pool, x.shape)
    return h, w, bool(pool.count_include_pad)


def by_kernels(maps: Tensor) -> bool:
    return kernels.ready(maps) and _dtype(maps) in kernels.DTYPES


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
    with _in_its_own_type(c):
        if isinstance(norm, nn.BatchNorm2d) and norm.training and not track:
            c = F.batch_norm(c, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        elif norm is not None:
            c = norm(c)
        elif act is not None:
            c = c.clone()
        return c if act is None else act(c)


def _is_changed(parts: nn.Sequential) -> bool:
    """Whether a user has put another convolution in, or hooks, which are called with modules only."""
    hooked = any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in parts.modules()
    )
    return type(getattr(parts, "conv", None)) is not nn.Conv2d or hooked


def joined(x: Tensor, parts: Sequence[nn.Sequential], lean: bool) -> list[Tensor]:
    """What 1x1 convolutions with kernels of ours (see `takes_kernels`) make of the same maps."""
    return run_units(x, [Unit(part.conv, part.norm, hasattr(part, "act")) for part in parts], lean)  # type: ignore[arg-type]


def takes_kernels(x: Tensor, parts: nn.Sequential) -> bool:
    """Whether `convolve` takes our kernels: batch statistics, and ReLU or nothing after it."""
    norm, act = getattr(parts, "norm", None), getattr(parts, "act", None)
    if _is_changed(parts):
        return False
    usual = type(norm) is nn.BatchNorm2d and norm.training and norm.affine and norm.momentum is not None
    return usual and (act is None or isinstance(act, nn.ReLU)) and by_kernels(x)


def pooled(x: Tensor, pool: nn.MaxPool2d | nn.AvgPool2d, usual: Maps, lean: bool) -> Tensor:
    """What `pool` makes of maps; `usual` is PyTorch's way."""
    if not by_kernels(x) or not x.is_contiguous(memory_format=torch.channels_last):
        return rerun(x, usual, usual) if lean else usual(x)
    return _Pool.apply(x, pool)  # and kept: to pool again would take longer than all the rest


class _Again:
    def __init__(self, make: Callable[..., Tensor], then: Maps) -> None:
        self.make, self.then = make, then

    def __call__(self, *kept: Tensor) -> Tensor:
        with torch.no_grad():
            return self.then(self.make(*kept))


def rerun(x: Tensor, first: Maps, again: Maps, parameters: Sequence[Tensor] = ()) -> Tensor:
    """``first(x)``; ``again``, the same without side effects, runs in the backward pass. For what has no kernel of ours."""
    recipe = recipe_of(x)
    y = _Rerun.apply(x, Source(x), first, again, *parameters)
    make = recipe.make if recipe else (lambda x: x)
    return annotate(y, recipe.kept if recipe else (x,), _Again(make, again))


class _Rerun(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Source, first: Maps, again: Maps, *parameters: Tensor) -> Tensor:
        ctx.source, ctx.again = source, again
        source.save(ctx, x, *parameters)
        return (again if _running_again else first)(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        kept, parameters = ctx.source.load(ctx)
        x = ctx.source.maps(kept).detach().requires_grad_()
        with torch.enable_grad():
            gx, *others = torch.autograd.grad(ctx.again(x), [x, *parameters], g)
        return gx, None, None, None, *others


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
        for make, channels, some in zip(makes, _spans(widths), _spans(counts), strict=True):
            make.into(joined[:, channels], *kept[some])
        return joined

    return annotate(y, [t for each in kept for t in each], join)


def residual(x: Tensor, joined: Tensor, project: nn.Conv2d, scale: float, relu: bool, lean: bool) -> Tensor:
    """``relu(x + scale * project(joined))``. Lean, of a chain of sums every other one is made again of the one before it."""
    (branches,) = run_units(joined, [Unit(project, scale=scale)], lean)
    recipe = recipe_of(joined)
    if not lean or recipe is None or recipe_of(x) is not None or not relu:
        return _Sum.apply(x, branches, relu, None)
    bias = () if project.bias is None else (project.bias,)

    def make(x: Tensor, weight: Tensor, *kept: Tensor) -> Tensor:
        b = None if not bias else _times(kept[0].to(x.dtype), scale)
        return torch.conv2d(recipe.make(*kept[len(bias) :]), _times(weight.to(x.dtype), scale), b).add_(x).relu_()

    maker, kept = Maker(make), (x, project.weight, *bias, *recipe.kept)
    y = _Sum.apply(x, branches, relu, (maker, kept))
    y.recipe = Recipe(maker, tuple(t.detach() for t in kept), y._version)
    return y


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branches: Tensor, relu: bool, recipe: tuple[Maker, tuple[Tensor, ...]] | None) -> Tensor:
        ctx.relu, ctx.maker = relu, recipe[0] if recipe else None
        y = x + branches
        if relu:
            y.relu_()
            if recipe:
                recipe[0].users += 1
            ctx.save_for_backward(*(recipe[1] if recipe else (y,)))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        g = _channels_last(g)  # what comes from a pool over the whole grid is not, and would hand it on along the chain
        if ctx.relu:
            kept = ctx.saved_tensors
            y = ctx.maker.serve(*kept) if ctx.maker else kept[0]
            g = torch.ops.aten.threshold_backward(g, y, 0)
        return g, g, None, None


class _Keep(torch.autograd.Function):
    """Keeps what a segment reads where autograd's hooks see it: `checkpoint` holds it out of their sight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def segment(run: Maps, x: Tensor) -> Tensor:
    """`run(x)`, of which nothing is kept but `x`."""
    return checkpoint(run, _Keep.apply(x), use_reentrant=False, context_fn=lambda: (nullcontext(), _again()))


@contextmanager
def _again() -> Iterator[None]:
    global _running_again
    _running_again = True
    try:
        yield
    finally:
        _running_again = False
