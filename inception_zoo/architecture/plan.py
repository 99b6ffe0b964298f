"""Table + choices → plan: the resolved blocks and their channels, before weights are created.

This file does not import torch: the command line checks a network in milliseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from inception_zoo.architecture.choices import LOADING, Choices
from inception_zoo.architecture.geometry import Size, has_stride, out_channels, out_size, scale_width, scaled, stride_of
from inception_zoo.architecture.modules import measure
from inception_zoo.architecture.nets import find_net
from inception_zoo.architecture.nets.table import Aux, Net, Residual
from inception_zoo.architecture.notation import LRN, Conv, Module, Row, parse, show
from inception_zoo.architecture.stems import with_stem
from inception_zoo.architecture.variants import REDUCTIONS, call_variant, pool_of, variant_name
from inception_zoo.errors import ZooError, check_whole

MOST = 1024  # sides of images that are searched for the ones that fit
LARGE = 10**10  # a grid that is larger than every window
EMBEDDING = 512  # length, if neither the table nor the user states it
KEEP = "a row keeps the grid with odd kernels, without stride and without 'v'"


@dataclass(frozen=True)
class Block:
    """One endpoint with its rows, input channels and output channels."""

    stage: str
    name: str
    rows: tuple[Row, ...]
    c_in: int
    c_out: int
    residual: Residual | None = None
    swapped: str | None = None  # what replaces the table's block: a variant's name or `rows`

    @property
    def joined(self) -> int:
        """Channels of the concatenation."""
        return sum(out_channels(row, self.c_in) for row in self.rows)

    @property
    def shortcut(self) -> Conv | None:
        """The linear 1x1 convolution on the input of a residual sum, with the stride of the rows; None for the input itself."""
        projected = self.residual and self.residual.shortcut
        return Conv((1, 1), stride_of(self.rows[0]), "", self.c_out, linear=True) if projected else None

    @property
    def paths(self) -> tuple[Row, ...]:
        """The rows and, of a residual sum, its shortcut: all must give the same grid."""
        if not self.residual:
            return self.rows
        return (*self.rows, ((self.shortcut,),) if self.shortcut else ())

    @property
    def module(self) -> Module | None:
        """The module of a user's function, which is then the only op."""
        return next((op for row in self.rows for step in row for op in step if isinstance(op, Module)), None)

    @property
    def has_branches(self) -> bool:
        """True for several rows, a fork, a residual sum or a module."""
        forks = any(len(step) > 1 for row in self.rows for step in row)
        return len(self.rows) > 1 or forks or bool(self.module or self.residual)

    @property
    def grids(self) -> list[Size]:
        """Large grids, among them one for each remainder by the strides."""
        return [(n, n) for n in range(LARGE, LARGE + min(prod(map(stride_of, self.rows)), MOST))]

    @property
    def takes_any_grid(self) -> bool:
        """True if the rows can be joined for every grid that is not too small for a kernel."""
        return all(len({out_size(path, size) for path in self.paths}) == 1 for size in self.grids)

    @property
    def kind(self) -> str:
        """`block` if the grid size stays, `reduction` if a stride reduces it, `valid` if only missing padding reduces it."""
        if all(out_size(row, (99, 99)) == (99, 99) for row in self.rows):
            return "block"
        return "reduction" if any(map(has_stride, self.rows)) else "valid"

    def out_size(self, size: Size) -> Size:
        """Return the output height and width for an input of `size`.

        Raises:
            ZooError: `size` is too small for the rows, or their output sizes differ.
        """
        sizes = {path: out_size(path, size) for path in self.paths}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"'{show(path)}' gives {h}x{w}" for path, (h, w) in sizes.items())
            raise ZooError(f"the rows give different sizes and cannot be joined: {found}")
        return next(iter(sizes.values()))


