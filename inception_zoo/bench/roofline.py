"""Roofline: upper bound of a network's training speed on a machine.

The seconds of a training step are summed layer by layer. A convolution takes the longer of two times: its FLOPs at the
peak rate, or its bytes at full bandwidth. The operations between convolutions take their bytes at full bandwidth.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from inception_zoo.architecture.cost import convolutions, weights_of
from inception_zoo.architecture.geometry import Size, out_channels
from inception_zoo.architecture.notation import Conv, Depthwise
from inception_zoo.architecture.plan import Plan

# Passes of BatchNorm and ReLU over an activation. Forward reads it twice and writes once; backward reads the activation
# and its gradient twice each and writes once.
PASSES = 8
CONCAT = 4  # passes of a concatenation: one read and one write, forward and backward
# Bytes per weight: in fp32, SGD reads weight, gradient and momentum and writes weight and momentum; a bf16 copy is
# written and read.
OPTIMIZER = 26


@dataclass(frozen=True)
class Layer:
    """A convolution or the classifier."""

    macs: int  # multiply-adds per image
    reads: int  # input values per image
    weights: int
    writes: int  # output values per image


@dataclass(frozen=True)
class Machine:
    """Peak rates of a device, and the bytes/s in one direction between devices."""

    name: str
    flops: float  # FLOP/s
    bandwidth: float  # bytes/s of the device's memory
    node: float = 0.0  # bytes/s per device within a node
    network: float = 0.0  # bytes/s per device between nodes
    node_size: int = 8  # devices per node


def layers(plan: Plan, image_size: int) -> list[Layer]:
    """Return every convolution of the plan, then the embedding, if there is one, and the classifier."""
    found: list[Layer] = []
    grid = (image_size, image_size)
    for block in plan.blocks:
        for row in block.rows:
            found += (_conv(*each) for each in convolutions(row, block.c_in, grid))
        after = block.out_size(grid)
        if block.residual and block.residual.project:
            found.append(_conv(block.joined, Conv((1, 1), 1, "", block.c_out), after, after))
        if block.shortcut:
            found.append(_conv(block.c_in, block.shortcut, grid, after))
        grid = after
    sizes = [plan.blocks[-1].c_out, *([plan.embedding] if plan.embedding else []), plan.num_classes]
    return found + [Layer(n * m, n, n * m, m) for n, m in pairwise(sizes)]


def _conv(channels: int, op: Conv | Depthwise, grid: Size, after: Size) -> Layer:
    weights, width = weights_of(op, channels), out_channels(((op,),), channels)
    return Layer(weights * after[0] * after[1], channels * grid[0] * grid[1], weights, width * after[0] * after[1])


def step_flops(plan: Plan, image_size: int) -> int:
    """Return the FLOPs of a training step per image: forward and the gradients of input and weights, 2 per multiply-add."""
    return 6 * sum(layer.macs for layer in layers(plan, image_size))


def step_bytes(plan: Plan, image_size: int, batch: int, item: int) -> float:
    """Return the bytes that a training step moves per image, if each product reads and writes its tensors once.

    Args:
        plan: plan of the network.
        image_size: pixels.
        batch: images per step.
        item: bytes per value.
    """
    every = layers(plan, image_size)
    convs = sum(3 * (layer.reads + layer.writes + layer.weights / batch) for layer in every) * item
    return convs + _between(plan, image_size, item) + OPTIMIZER * sum(layer.weights for layer in every) / batch


def _between(plan: Plan, image_size: int, item: int) -> int:
    maps = sum(layer.writes for layer in layers(plan, image_size)[:-1])
    shapes = plan.shapes(image_size)
    joined = sum(block.joined * math.prod(shapes[block.name][1:]) for block in plan.blocks if block.has_branches)
    return (PASSES * maps + CONCAT * joined) * item


def bound(plan: Plan, image_size: int, batch: int, machine: Machine, item: int = 2) -> float:
    """Return the images/s that training on one device cannot exceed.

    Args:
        plan: plan of the network.
        image_size: pixels.
        batch: images per step.
        machine: peaks of the device.
        item: bytes per value.
    """
    seconds = _between(plan, image_size, item) * batch / machine.bandwidth
    for layer in layers(plan, image_size):
        moved = ((layer.reads + layer.writes) * batch + layer.weights) * item
        seconds += 3 * max(2 * layer.macs * batch / machine.flops, moved / machine.bandwidth)
        seconds += OPTIMIZER * layer.weights / machine.bandwidth
    return batch / seconds
