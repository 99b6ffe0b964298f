"""Parse rows, written in the notation of the papers' figures.

    row   = step > step > ...            a chain, read from the block's input to its output
    step  = op | op | ...                a fork: every op reads the same feature maps, the outputs are concatenated
    op    = 3x3 64      convolution, height x width and output channels; padded to keep the size
            3x3/2 64    stride 2           3x3/2v 64   "valid": no padding
            3x3/2s 64   "same", as in TensorFlow: ceil(size / stride), with the odd zero at the bottom and the right
            max  avg    3x3 pooling; also max/2, max/2v, max/2s, max2x2/2, and max/2c: ceil mode without padding
            lrn         local response normalization; left out unless the network's norm is `lrn`

A block is a list of rows; their outputs are concatenated over channels. This file does not import torch.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inception_zoo.errors import ZooError


@dataclass(frozen=True)
class Conv:
    """A convolution unit: convolution, normalization, activation."""

    kernel: tuple[int, int]
    stride: int
    edge: str  # "" padded to keep the size, "v" valid, "s" TensorFlow's "same"
    width: int  # output channels

    def __str__(self) -> str:
        return f"{self.kernel[0]}x{self.kernel[1]}{_suffix(self.stride, self.edge)} {self.width}"


@dataclass(frozen=True)
class Pool:
    """Max or average pooling."""

    kind: str  # "max" or "avg"
    kernel: tuple[int, int]
    stride: int
    edge: str  # "" padded to keep the size, "v" valid, "s" TensorFlow's "same" (max only), "c" valid in ceil mode

    def __str__(self) -> str:
        kernel = "" if self.kernel == (3, 3) else f"{self.kernel[0]}x{self.kernel[1]}"
        return f"{self.kind}{kernel}{_suffix(self.stride, self.edge)}"


@dataclass(frozen=True)
class Lrn:
    """Local response normalization (AlexNet, section 3.3)."""

    def __str__(self) -> str:
        return "lrn"


@dataclass(frozen=True)
class Module(Pool):
    """A `torch.nn.Module` that a user's function builds; its output has the size of this pool. A row cannot contain it."""

    name: str  # of its class
    width: int = field(compare=False)  # output channels
    place: str = field(compare=False)  # stage, endpoint and function, for messages
    build: Callable[[], Any] = field(compare=False)

    def __str__(self) -> str:
        return self.name


Op = Conv | Pool | Lrn  # a `Module` is a `Pool`
Step = tuple[Op, ...]
Row = tuple[Step, ...]

_OP = re.compile(r"(max|avg)?(?:([1-9]\d{0,4})x([1-9]\d{0,4}))?(?:/([1-9]\d{0,4}))?([vsc])?(?:\s+(\d{1,6}))?", re.ASCII)


def _suffix(stride: int, edge: str) -> str:
    return (f"/{stride}" if stride > 1 else "") + edge


def parse(text: str) -> Row:
    """Parse one row, for example ``"1x1 448 > 3x3 384 > 1x3 384 | 3x1 384"``.

    Raises:
        ZooError: The row is invalid; the message names the row, the wrong token and the correction.
    """
    if not isinstance(text, str) or not text.strip():
        raise ZooError(f"row {text!r}: a row is text such as '1x1 64 > 3x3 96'")
    try:
        row = tuple(tuple(_op(token.strip()) for token in step.split("|")) for step in text.split(">"))
        if any(Lrn() in step and len(step) > 1 for step in row):
            raise ZooError("'lrn' cannot be part of a fork; make it a step")
        return row
    except ZooError as error:
        raise ZooError(f"row '{text}': {error}") from None


def _op(token: str) -> Op:
    if token == "lrn":
        return Lrn()
    match = _OP.fullmatch(token)
    if not match or not token:
        raise ZooError(f"unknown token '{token}'; valid ops look like '3x3 64', '3x3/2v 64', 'max/2', 'avg' or 'lrn'")
    kind, height, width, stride, edge, channels = match.groups()
    kernel = (int(height), int(width)) if height else (3, 3)
    if kind and channels:
        raise ZooError(f"token '{token}': a pool cannot change the channels; write '{token.split()[0]} > 1x1 {channels}'")
    if not kind and not (height and channels):
        raise ZooError(f"token '{token}': a convolution needs a kernel and a number of channels, such as '3x3 64'")
    if not kind and edge == "c":
        raise ZooError(f"token '{token}': only pools have a ceil mode; remove 'c'")
    if kind == "avg" and edge == "s":
        raise ZooError(f"token '{token}': an average would count the zeros of 's'; remove 's'")
    if channels and not int(channels):
        raise ZooError(f"token '{token}': a convolution needs at least 1 output channel")
    if not edge and not (kernel[0] % 2 and kernel[1] % 2):
        raise ZooError(f"token '{token}': an even kernel cannot keep the size; use an odd one, or 'v' if the grid may shrink")
    step, edge = int(stride or 1), edge or ""
    return Pool(kind, kernel, step, edge) if kind else Conv(kernel, step, edge, int(channels))


def show(row: Row) -> str:
    """Return the text of a row; ``parse(show(row)) == row``."""
    return " > ".join(" | ".join(str(op) for op in step) for step in row)