@dataclass(frozen=True)
class Plan:
    """A resolved network: everything needed to build, count or draw it."""

    net: Net
    num_classes: int
    in_channels: int
    choices: Choices
    blocks: tuple[Block, ...]

    @cached_property
    def aux(self) -> dict[str, Aux]:
        """Auxiliary heads by the endpoint that they read."""
        used = self.net.aux if self.choices.aux and self.num_classes else {}
        return {tap: _scaled_head(head, self.choices.width) for tap, head in used.items()}

    @property
    def embedding(self) -> int | None:
        """Length of the embedding; None: the classifier reads the pooled features."""
        return (self.choices.embedding or self.net.embedding or EMBEDDING) if self.choices.head == "embedding" else None

    @cached_property
    def levels(self) -> tuple[tuple[str, int], ...]:
        """The last endpoint of each resolution but the full one, with its reduction: the product of the strides up to it."""
        reduction, last = 1, dict[int, str]()
        for block in self.blocks:
            reduction *= stride_of(block.rows[0])
            last[reduction] = block.name
        return tuple((name, by) for by, name in last.items() if by > 1)

    @property
    def swappable(self) -> list[str]:
        """Stages outside of the stem with blocks that a block variant can replace."""
        grids = (block.stage for block in self.blocks if block.kind == "block" and block.has_branches)
        return [stage for stage in dict.fromkeys(grids) if stage in self.net.grids]

    @property
    def bias(self) -> bool:
        """True if convolutions have a bias."""
        return self.net.bias or self.choices.norm in ("none", "lrn")

    @property
    def swapped(self) -> str:
        """Swapped blocks, such as ``grid17=residual, mixed_7b=rows``; empty if there are none."""
        return ", ".join(f"{key}={variant_name(choice)}" for key, choice in self.choices.blocks.items() if choice is not None)

    def shapes(self, image_size: int | Size) -> dict[str, tuple[int, int, int]]:
        """Return endpoint → (channels, height, width) for images of `image_size` pixels.

        Raises:
            ZooError: The images do not fit; the message names the endpoint and the sizes that fit.
        """
        height, width = size = _pair(image_size)
        try:
            return self.walk(size)
        except ZooError as error:
            if self.min_image_size() is None:  # the rows are wrong, not the images
                raise ZooError(f"{error}; {KEEP}") from None
            near = "{}x{}".format(*self.nearest(size))
            fit = f"heights and widths that fit: {self.sizes()}; the nearest is {near}"
            raise ZooError(f"images of {height}x{width} px do not fit ({error}); {fit}") from None

    def walk(self, size: Size, run: bool = False) -> dict[str, tuple[int, int, int]]:
        """Return `shapes` for images of `size`; the error names the endpoint only. `run`: check the user's modules too."""
        shapes = {}
        for block in self.blocks:
            if run and block.module:
                measure(block.module, block.c_in, size)
            try:
                size = block.out_size(size)
            except ZooError as error:
                raise ZooError(f"{self.net.name}, {block.stage} {block.name}: {error}") from None
            shapes[block.name] = (block.c_out, *size)
        return shapes

    def fits(self, image_size: int | Size) -> bool:
        """Return True if the network accepts images of `image_size` pixels."""
        try:
            return bool(self.walk(_pair(image_size)))
        except ZooError:
            return False

    def min_image_size(self) -> int | None:
        """Return the side of the smallest square image in pixels; None if no image up to 1024 px fits."""
        return next((size for size in range(1, MOST + 1) if self.fits(size)), None)

    def sizes(self) -> str:
        """Return the heights and widths that fit, such as `75 px or more`, or `31 to 38, 63 to 70, … px (every 32 px)`."""
        least, period = self.min_image_size(), self.stride
        if least is None:
            return f"none up to {MOST} px"
        if all(block.takes_any_grid for block in self.blocks):
            return f"{least} px or more"
        fitting = [size for size in range(least, least + 3 * period) if self.fits(size)]
        starts, ends = ([size for size in fitting if size + step not in fitting] for step in (-1, 1))
        runs = [f"{first} to {last}" if first < last else f"{first}" for first, last in zip(starts, ends, strict=True)]
        return f"{', '.join(runs[:2])}, … px (every {period} px)"

    @property
    def stride(self) -> int:
        """Distance between two positions of the last endpoint, in pixels, at most 1024. The sizes that fit repeat after it."""
        return min(prod(stride_of(block.rows[0]) for block in self.blocks), MOST)

    def nearest(self, size: Size) -> Size:
        """Return the height and the width that fit and are nearest to `size`; (0, 0) if no image fits."""
        least = self.min_image_size() or 0

        def side(n: int, size_of: Callable[[int], Size]) -> int:
            near = range(max(n - self.stride, least), max(n, least) + self.stride)
            return min(filter(lambda each: self.fits(size_of(each)), near), key=lambda each: abs(each - n), default=least)

        return side(size[0], lambda n: (n, least)), side(size[1], lambda n: (least, n))


