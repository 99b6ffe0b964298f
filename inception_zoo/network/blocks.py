"""Rows → modules: the convolution unit, the concatenation, the residual block and the auxiliary head.

Each `forward` computes the paper's figure with PyTorch's operators. `autograd.trained_by` names the function that replaces it
in training: it gives the same result with less memory, and uses this package's CPU kernels.
"""

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.architecture.geometry import out_channels, out_size, padding, same_padding
from inception_zoo.architecture.nets.table import Aux, Residual
from inception_zoo.architecture.notation import ACT, LRN, Conv, Depthwise, Op, Pool, Row, Window, parse
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


def activation(plan: Plan, inplace: bool = True) -> nn.Module:
    """Build the chosen activation; by default, it overwrites its input if it can."""
    kind = ACTIVATIONS[plan.choices.activation]
    return kind() if plan.choices.activation == "gelu" else kind(inplace=inplace)


def norm(plan: Plan, channels: int) -> nn.Module | None:
    """Build the chosen normalization for `channels`; None if convolutions have none."""
    if plan.choices.norm == "batch":
        return nn.BatchNorm2d(channels, eps=plan.net.eps, momentum=plan.net.momentum)
    if plan.choices.norm == "group":  # 32 groups (arXiv 1803.08494), fewer if 32 does not divide the channels
        return nn.GroupNorm(next(g for g in range(32, 0, -1) if channels % g == 0), channels)
    return None


@autograd.trained_by(autograd.convolve)
class ConvUnit(nn.Sequential):
    """``act(norm(conv(x)))``: (N, channels, H, W) → (N, op.width, H', W'); no activation if the op is linear."""

    def __init__(self, plan: Plan, channels: int, op: Conv) -> None:
        super().__init__()
        place = op.kernel, op.stride, padding(op), op.dilation, op.groups
        self.conv = nn.Conv2d(channels, op.width, *place, bias=plan.bias)
        if (layer := norm(plan, op.width)) is not None:
            self.norm = layer
        if not op.linear:
            self.act = activation(plan)

    def forward(self, x: Tensor) -> Tensor:
        conv, *rest = self
        x = autograd.convolve_narrow(conv, x, autograd.width_of(conv))
        for layer in rest:
            x = layer(x)
        return x


@autograd.trained_by(autograd.repeated)
class DepthwiseConv(nn.Conv2d):
    """One filter per channel: (N, C, H, W) → (N, C, H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        return autograd.convolve_narrow(super().forward, x, autograd.columns_of(self))


@autograd.trained_by(autograd.repeated)
class Activation(nn.Sequential):
    """The activation as a step of its own, which leaves its input as it is: (N, C, H, W) → (N, C, H, W)."""


@autograd.trained_by(autograd.pooled)
class MaxPool(nn.MaxPool2d):
    """Max pooling: (N, C, H, W) → (N, C, H', W')."""


@autograd.trained_by(autograd.pooled)
class AvgPool(nn.AvgPool2d):
    """Average pooling: (N, C, H, W) → (N, C, H', W')."""


@autograd.trained_by(autograd.run_steps)
class Steps(nn.Sequential):
    """A row, which runs its steps one after the other: (N, C, H, W) → (N, K, H', W')."""


@autograd.trained_by(autograd.run_branches)
class Concat(nn.ModuleList):
    """The papers' "filter concat": (N, C, H, W) → (N, sum(K_i), H', W').

    Every branch reads the same feature maps. Branch i gives (N, K_i, H', W').
    """

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self]
        return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]


@autograd.trained_by(autograd.residual)
class ResidualBlock(nn.Module):
    """``act(shortcut(x) + scale * project(concat(x)))``: (N, C, H, W) → (N, K, H', W').

    The projection is a linear 1x1 convolution (arXiv 1602.07261, Figures 10 to 20), or the identity.
    """

    def __init__(self, plan: Plan, block: Block, residual: Residual, concat: Concat) -> None:
        super().__init__()
        self.concat = concat
        self.project = nn.Conv2d(block.joined, block.c_out, 1) if residual.project else nn.Identity()
        self.shortcut = build_shortcut(plan, block.shortcut, block.c_in) if block.shortcut else nn.Identity()
        self.drop = _drop_path(residual.drop_path) if residual.drop_path else nn.Identity()
        self.act = activation(plan) if residual.relu else nn.Identity()
        self.scale = residual.scale

    def forward(self, x: Tensor) -> Tensor:
        branches = self.drop(self.project(self.concat(x)))
        return self.act(torch.add(self.shortcut(x), branches, alpha=self.scale))


class Subsample(nn.Module):
    """Every `stride`-th row and column: (N, C, H, W) → (N, C, H', W'). A copy, because a view would keep all of x in memory."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :: self.stride, :: self.stride].clone()


