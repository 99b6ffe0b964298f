"""What a plan costs: parameters and multiply-adds, counted without building a weight.

Multiply-adds are those of convolutions and fully connected layers, per image, without auxiliary heads: the figure that
papers and model zoos publish.
"""

from dataclasses import dataclass

from inception_zoo.geometry import out_channels, out_size
from inception_zoo.nets.table import Aux
from inception_zoo.notation import Conv, Row, parse
from inception_zoo.plan import Block, Plan


@dataclass(frozen=True)
class Cost:
    params: int
    macs: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.macs + other.macs)


def plan_cost(plan: Plan, image_size: int | tuple[int, int] | None = None) -> Cost:
    """Parameters (auxiliary heads as chosen) and multiply-adds at `image_size` pixels, else at the usual input."""
    size = image_size or plan.net.image_size
    grid = (size, size) if isinstance(size, int) else size
    shapes = plan.shapes(grid)
    total = Cost(0, 0)
    for block in plan.blocks:
        total += block_cost(plan, block, grid)
        grid = shapes[block.name][1:]
    channels = {block.name: block.c_out for block in plan.blocks}
    for tap, head in plan.aux.items():
        total += Cost(_head_params(plan, head, channels[tap]), 0)
    return total + _linear(plan.blocks[-1].c_out, plan.num_classes)


def block_cost(plan: Plan, block: Block, grid: tuple[int, int]) -> Cost:
    """Cost of one block that reads a `grid` of height x width."""
    total = Cost(0, 0)
    for row in block.rows:
        total += _row_cost(plan, row, block.c_in, grid)
    if block.residual:
        weights = block.joined * block.c_out
        total += Cost(weights + block.c_out, weights * grid[0] * grid[1])
        if block.residual.shortcut:
            total += _row_cost(plan, parse(f"1x1 {block.c_out}"), block.c_in, grid)
    return total


def _row_cost(plan: Plan, row: Row, channels: int, grid: tuple[int, int]) -> Cost:
    per_channel = int(plan.bias) + (2 if plan.choices.norm in ("batch", "group") else 0)
    params = macs = 0
    for step in row:
        after = out_size((step,), grid)
        for op in step:
            if isinstance(op, Conv):
                weights = op.kernel[0] * op.kernel[1] * channels * op.width
                params += weights + per_channel * op.width
                macs += weights * after[0] * after[1]
        channels, grid = out_channels((step,), channels), after
    return Cost(params, macs)


def _head_params(plan: Plan, head: Aux, channels: int) -> int:
    grid, total = (head.grid, head.grid), 0
    for row in map(parse, head.rows):
        total += _row_cost(plan, row, channels, grid).params
        channels, grid = out_channels(row, channels), out_size(row, grid)
    flat = channels * grid[0] * grid[1]
    if head.hidden:
        total, flat = total + _linear(flat, head.hidden).params, head.hidden
    return total + _linear(flat, plan.num_classes).params


def _linear(c_in: int, c_out: int) -> Cost:
    return Cost(c_in * c_out + c_out, c_in * c_out)
