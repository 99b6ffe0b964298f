"""Fold and fuse a network for evaluation: the same logits from fewer and cheaper operations."""

from copy import deepcopy
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inception_zoo.network import kernels
from inception_zoo.network.autograd.narrow import columns_of, convolve_narrow
from inception_zoo.network.autograd.pools import AnyPool, Pool, has_kernel
from inception_zoo.network.blocks import ConvUnit, DepthwiseConv, ResidualBlock
from inception_zoo.network.inception import Inception


class Bias(nn.Module):
    """Add a number to each channel: (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone().view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def fold(model: Inception) -> Inception:
    """Return a copy in evaluation mode with the same logits, built from PyTorch's own layers.

    Each BatchNorm is folded into the convolution before it. Other normalizations depend on the image and stay. An average
    pool before a 1x1 convolution moves behind it, where there are fewer channels; both are linear and commute.
    """
    folded = deepcopy(model).eval()
    for unit in list(folded.modules()):
        if not isinstance(unit, ConvUnit) or type(unit.conv) is not nn.Conv2d:  # a subclass may compute in its own way
            continue
        if isinstance(norm := getattr(unit, "norm", None), nn.BatchNorm2d):
            unit.conv = fuse_conv_bn_eval(unit.conv, norm)
            del unit.norm
    for row in list(folded.modules()):
        if isinstance(row, nn.Sequential) and not isinstance(row, ConvUnit):
            for i in range(len(row) - 1):
                _pool_later(row, i)
    return folded


def _pool_later(row: nn.Sequential, i: int) -> None:
    """Move an average pool at `i` after a 1x1 convolution at `i + 1`, if that has no more outputs than inputs."""
    pool, unit = row[i], row[i + 1]
    if not (isinstance(pool, nn.AvgPool2d) and pool.stride == 1 and isinstance(unit, ConvUnit)):
        return
    conv = unit.conv
    if (
        type(conv) is nn.Conv2d
        and conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.out_channels <= conv.in_channels
    ):
        layers = {name: layer for name, layer in unit.named_children() if name != "conv"}
        if conv.bias is not None:
            # Add the bias after the pool: at the border the pool averages padded zeros too, which would shrink the bias.
            layers = {"bias": Bias(conv.bias), **layers}
            conv.bias = None
        row[i] = conv
        row[i + 1] = nn.Sequential()
        for name, layer in {"pool": pool, **layers}.items():
            row[i + 1].add_module(name, layer)


class OneCall(nn.Module):
    """Convolution, bias, residual sum and ReLU in one call of oneDNN.

    Args:
        conv: the convolution.
        relu: apply ReLU to the output.
        scale: factor for weight and bias.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = conv.weight.detach() * scale
        self.bias = None if conv.bias is None else conv.bias.detach() * scale
        self.place = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self.width = columns_of(conv)
        self.relu = relu

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        weight = self.weight
        if not weight.is_mkldnn:  # oneDNN's own layout: fastest at this image size, correct at any
            self.weight = weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.place, list(x.shape))
        if other is not None:
            return kernels.convolve_and_add(x, other, weight, self.bias, self.place, self.relu)
        then = "relu" if self.relu else "none"
        run = torch.ops.mkldnn._convolution_pointwise
        return convolve_narrow(lambda x: run(x, weight, self.bias, *self.place, then, [], ""), x, self.width)


class Pooled(nn.Module):
    """A pooling layer that uses our kernel if it supports the input."""

    def __init__(self, pool: AnyPool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return Pool.apply(x, self.pool) if has_kernel(self.pool, x) else self.pool(x)


class Sum(nn.Module):
    """A residual block with projection, sum and ReLU in one call of oneDNN."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        assert isinstance(block.project, nn.Conv2d)
        relu = isinstance(block.act, nn.ReLU)
        self.concat, self.shortcut = block.concat, block.shortcut
        self.project = OneCall(block.project, relu, block.scale)
        self.act = nn.Identity() if relu else block.act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.project(self.concat(x), self.shortcut(x)))


def fuse(model: Inception, dtype: torch.dtype = torch.float32) -> Inception:
    """Return `fold(model)` in `dtype` and channels_last, with fused convolutions (oneDNN) and our pooling kernels.

    The copy reads images (N, C, S, S) of `dtype` and does not support gradients. On a GPU, or without oneDNN support, it is
    only folded.
    """
    fused = fold(model).requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if next(fused.parameters()).device.type == "cpu" and kernels.in_one_call(dtype):
        _fuse(fused)
    return fused


def _is_ordinary(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return True for a convolution with zero padding, given as numbers; another subclass may pad in its own way."""
    return type(layer) in (nn.Conv2d, DepthwiseConv) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _fuse(parent: nn.Module) -> None:
    children = list(parent.named_children())
    for (name, child), (after, follower) in zip(children, [*children[1:], ("", None)], strict=False):
        if _is_ordinary(child):
            relu = isinstance(follower, nn.ReLU)
            setattr(parent, name, OneCall(child, relu))
            if relu:
                setattr(parent, after, nn.Identity())
            continue
        if isinstance(child, nn.MaxPool2d | nn.AvgPool2d):
            setattr(parent, name, Pooled(child))
            continue
        if isinstance(child, ResidualBlock) and _is_ordinary(child.project):
            child = Sum(child)
            setattr(parent, name, child)
        if type(child).__module__.startswith(("inception_zoo.", "torch.nn.modules.container")):
            _fuse(child)  # a layer of the user may run its children in another order
