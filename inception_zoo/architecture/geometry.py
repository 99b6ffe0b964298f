"""Channels, grid sizes and receptive fields after rows, and rows scaled by `width`. This file does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from inception_zoo.architecture.notation import Conv, Module, Op, Row, Window, show
from inception_zoo.errors import ZooError

Size = tuple[int, int]


@dataclass(frozen=True)
class Field:
    """Receptive field of one position (height, width) and distance to the next position, in input pixels."""

    size: Size = (1, 1)
    jump: int = 1


def padding(op: Window) -> Size:
    """Return the number of zeros added on each side, vertically and horizontally; "same" adds its zeros by `same_padding`."""
    return (0, 0) if op.edge else (op.span[0] // 2, op.span[1] // 2)


def same_padding(kernel: Size, stride: int, size: Sequence[int]) -> list[tuple[int, int]]:
    """Return the zeros before and after the height and the width for "same", as in TensorFlow: the odd one comes after."""
    missing = (max(0, (n - 1) // stride * stride + k - n) for n, k in zip(size, kernel, strict=True))
    return [(zeros // 2, zeros - zeros // 2) for zeros in missing]


def out_channels(row: Row, c_in: int) -> int:
    """Return the output channels of `row`.

    Raises:
        ZooError: The groups of a convolution do not divide its channels.
    """
    for step in row:
        for op in step:
            if isinstance(op, Conv) and (c_in % op.groups or op.width % op.groups):
                raise ZooError(f"row '{show(row)}': {op.groups} groups must divide {c_in} inputs and {op.width} outputs")
        c_in = sum(op.width if isinstance(op, Conv | Module) else c_in for op in step)
    return c_in


def out_size(row: Row, size: Size) -> Size:
    """Return the output height and width of `row`.

    Raises:
        ZooError: A grid is smaller than its kernel, or the ops of a fork give different sizes.
    """
    for step in row:
        sizes = {_op_size(op, size) for op in step}
        if len(sizes) > 1:
            raise ZooError(f"row '{show(row)}': the fork '{show((step,))}' gives different sizes")
        size = sizes.pop()
    return size


def _op_size(op: Op, size: Size) -> Size:
    if not isinstance(op, Window):
        return size
    height, width = (_positions(op, n, k, p) for n, k, p in zip(size, op.span, padding(op), strict=True))
    if min(height, width) < 1:
        raise ZooError(f"the {size[0]}x{size[1]} grid is smaller than the kernel of '{op}'")
    return height, width


def _positions(op: Window, n: int, kernel: int, pad: int) -> int:
    """Return the number of windows along an axis of `n` positions, with PyTorch's rules; below 1 if none fits.

    In ceil mode the last window may reach over the edge, even the only one, but it must start on the grid.
    """
    if op.edge == "s":
        return (n - 1) // op.stride + 1
    spare = n + 2 * pad - kernel
    return min((spare + op.stride - 1) // op.stride, (n - 1) // op.stride) + 1 if op.edge == "c" else spare // op.stride + 1


def has_stride(row: Row) -> bool:
    """Return True if any op of `row` has a stride above 1."""
    return any(isinstance(op, Window) and op.stride > 1 for step in row for op in step)


def stride_of(row: Row) -> int:
    """Return the distance between two output positions of `row`, in input positions."""
    return prod(next((op.stride for op in step if isinstance(op, Window)), 1) for step in row)


def receptive_field(rows: Sequence[Row], field: Field | None) -> Field | None:
    """Return the largest receptive field of the rows; that of their input is `field`. None: unknown, behind a user's module."""
    if field is None or any(isinstance(op, Module) for row in rows for step in row for op in step):
        return None
    fields = [_row_field(row, field) for row in rows]
    height, width = (max(sizes) for sizes in zip(*(f.size for f in fields), strict=True))
    return Field((height, width), fields[0].jump)


def _row_field(row: Row, field: Field) -> Field:
    for step in row:
        ops = [op for op in step if isinstance(op, Window)]
        if ops:
            height, width = (n + (max(op.span[i] for op in ops) - 1) * field.jump for i, n in enumerate(field.size))
            field = Field((height, width), field.jump * ops[0].stride)
    return field


def scale_width(row: Row, width: float) -> Row:
    """Return `row` with every convolution's channels `scaled`."""

    def scale(op: Op) -> Op:
        try:
            return replace(op, width=scaled(op.width, width)) if isinstance(op, Conv) else op
        except ZooError as error:
            raise ZooError(f"row '{show(row)}': {error}") from None

    return tuple(tuple(map(scale, step)) for step in row)


def scaled(channels: int, width: float) -> int:
    """Return channels times `width`, rounded to a multiple of 8, at least 8; unchanged at width 1.

    Raises:
        ZooError: The product is less than one channel.
    """
    if channels * width < 1:
        raise ZooError(f"width={width} is too small for a branch of {channels} channels; use a larger width")
    return channels if width == 1 else max(8, round(channels * width / 8) * 8)


def split(channels: int, *shares: float) -> list[int]:
    """Return shares (0 to 1) of the channels, rounded to multiples of 8; of 4, 2 or 1 below 128 channels."""
    unit = max(1, min(8, 1 << max(0, (channels // 16).bit_length() - 1)))
    return [round(channels * share / unit) * unit for share in shares]