def build_shortcut(plan: Plan, op: Conv, channels: int) -> nn.Module:
    """Build the projected shortcut of a residual sum.

    A stride is a step of its own: oneDNN 3.12 aborts in the gradient of some 1x1 convolutions with one.
    """
    unit = ConvUnit(plan, channels, replace(op, stride=1))
    return Steps(Subsample(op.stride), unit) if op.stride > 1 else unit


def _drop_path(rate: float) -> nn.Module:
    from torchvision.ops import StochasticDepth  # import here: it takes as long as torch's import

    return StochasticDepth(rate, "row")


class AuxHead(nn.Module):
    """The auxiliary classifier of GoogLeNet and Inception-v3: (N, channels, H, W) → (N, classes).

    The papers use a 5x5 average pool with stride 3 at the published image size. At other sizes, an adaptive pool gives the same
    grid, so the fully connected layer keeps its shape.
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


class UnitLength(nn.Module):
    """Embeddings (N, D) → the same, divided by their Euclidean length."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x)


def build_embedding(plan: Plan) -> nn.Module:
    """Return the layers from pooled features (N, C) to an embedding (N, D): linear without bias, then BatchNorm (facenet)."""
    if plan.embedding is None:
        return nn.Identity()
    linear = nn.Linear(plan.blocks[-1].c_out, plan.embedding, bias=False)
    norm = nn.BatchNorm1d(plan.embedding, eps=plan.net.eps, momentum=plan.net.momentum)
    return nn.Sequential(OrderedDict(linear=linear, norm=norm))


class SamePad(nn.Module):
    """The padding of TensorFlow's "same" before an op: (N, C, H, W) → (N, C, H', W')."""

    def __init__(self, op: Window) -> None:
        super().__init__()
        self.kernel, self.stride, self.value = op.span, op.stride, float("-inf") if isinstance(op, Pool) else 0.0

    def forward(self, x: Tensor) -> Tensor:
        return _pad_same(x, self.kernel, self.stride, self.value)


@torch.fx.wrap
def _pad_same(x: Tensor, kernel: tuple[int, int], stride: int, value: float) -> Tensor:
    height, width = same_padding(kernel, stride, x.shape[-2:])
    return F.pad(x, (*width, *height), value=value)


class LocalResponseNorm(nn.LocalResponseNorm):
    """Local response normalization, computed in fp32 in a network of bf16 or fp16: torch has no such kernel for CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        return _local_response_norm(x, self.size, self.alpha, self.beta, self.k)


@torch.fx.wrap
def _local_response_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    if x.is_cpu and x.dtype in (torch.bfloat16, torch.float16) and not torch.is_autocast_enabled("cpu"):
        return F.local_response_norm(x.float(), size, alpha, beta, k).to(x.dtype)
    return F.local_response_norm(x, size, alpha, beta, k)


def build_op(plan: Plan, op: Op, channels: int) -> nn.Module:
    """Build one op with `channels` input channels."""
    if op == LRN:
        size, alpha, beta = plan.net.lrn
        return LocalResponseNorm(size, alpha, beta)
    if op == ACT:
        return Activation(activation(plan, inplace=False))
    assert isinstance(op, Window)
    if op.edge == "s":
        return Steps(SamePad(op), build_op(plan, replace(op, edge="v"), channels))
    if isinstance(op, Conv):
        return ConvUnit(plan, channels, op)
    if isinstance(op, Depthwise):
        return DepthwiseConv(channels, channels, op.kernel, op.stride, padding(op), op.dilation, channels, bias=False)
    assert isinstance(op, Pool)
    if op.kind == "max":
        return MaxPool(op.kernel, op.stride, padding(op), ceil_mode=op.edge == "c")
    return AvgPool(op.kernel, op.stride, padding(op), op.edge == "c", plan.net.count_padding)


def build_row(plan: Plan, row: Row, channels: int) -> Steps:
    """Build a row with `channels` input channels; a fork becomes a `Concat` of its ops."""
    steps = Steps()
    for step in row:
        ops = [build_op(plan, op, channels) for op in step]
        steps.append(ops[0] if len(ops) == 1 else Concat(ops))
        channels = out_channels((step,), channels)
    return steps


def build_block(plan: Plan, block: Block) -> nn.Module:
    """Build a block: the `Concat` of its rows, a `ResidualBlock` that contains it, or the module of a user's function."""
    if block.module:
        return block.module.build()
    concat = Concat(build_row(plan, row, block.c_in) for row in block.rows)
    if block.residual is None:
        return concat
    return ResidualBlock(plan, block, block.residual, concat)
