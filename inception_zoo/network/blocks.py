"""Rows → modules: the convolution unit, the concat and the residual block, the auxiliary head."""

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
    kind = ACTIVATIONS[plan.choices.activation]
    return kind() if plan.choices.activation == "gelu" else kind(inplace=True)


def norm(plan: Plan, channels: int) -> nn.Module | None:
    if plan.choices.norm == "batch":
        return nn.BatchNorm2d(channels, eps=plan.net.eps, momentum=plan.net.momentum)
    if plan.choices.norm == "group":  # at most 32 groups (arXiv 1803.08494), fewer where the channels do not divide
        return nn.GroupNorm(next(g for g in range(32, 0, -1) if channels % g == 0), channels)
    return None


class ConvUnit(nn.Sequential):
    """Convolution, normalization and, unless `linear`, activation."""

    lean = False

    def __init__(self, plan: Plan, channels: int, op: Conv, linear: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, op.width, op.kernel, op.stride, padding(op), bias=plan.bias)
        if (layer := norm(plan, op.width)) is not None:
            self.norm = layer
        if not linear:
            self.act = activation(plan)

    def forward(self, x: Tensor, pool: nn.AvgPool2d | None = None) -> Tensor:
        """`pool`, an average, comes after the convolution: see `autograd.run_steps`."""
        return autograd.convolve(x, self, pool, self.lean) if autograd.recording(self) else super().forward(x)


class MaxPool(nn.MaxPool2d):
    lean = False

    def forward(self, x: Tensor) -> Tensor:
        return autograd.pooled(x, self, super().forward, self.lean) if autograd.recording(self) else super().forward(x)


class AvgPool(nn.AvgPool2d):
    lean = False

    def forward(self, x: Tensor) -> Tensor:
        return autograd.pooled(x, self, super().forward, self.lean) if autograd.recording(self) else super().forward(x)


class Steps(nn.Sequential):
    """A row's steps."""

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def run(self, x: Tensor, begin: int = 0) -> Tensor:
        """From the step that is numbered `begin` on: `autograd.run_branches` takes the first ones of several rows together."""
        steps = list(self)[begin:]
        if autograd.recording(self):
            return autograd.run_steps(steps, x)
        for step in steps:
            x = step(x)
        return x


class Concat(nn.ModuleList):
    """Every branch reads the same maps; the outputs are concatenated over channels: "filter concat"."""

    lean = False

    def forward(self, x: Tensor) -> Tensor:
        if len(self) == 1:
            return self[0](x)
        if autograd.recording(self):
            return autograd.run_branches(self, x, self.lean)
        return torch.cat([branch(x) for branch in self], 1)


class ResidualBlock(nn.Module):
    """``activation(x + scale * project(concat(x)))``, with a linear 1x1 projection (arXiv 1602.07261, Figures 10 to 20)."""

    lean = False

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
        joined = self.concat(x)
        if autograd.recording(self) and autograd.is_plain_sum(self):
            relu = isinstance(self.act, nn.ReLU)
            return autograd.residual(self.shortcut(x), joined, self.project, self.scale, relu, self.lean)
        branches = self.drop(self.project(joined))
        return self.act(torch.add(self.shortcut(x), branches, alpha=self.scale))


def _drop_path(rate: float) -> nn.Module:
    from torchvision.ops import StochasticDepth  # as long an import as torch's

    return StochasticDepth(rate, "row")


class AuxHead(nn.Module):
    """The auxiliary classifier of GoogLeNet and Inception-v3: (N, channels, H, W) → (N, classes).

    The papers average-pool 5x5 with stride 3 at the published input size. At any other size the pool is adaptive, to
    the same grid, so that the fully connected layer keeps its shape.
    """

    def __init__(self, plan: Plan, head: Aux, channels: int) -> None:
        super().__init__()
        self.grid, self.adaptive = head.grid, head.adaptive
        rows = [parse(row) for row in head.rows]
        size = (head.grid, head.grid)
        self.rows = nn.Sequential()
        for row in rows:
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
    if isinstance(op, Conv):
        return ConvUnit(plan, channels, op)
    if isinstance(op, Lrn):
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
    if op.kind == "max":
        return MaxPool(op.kernel, op.stride, padding(op), ceil_mode=op.edge == "c")
    return AvgPool(op.kernel, op.stride, padding(op), op.edge == "c", plan.net.count_padding)


def build_row(plan: Plan, row: Row, channels: int) -> Steps:
    steps = Steps()
    for step in row:
        ops = [build_op(plan, op, channels) for op in step]
        steps.append(ops[0] if len(ops) == 1 else Concat(ops))
        channels = out_channels((step,), channels)
    return steps


def build_block(plan: Plan, block: Block) -> nn.Module:
    concat = Concat(build_row(plan, row, block.c_in) for row in block.rows)
    if block.residual is None:
        return concat
    return ResidualBlock(plan, block, block.residual, concat)
