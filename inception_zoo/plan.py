"""Table + choices → plan: every block resolved, with its channels, before any weight exists.

Imports nothing heavy, so that the command line checks a network in milliseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inception_zoo.choices import Choices
from inception_zoo.errors import ZooError, check_whole
from inception_zoo.nets.table import Aux, Net, Residual
from inception_zoo.notation import Lrn, Row, out_channels, out_size, parse, scale_width, scaled, show
from inception_zoo.stems import with_stem

Size = tuple[int, int]


@dataclass(frozen=True)
class Block:
    """One endpoint: its rows, and the channels that it reads and gives."""

    stage: str
    name: str
    rows: tuple[Row, ...]
    c_in: int
    joined: int  # channels of the concatenation
    residual: Residual | None = None

    @property
    def c_out(self) -> int:
        return self.c_in if self.residual else self.joined

    def out_size(self, size: Size) -> Size:
        """Height and width after the block; ZooError where the rows do not fit `size` or each other."""
        sizes = {row: out_size(row, size) for row in self.rows}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"'{show(row)}' gives {h}x{w}" for row, (h, w) in sizes.items())
            raise ZooError(f"the rows give different sizes and cannot be concatenated: {found}")
        if self.residual and set(sizes.values()) != {size}:
            raise ZooError(f"a residual block keeps its {size[0]}x{size[1]} grid, but the rows change it")
        return next(iter(sizes.values()))


@dataclass(frozen=True)
class Plan:
    """A network, resolved: all that is needed to build it, count it or draw it."""

    net: Net
    num_classes: int
    in_channels: int
    choices: Choices
    blocks: tuple[Block, ...]
    aux: Mapping[str, Aux]

    @property
    def bias(self) -> bool:
        return self.net.bias or self.choices.norm in ("none", "lrn")

    def shapes(self, image_size: int | Size) -> dict[str, tuple[int, int, int]]:
        """Endpoint → (channels, height, width) for an input of `image_size` pixels; ZooError if it does not fit."""
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        shapes = {}
        for block in self.blocks:
            try:
                size = block.out_size(size)
            except ZooError as error:
                raise ZooError(f"{self.net.name}, {block.stage} {block.name}: {error}") from None
            shapes[block.name] = (block.c_out, *size)
        return shapes

    def min_image_size(self) -> int | None:
        """The smallest square input in pixels; None if no input up to 1024 px fits."""
        return next((size for size in range(1, 1025) if self.fits(size)), None)

    def fits(self, size: int) -> bool:
        try:
            return bool(self.shapes(size))
        except ZooError:
            return False


def make_plan(net: Net, num_classes: int = 1000, in_channels: int = 3, **chosen: Any) -> Plan:
    """Apply choices (see `Choices`) to a table.

    Raises:
        ZooError: names the network and the choice, or the stage, row and token at fault.
    """
    check_whole(f"{net.name}: num_classes", num_classes, at_least=1)
    check_whole(f"{net.name}: in_channels", in_channels, at_least=1)
    choices = Choices.of(net, chosen)
    blocks, channels = [], in_channels
    for stage, endpoint, spec in _layers(net, choices):
        residual = spec if isinstance(spec, Residual) else None
        texts: Sequence[str] = spec.rows if isinstance(spec, Residual) else spec
        try:
            rows = tuple(filter(None, (_row(text, choices) for text in texts)))
        except ZooError as error:
            raise ZooError(f"{net.name}, {stage} {endpoint}, {error}") from None
        if not rows and endpoint in net.aux:
            raise ZooError(f"{net.name}, {stage} {endpoint}: nothing is left of its rows with norm={choices.norm}")
        if rows:  # else the stem leaves it out, or it held nothing but the `lrn` of another norm
            joined = sum(out_channels(row, channels) for row in rows)
            blocks.append(Block(stage, endpoint, rows, channels, joined, residual))
            channels = blocks[-1].c_out
    if choices.norm == "lrn" and not any((Lrn(),) in row for block in blocks for row in block.rows):
        raise ZooError(f"{net.name}: norm=lrn, but no row of this network holds an 'lrn'; take norm=none")
    heads = {tap: _scaled_head(head, choices.width) for tap, head in net.aux.items() if choices.aux}
    return Plan(net, num_classes, in_channels, choices, tuple(blocks), heads)


def _layers(net: Net, choices: Choices) -> list[tuple[str, str, Sequence[str] | Residual]]:
    """(stage, endpoint, block) in order. The user's rows win over the table's, an endpoint's over its stage's.

    Rows for a stage go to its blocks: what has branches and keeps the grid, and so no reduction and no lone convolution.
    In a residual block the rows take the place of its rows: the sum and its scale stay.
    """
    layers: list[tuple[str, str, Sequence[str] | Residual]] = []
    for number, (stage, table) in enumerate(net.stages.items()):
        if number == 0:
            table = with_stem(table, choices.stem)
        for endpoint, spec in table.items():
            rows = choices.blocks.get(endpoint) or (_is_block(spec) and choices.blocks.get(stage)) or None
            if rows and isinstance(spec, Residual):
                layers.append((stage, endpoint, replace(spec, rows=rows)))
            else:
                layers.append((stage, endpoint, rows or spec))
    return layers


def _is_block(spec: Sequence[str] | Residual) -> bool:
    if isinstance(spec, Residual):
        return True
    return len(spec) > 1 and all(out_size(parse(row), (64, 64)) == (64, 64) for row in spec)


def _row(text: str, choices: Choices) -> Row:
    row = scale_width(parse(text), choices.width)
    return row if choices.norm == "lrn" else tuple(step for step in row if step != (Lrn(),))


def _scaled_head(head: Aux, width: float) -> Aux:
    rows = [show(scale_width(parse(row), width)) for row in head.rows]
    return replace(head, rows=rows, hidden=head.hidden and scaled(head.hidden, width))
