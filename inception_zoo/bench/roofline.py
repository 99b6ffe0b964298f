"""The bounds of a network: its FLOPs and bytes over the peaks of a machine; and a projection for machines not here.

An upper bound of the speed of a training step, layer by layer: a convolution takes as long as its FLOPs at the peak or its
bytes at the full bandwidth, whichever is more, and what stands between convolutions takes its bytes.
"""

import math
from dataclasses import dataclass

from inception_zoo.architecture.cost import convolutions
from inception_zoo.architecture.geometry import Size
from inception_zoo.architecture.notation import Conv
from inception_zoo.architecture.plan import Plan
from inception_zoo.bench.contenders import Contender
from inception_zoo.bench.machine import PRECISIONS, bandwidth, gemm_peak, with_share
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Figure, Measured, contested

# Of BatchNorm and ReLU over a map: forward reads it twice and writes it; backward reads map and gradient twice, writes.
PASSES = 8
CONCAT = 4  # of a concatenation: read and written, forward and backward
# Bytes a weight: SGD reads weight, gradient and momentum and writes two, in fp32; the bf16 copy is made and read.
OPTIMIZER = 26


@dataclass(frozen=True)
class Layer:
    """A convolution or the classifier: multiply-adds, and numbers read, of weights, and written; per image."""

    macs: int
    reads: int
    weights: int
    writes: int


@dataclass(frozen=True)
class Machine:
    """Peaks of one device, and the bytes/s in one direction between devices of a node and of the next one."""

    name: str
    flops: float
    bandwidth: float
    node: float = 0.0
    network: float = 0.0
    node_size: int = 8


# Vendor's figures: 989 TFLOP/s bf16 dense, 3.35 TB/s, NVLink 900 GB/s both ways together, InfiniBand 400 Gb/s a GPU.
H100 = Machine("H100 SXM", 989e12, 3.35e12, node=450e9, network=50e9)


GPUS = (1, 8, 256)
GPU_BATCH = 256  # of each


def measure(options: Options) -> Measured:
    """This machine's peaks; each network's intensity, its bound here, the speed that it reaches, and what that projects."""
    for precision, name in PRECISIONS.items():
        yield f"roofline/peak/{name}", Figure("FLOP/s", [gemm_peak(precision)])
    yield "roofline/peak/bandwidth", Figure("bytes/s", [bandwidth()])
    ours = Contender()
    here, item = Machine("this machine", gemm_peak(ours.precision), bandwidth()), ours.precision.itemsize
    for name, case in options.cases().items():
        plan, size = case.plan, case.image_size
        intensity = step_flops(plan, size) / step_bytes(plan, size, case.batch, item)
        most = bound(plan, size, case.batch, here, item)
        yield f"roofline/{name}/intensity", Figure("FLOP/byte", [intensity])
        yield f"roofline/{name}/bound", Figure("images/s", [most])
        ((_, reached),) = contested("", {"": ours.trains(case)}, options.rounds)
        yield f"roofline/{name}/reached", with_share(reached, plan, size, ours.precision, training=True)
        for devices in GPUS:
            projected = project(plan, size, GPU_BATCH, H100, devices, reached.median / most)
            speeds = {"": projected.overlapped, ", nothing hidden": projected.serial}
            for how, speed in speeds.items():
                if devices > 1 or not how:
                    yield f"roofline/{name}/projected for {devices} {H100.name}{how}", Figure("images/s, projected", [speed])


def layers(plan: Plan, image_size: int) -> list[Layer]:
    """Every convolution of the plan, then the classifier."""
    found: list[Layer] = []
    grid = (image_size, image_size)
    for block in plan.blocks:
        for row in block.rows:
            found += (_conv(*each) for each in convolutions(row, block.c_in, grid))
        if block.residual:
            found.append(_conv(block.joined, Conv((1, 1), 1, "", block.c_out), grid, grid))
            if block.residual.shortcut:
                found.append(_conv(block.c_in, Conv((1, 1), 1, "", block.c_out), grid, grid))
        grid = block.out_size(grid)
    c_in, classes = plan.blocks[-1].c_out, plan.num_classes
    return [*found, Layer(c_in * classes, c_in, c_in * classes, classes)]


def _conv(channels: int, op: Conv, grid: Size, after: Size) -> Layer:
    weights = op.kernel[0] * op.kernel[1] * channels * op.width
    return Layer(weights * after[0] * after[1], channels * grid[0] * grid[1], weights, op.width * after[0] * after[1])


def step_flops(plan: Plan, image_size: int) -> int:
    """Of one image in training: forward, and the gradients of input and weights, 2 FLOPs a multiply-add."""
    return 6 * sum(layer.macs for layer in layers(plan, image_size))


def step_bytes(plan: Plan, image_size: int, batch: int, item: int) -> float:
    """That a training step moves for each image, in numbers of `item` bytes, if each product reads and writes its maps once."""
    every = layers(plan, image_size)
    convs = sum(3 * (layer.reads + layer.writes + layer.weights / batch) for layer in every) * item
    return convs + _between(plan, image_size, item) + OPTIMIZER * sum(layer.weights for layer in every) / batch


def _between(plan: Plan, image_size: int, item: int) -> int:
    maps = sum(layer.writes for layer in layers(plan, image_size)[:-1])
    shapes = plan.shapes(image_size)
    joined = sum(block.joined * math.prod(shapes[block.name][1:]) for block in plan.blocks if block.has_branches)
    return (PASSES * maps + CONCAT * joined) * item


def bound(plan: Plan, image_size: int, batch: int, machine: Machine, item: int = 2) -> float:
    """Images/s that training cannot exceed on one device."""
    seconds = _between(plan, image_size, item) * batch / machine.bandwidth
    for layer in layers(plan, image_size):
        moved = ((layer.reads + layer.writes) * batch + layer.weights) * item
        seconds += 3 * max(2 * layer.macs * batch / machine.flops, moved / machine.bandwidth)
        seconds += OPTIMIZER * layer.weights / machine.bandwidth
    return batch / seconds


def all_reduce(weights: int, devices: int, machine: Machine, item: int = 4) -> float:
    """Seconds to sum the gradients of so many weights: rings within the nodes, then of one device of each node."""
    volume, inside = weights * item, min(devices, machine.node_size)
    nodes = devices // inside
    seconds = 2 * (inside - 1) / inside * volume / machine.node
    if nodes > 1:
        seconds += 2 * (nodes - 1) / nodes * volume / inside / machine.network
    return seconds


@dataclass(frozen=True)
class Projection:
    """Images/s of many devices together: with all-reduce hidden behind the backward pass as far as it goes, and with none."""

    overlapped: float
    serial: float


def project(plan: Plan, image_size: int, batch: int, machine: Machine, devices: int, reached: float) -> Projection:
    """Not measured: the bound of one device times the share of its bound that the network reaches here.

    Args:
        batch: of each device.
        reached: that share.
    """
    step = batch / (bound(plan, image_size, batch, machine) * reached)
    reduce = all_reduce(sum(layer.weights for layer in layers(plan, image_size)), devices, machine) if devices > 1 else 0.0
    exposed = max(0.0, reduce - step * 2 / 3)  # the backward pass is two of a step's three products
    return Projection(devices * batch / (step + exposed), devices * batch / (step + reduce))