def _pair(size: int | Size) -> Size:
    return (size, size) if isinstance(size, int) else size


def make_plan(net: Net, num_classes: int = 1000, in_channels: int = 3, **chosen: Any) -> Plan:
    """Apply choices to a table.

    Args:
        net: The table.
        num_classes: Number of classes; 0: no classifier and no auxiliary heads.
        in_channels: Number of image channels.
        **chosen: Architecture options, see `Choices`.

    Raises:
        ZooError: A choice is invalid; the message names the network and the choice, or the stage, row and token.
    """
    check_whole(f"{net.name}: num_classes", num_classes, at_least=0)
    check_whole(f"{net.name}: in_channels", in_channels, at_least=1)
    choices = Choices.of(net, chosen)
    blocks: list[Block] = []
    wanted = {key: choice for key, choice in choices.blocks.items() if choice is not None}
    heeded: set[str] = set()
    for level, (stage, table) in enumerate(net.stages.items(), start=-1):  # -1 is the stem
        for endpoint, spec in (with_stem(table, choices.stem) if level < 0 else table).items():
            try:
                block = _block(Block(stage, endpoint, (), blocks[-1].c_out if blocks else in_channels, 0), spec, choices)
                keys = [key for key in (endpoint, stage, "all") if key in wanted and _meant(wanted[key], key, block, level)]
                heeded.update(keys)
                if keys:
                    block = _swap(block, wanted[keys[0]], level, choices)
            except ZooError as error:
                raise ZooError(f"{net.name}, {stage} {endpoint}: {error}") from None
            if not block.rows and endpoint in net.aux:
                raise ZooError(f"{net.name}, {stage} {endpoint}: norm={choices.norm} leaves no rows for the auxiliary head")
            if block.rows:  # empty if the stem removed all steps, or if it had only an `lrn`
                blocks.append(block)
    for key in wanted.keys() - heeded:
        kind = "grid reduction" if _is_reduction(wanted[key]) else "block"
        raise ZooError(f"{net.name}: blocks.{key}={variant_name(wanted[key])}: {key} has no {kind} to swap")
    if choices.norm == "lrn" and not any((LRN,) in row for block in blocks for row in block.rows):
        raise ZooError(f"{net.name}: norm=lrn: no row of this network contains 'lrn'; use norm=none")
    plan = Plan(net, num_classes, in_channels, choices, _with_residual_choices(net, blocks, choices))
    if any(block.module for block in blocks) and plan.fits(net.image_size):
        plan.walk(_pair(net.image_size), run=True)
    return plan


def plan_of(model: Mapping[str, Any]) -> Plan:
    """Return the plan of a composed `model` node."""
    chosen = {key: value for key, value in model.items() if key not in LOADING}
    return make_plan(find_net(chosen.pop("name")), chosen.pop("num_classes"), chosen.pop("in_channels"), **chosen)


