"""Parse rows, written in the notation of the papers' figures.

    row   = step > step > ...            a chain, read from the block's input to its output
    step  = op | op | ...                a fork: every op reads the same feature maps, the outputs are concatenated
    op    = 3x3 64      convolution, height x width and output channels; padded to keep the size
            3x3/2 64    stride 2           3x3/2v 64   "valid": no padding
            3x3/2s 64   "same", as in TensorFlow: ceil(size / stride), with the odd zero at the bottom and the right
            3x3d2 64    dilation 2         3x3g32 64   32 groups        3x3l 64   linear: no activation
            3x3g        depthwise: one filter per channel, alone; the 1x1 after it has normalization and activation
            max  avg    3x3 pooling; also max/2, max/2v, max/2s, max2x2/2, and max/2c: ceil mode without padding
            act         the activation alone
            lrn         local response normalization; left out unless the network's norm is `lrn`

Letters follow this order: stride, padding, dilation, groups, linear. A block is a list of rows; their outputs are
concatenated over channels. This file does not import torch.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inception_zoo.errors import ZooError


@dataclass(frozen=True)
class Window:
    """An op whose outputs each read a window of positions."""

    kernel: tuple[int, int]
    stride: int
    edge: str  # "" padded to keep the size, "v" valid, "s" TensorFlow's "same" (not avg), "c" valid in ceil mode (pools)
    dilation: int = field(default=1, kw_only=True)

    @property
    def span(self) -> tuple[int, int]:
        """Height and width of the window: the kernel, spread by the dilation."""
        height, width = (self.dilation * (n - 1) + 1 for n in self.kernel)
        return height, width

    @property
    def where(self) -> str:
        """Stride, padding and dilation as in the notation."""
        stride, dilation = f"/{self.stride}" if self.stride > 1 else "", f"d{self.dilation}" if self.dilation > 1 else ""
        return stride + self.edge + dilation

    def __str__(self) -> str:
        return f"{self.kernel[0]}x{self.kernel[1]}{self.where}"


@dataclass(frozen=True)
class Conv(Window):
    """A convolution unit: convolution, normalization, activation."""

    width: int  # output channels
    groups: int = 1
    linear: bool = False  # without activation

    def __str__(self) -> str:
        groups, linear = f"g{self.groups}" if self.groups > 1 else "", "l" if self.linear else ""
        return f"{super().__str__()}{groups}{linear} {self.width}"


@dataclass(frozen=True)
class Depthwise(Window):
    """A convolution with one filter per channel, without normalization and activation (arXiv 1610.02357)."""

    def __str__(self) -> str:
        return f"{super().__str__()}g"


@dataclass(frozen=True)
class Pool(Window):
    """Max or average pooling."""

    kind: str  # "max" or "avg"

    def __str__(self) -> str:
        return f"{self.kind}{self.where}" if self.kernel == (3, 3) else f"{self.kind}{super().__str__()}"


@dataclass(frozen=True)
class Layer:
    """An op at each position: `lrn`, local response normalization (AlexNet, section 3.3), or `act`, the activation."""

    name: str

    def __str__(self) -> str:
        return self.name


LRN, ACT = Layer("lrn"), Layer("act")


@dataclass(frozen=True)
class Module(Pool):
    """A `torch.nn.Module` that a user's function builds; its output has the size of this pool. A row cannot contain it."""

    name: str  # of its class
    width: int = field(compare=False)  # output channels
    place: str = field(compare=False)  # stage, endpoint and function, for messages
    build: Callable[[], Any] = field(compare=False)

    def __str__(self) -> str:
        return self.name


Op = Window | Layer  # a `Module` is a `Pool`
Step = tuple[Op, ...]
Row = tuple[Step, ...]

_N = r"([1-9]\d{0,4})"
_OP = re.compile(rf"(max|avg)?(?:{_N}x{_N})?(?:/{_N})?([vsc])?(?:d{_N})?(g{_N}?)?(l)?(?:\s+(\d{{1,6}}))?", re.ASCII)

EXAMPLES = "'3x3 64', '3x3/2v 64', '3x3/2vd2g4l 64', '3x3g', 'max/2', 'avg', 'act' or 'lrn'"


def parse(text: str) -> Row:
    """Parse one row, for example ``"1x1 448 > 3x3 384 > 1x3 384 | 3x1 384"``.

    Raises:
        ZooError: The row is invalid; the message names the row, the wrong token and the correction.
    """
    if not isinstance(text, str) or not text.strip():
        raise ZooError(f"row {text!r}: a row is text such as '1x1 64 > 3x3 96'")
    try:
        row = tuple(tuple(_op(token.strip()) for token in step.split("|")) for step in text.split(">"))
        if alone := next((op for step in row if len(step) > 1 for op in step if isinstance(op, Layer)), None):
            raise ZooError(f"'{alone}' cannot be part of a fork; make it a step")
        return row
    except ZooError as error:
        raise ZooError(f"row '{text}': {error}") from None


def _op(token: str) -> Op:
    if token in (LRN.name, ACT.name):
        return Layer(token)
    match = _OP.fullmatch(token)
    if not match or not token:
        raise ZooError(f"unknown token '{token}'; valid ops look like {EXAMPLES}")
    kind, height, width, stride, edge, dilation, grouped, groups, linear, channels = match.groups()
    kernel = (int(height), int(width)) if height else (3, 3)
    if kind and channels:
        raise ZooError(f"token '{token}': a pool cannot change the channels; write '{token.split()[0]} > 1x1 {channels}'")
    if kind and (dilation or grouped or linear):
        raise ZooError(f"token '{token}': only convolutions have 'd', 'g' and 'l'; remove them")
    if not kind and not (height and (channels or grouped)):
        raise ZooError(f"token '{token}': a convolution needs a kernel and a number of channels, such as '3x3 64'")
    if grouped and bool(groups) != bool(channels):
        raise ZooError(f"token '{token}': groups are written as '3x3g32 64', and a depthwise convolution as '3x3g > 1x1 64'")
    if grouped and not groups and linear:
        raise ZooError(f"token '{token}': a depthwise convolution has no activation; remove 'l'")
    if not kind and edge == "c":
        raise ZooError(f"token '{token}': only pools have a ceil mode; remove 'c'")
    if kind == "avg" and edge == "s":
        raise ZooError(f"token '{token}': an average would count the zeros of 's'; remove 's'")
    if channels and not int(channels):
        raise ZooError(f"token '{token}': a convolution needs at least 1 output channel")
    window = Window(kernel, int(stride or 1), edge or "", dilation=int(dilation or 1))
    if not edge and not (window.span[0] % 2 and window.span[1] % 2):
        raise ZooError(f"token '{token}': an even kernel cannot keep the size; use an odd one, or 'v' if the grid may shrink")
    if kind:
        return Pool(**vars(window), kind=kind)
    if not channels:
        return Depthwise(**vars(window))
    return Conv(**vars(window), width=int(channels), groups=int(groups or 1), linear=bool(linear))


def show(row: Row) -> str:
    """Return the text of a row; ``parse(show(row)) == row``."""
    return " > ".join(" | ".join(str(op) for op in step) for step in row)
