"""Rows → modules: the convolution unit, the concatenation, the residual block and the auxiliary head.

Every forward pass here is the paper's figure by PyTorch's operators. `autograd.trained_by` names the function that computes
the same in training, with less memory and by our kernels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.architecture.geometry import out_channels, out_size, padding
from inception_zoo.architecture.nets.table import Aux, Residual
from inception_zoo.architecture.notation import Conv, Lrn, Op, Row, parse
from inception_zoo.architecture.plan import Block, Plan
from inception_zoo.network import autograd

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
}


def activation(plan: Plan) -> nn.Module:
    """Build the chosen activation."""
    kind = ACTIVATIONS[plan.choices.activation]
    return kind() if plan.choices.activation == "gelu" else kind(inplace=True)


def norm(plan: Plan, channels: int) -> nn.Module | None:
    """Build the chosen normalization; None if there is none after a convolution."""
    if plan.choices.norm == "batch":
        return nn.BatchNorm2d(channels, eps=plan.net.eps, momentum=plan.net.momentum)
    if plan.choices.norm == "group":  # at most 32 groups (arXiv 1803.08494), fewer where the channels do not divide
        return nn.GroupNorm(next(g for g in range(32, 0, -1) if channels % g == 0), channels)
    return None


@autograd.trained_by(autograd.convolve)
class ConvUnit(nn.Sequential):
    """``act(norm(conv(x)))``: (N, channels, H, W) → (N, op.width, H', W'); no activation if `linear`."""

    def __init__(self, plan: Plan, channels: int, op: Conv, linear: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, op.width, op.kernel, op.stride, padding(op), bias=plan.bias)
        if (layer := norm(plan, op.width)) is not None:
            self.norm = layer
        if not linear:
            self.act = activation(plan)


@autograd.trained_by(autograd.pooled)
class MaxPool(nn.MaxPool2d):
    """Max pooling: (N, C, H, W) → (N, C, H', W')."""


@autograd.trained_by(autograd.pooled)
class AvgPool(nn.AvgPool2d):
    """Average pooling: (N, C, H, W) → (N, C, H', W')."""


@autograd.trained_by(autograd.run_steps)
class Steps(nn.Sequential):
    """A row: its steps, one after the other."""


@autograd.trained_by(autograd.run_branches)
class Concat(nn.ModuleList):
    """The papers' "filter concat": every branch reads the same feature maps, the outputs are concatenated over channels."""

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self]
        return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]


@autograd.trained_by(autograd.residual)
class ResidualBlock(nn.Module):
    """``act(shortcut(x) + scale * project(concat(x)))``, with a linear 1x1 projection (arXiv 1602.07261, Figures 10 to 20)."""

    def __init__(self, plan: Plan, block: Block, residual: Residual, concat: Concat) -> None:
        super().__init__()
        self.concat = concat
        self.project = nn.Conv2d(block.joined, block.c_out, 1)
        one = Conv((1, 1), 1, "", block.c_out)
        self.shortcut = ConvUnit(plan, block.c_in, one, linear=True) if residual.shortcut else nn.Identity()
        self.drop = _drop_path(residual.drop_path) if residual.drop_path else nn.Identity()
        self.act = activation(plan) if residual.relu else nn.Identity()
        self.scale = residual.scale

    def forward(self, x: Tensor) -> Tensor:
        branches = self.drop(self.project(self.concat(x)))
        return self.act(torch.add(self.shortcut(x), branches, alpha=self.scale))


def _drop_path(rate: float) -> nn.Module:
    from torchvision.ops import StochasticDepth  # takes as long to import as torch

    return StochasticDepth(rate, "row")


class AuxHead(nn.Module):
    """The auxiliary classifier of GoogLeNet and Inception-v3: (N, channels, H, W) → (N, classes).

    The papers average-pool 5x5 with stride 3 at the published input size. At other sizes an adaptive pool gives the same
    grid, so that the fully connected layer keeps its shape.
    """

    def __init__(self, plan: Plan, head: Aux, channels: int) -> None:
        super().__init__()
        self.grid, self.adaptive = head.grid, head.adaptive
        size = (head.grid, head.grid)
        self.rows = nn.Sequential()
        for row in map(parse, head.rows):
            self.rows.append(build_row(plan, row, channels))
            channels, size = out_channels(row, channels), out_size(row, size)
        flat = channels * size[0] * size[1]
        self.hidden = None
        if head.hidden:
            self.hidden = nn.Sequential(nn.Linear(flat, head.hidden), activation(plan), nn.Dropout(head.dropout))
            flat = head.hidden
        self.fc = nn.Linear(flat, plan.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        fits = all((n - 5) // 3 + 1 == self.grid for n in x.shape[-2:])
        x = F.avg_pool2d(x, 5, 3) if fits and not self.adaptive else F.adaptive_avg_pool2d(x, self.grid)
        x = self.rows(x).flatten(1)
        return self.fc(x if self.hidden is None else self.hidden(x))


def build_op(plan: Plan, op: Op, channels: int) -> nn.Module:
    """Build one op that reads `channels` feature maps."""
    if isinstance(op, Conv):
        return ConvUnit(plan, channels, op)
    if isinstance(op, Lrn):
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
    if op.kind == "max":
        return MaxPool(op.kernel, op.stride, padding(op), ceil_mode=op.edge == "c")
    return AvgPool(op.kernel, op.stride, padding(op), op.edge == "c", plan.net.count_padding)


def build_row(plan: Plan, row: Row, channels: int) -> Steps:
    """Build a row; a fork becomes a `Concat` of its ops."""
    steps = Steps()
    for step in row:
        ops = [build_op(plan, op, channels) for op in step]
        steps.append(ops[0] if len(ops) == 1 else Concat(ops))
        channels = out_channels((step,), channels)
    return steps


def build_block(plan: Plan, block: Block) -> nn.Module:
    """Build the concatenation of a block's rows, inside a residual block if it is one."""
    concat = Concat(build_row(plan, row, block.c_in) for row in block.rows)
    if block.residual is None:
        return concat
    return ResidualBlock(plan, block, block.residual, concat)