def _block(place: Block, spec: Sequence[str] | Residual, choices: Choices, due: int = 0, width: float | None = None) -> Block:
    """Return `place` with its rows. `due`: the output channels of a residual block with a shortcut."""
    residual, texts = (spec, spec.rows) if isinstance(spec, Residual) else (None, spec)
    rows = [scale_width(parse(text), choices.width if width is None else width) for text in texts]
    if choices.norm != "lrn":
        rows = [tuple(step for step in row if step != (LRN,)) for row in rows]
    block = replace(place, rows=tuple(filter(None, rows)), residual=residual)
    joined = block.joined if block.rows else block.c_in
    if residual is None:
        return replace(block, c_out=joined)
    if not block.rows:
        raise ZooError(f"norm={choices.norm} leaves no rows of the residual sum")
    block = replace(block, c_out=(due if residual.project else joined) if residual.shortcut else block.c_in)
    if not block.takes_any_grid:  # PyTorch would broadcast rows of 1x1 to the grid
        wrong = next(row for row in block.rows if any(out_size(row, n) != out_size(block.paths[-1], n) for n in block.grids))
        if block.shortcut:
            raise ZooError(f"row '{show(wrong)}' must give the grid of the shortcut '{block.shortcut}' of its residual sum")
        raise ZooError(f"a residual sum must keep the grid, but row '{show(wrong)}' changes it; {KEEP}")
    if not residual.project and joined != block.c_out:
        raise ZooError(f"a residual sum without projection adds {joined} channels to {block.c_out}; set project=true")
    return block


def _meant(choice: Any, key: str, block: Block, level: int) -> bool:
    """Return True if `choice`, given for `key`, applies to `block`.

    A choice for a stage or for `all` applies to the blocks with branches that keep the grid, or to the grid reductions.
    """
    if key == block.name:
        return True
    if _is_reduction(choice):
        return level >= 0 and block.kind == "reduction"
    return level >= 0 and block.kind == "block" and block.has_branches


def _is_reduction(choice: Any) -> bool:
    return isinstance(choice, str) and choice in REDUCTIONS


def _swap(own: Block, choice: Any, level: int, choices: Choices) -> Block:
    """Return the chosen block that replaces the table's `own`."""
    place = replace(own, swapped=variant_name(choice))
    if isinstance(choice, Mapping):
        block = _block(place, Residual(**choice), choices, due=own.c_out)
    elif not isinstance(choice, str) and not callable(choice):  # rows inside a residual block keep its sum and scale
        return _block(place, replace(own.residual, rows=choice) if own.residual else choice, choices)
    else:
        spec = call_variant(choice, own, level)
        if isinstance(spec, Module):
            return replace(place, rows=(((spec,),),), residual=None)
        block = _block(place, spec, choices, due=own.c_out, width=1)  # `own.c_out` is scaled already
        if block.kind != own.kind:
            wrong = show(next(row for row in block.rows if replace(block, rows=(row,)).kind != own.kind))
            what, how = ("keep", KEEP) if own.kind == "block" else ("halve", f"give it a stride, such as '{pool_of(own)}'")
            raise ZooError(f"a variant must {what} the grid here, but row '{wrong}' of '{place.swapped}' does not; {how}")
    if block.c_out != own.c_out:
        rows = ", ".join(f"'{show(row)}'" for row in block.rows) or "none"
        if block.residual and not block.residual.shortcut:
            raise ZooError(f"a residual sum over {own.c_in} channels cannot give {own.c_out}; set shortcut=true; rows {rows}")
        raise ZooError(f"'{variant_name(choice)}' gives {block.c_out} channels instead of {own.c_out}; rows {rows}")
    return block


def _with_residual_choices(net: Net, blocks: Sequence[Block], choices: Choices) -> tuple[Block, ...]:
    """Apply `residual_scale` to every residual block, and `drop_path`, whose rate rises linearly up to the last one."""
    names = [block.name for block in blocks if block.residual]
    for key in ("drop_path", "residual_scale"):
        if (value := getattr(choices, key)) and not names:
            raise ZooError(f"{net.name}: {key}={value}: no block is residual; add some, for example by blocks.all=residual")

    def chosen(block: Block) -> Block:
        if not block.residual:
            return block
        scale = choices.residual_scale or block.residual.scale
        drop_path = choices.drop_path * (names.index(block.name) + 1) / len(names)
        return replace(block, residual=replace(block.residual, scale=scale, drop_path=drop_path))

    return tuple(map(chosen, blocks))


def _scaled_head(head: Aux, width: float) -> Aux:
    rows = [show(scale_width(parse(row), width)) for row in head.rows]
    return replace(head, rows=rows, hidden=head.hidden and scaled(head.hidden, width))
