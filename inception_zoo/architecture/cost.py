"""Count the parameters and multiply-adds of a plan, without creating weights.

Multiply-adds are per image and count convolutions and fully connected layers, without auxiliary heads. Papers and model zoos
publish the same count.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from inception_zoo.architecture.geometry import Size, out_channels, out_size
from inception_zoo.architecture.modules import measure
from inception_zoo.architecture.nets.table import Aux
from inception_zoo.architecture.notation import Conv, Depthwise, Row, parse
from inception_zoo.architecture.plan import Block, Plan


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds per image."""

    params: int
    macs: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.macs + other.macs)


def plan_cost(plan: Plan, image_size: int | Size | None = None) -> Cost:
    """Return the cost of a network.

    Args:
        plan: The network. Parameters include its auxiliary heads; multiply-adds do not.
        image_size: Side, or height and width, of the images in pixels; by default, the network's usual size.
    """
    size = image_size or plan.net.image_size
    grid = (size, size) if isinstance(size, int) else size
    shapes = plan.shapes(grid)
    total = classifier_cost(plan)
    for block in plan.blocks:
        total += block_cost(plan, block, grid)
        grid = shapes[block.name][1:]
    for tap, head in plan.aux.items():
        total += Cost(head_cost(plan, head, shapes[tap][0]).params, 0)
    return total


def block_cost(plan: Plan, block: Block, grid: Size) -> Cost:
    """Return the cost of one block whose input is a `grid` of height x width; a user's module is run, see `modules.measure`."""
    if block.module:
        return Cost(*measure(block.module, block.c_in, grid))
    total = sum((_row_cost(plan, row, block.c_in, grid) for row in block.rows), Cost(0, 0))
    if block.residual:
        after = block.out_size(grid)
        if block.residual.project:
            weights = block.joined * block.c_out
            total += Cost(weights + block.c_out, weights * after[0] * after[1])
        if block.shortcut:
            total += _conv_cost(plan, block.c_in, block.shortcut, after)
    return total


def conv_cost(plan: Plan, block: Block, kernel: int, grid: Size) -> Cost:
    """Return the cost of one `kernel` x `kernel` convolution with the channels of `block` and the output size `grid`."""
    return _conv_cost(plan, block.c_in, Conv((kernel, kernel), 1, "", block.c_out), grid)


def head_cost(plan: Plan, head: Aux, channels: int) -> Cost:
    """Return the cost of an auxiliary head with `channels` input channels."""
    grid, total = (head.grid, head.grid), Cost(0, 0)
    for row in map(parse, head.rows):
        total += _row_cost(plan, row, channels, grid)
        channels, grid = out_channels(row, channels), out_size(row, grid)
    flat = channels * grid[0] * grid[1]
    if head.hidden:
        total, flat = total + linear_cost(flat, head.hidden), head.hidden
    return total + linear_cost(flat, plan.num_classes)


def classifier_cost(plan: Plan) -> Cost:
    """Return the cost of what follows the pooled features: the embedding, if there is one, and the classifier."""
    features, width = plan.blocks[-1].c_out, plan.embedding
    if width is None:
        return linear_cost(features, plan.num_classes)
    return Cost(features * width + 2 * width, features * width) + linear_cost(width, plan.num_classes)


def linear_cost(c_in: int, c_out: int) -> Cost:
    """Return the cost of a fully connected layer with bias."""
    return Cost(c_in * c_out + c_out, c_in * c_out)


def _row_cost(plan: Plan, row: Row, channels: int, grid: Size) -> Cost:
    costs = (_conv_cost(plan, c_in, op, after) for c_in, op, _, after in convolutions(row, channels, grid))
    return sum(costs, Cost(0, 0))


def convolutions(row: Row, channels: int, grid: Size) -> Iterator[tuple[int, Conv | Depthwise, Size, Size]]:
    """Yield (input channels, convolution, input grid, output grid) for each convolution of a row.

    Args:
        row: The row.
        channels: Input channels of the row.
        grid: Input height and width of the row.
    """
    for step in row:
        after = out_size((step,), grid)
        for op in step:
            if isinstance(op, Conv | Depthwise):
                yield channels, op, grid, after
        channels, grid = out_channels((step,), channels), after


def _conv_cost(plan: Plan, channels: int, op: Conv | Depthwise, after: Size) -> Cost:
    """Return the cost of a convolution unit with the output size `after`, including bias and normalization parameters."""
    weights = weights_of(op, channels)
    extra = 0
    if isinstance(op, Conv):
        extra = op.width * (int(plan.bias) + (2 if plan.choices.norm in ("batch", "group") else 0))
    return Cost(weights + extra, weights * after[0] * after[1])


def weights_of(op: Conv | Depthwise, channels: int) -> int:
    """Return the number of weights of a convolution with `channels` input channels, without a bias."""
    filters = channels if isinstance(op, Depthwise) else channels * op.width // op.groups
    return op.kernel[0] * op.kernel[1] * filters
