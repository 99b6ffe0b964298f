"""Projection of a training to machines that are not here: speed, memory, traffic, data and failures.

Nothing here is measured but the share of its bound that a network reaches on this machine, and the bytes that it saves for
the backward pass. `scaling` compares the same model with measurements of several processes.
"""

import math
from dataclasses import dataclass, replace

from inception_zoo.architecture.plan import Plan
from inception_zoo.bench.contenders import Contender, device
from inception_zoo.bench.machine import PRECISIONS, bandwidth, gemm_peak, with_share
from inception_zoo.bench.memory import saved_bytes
from inception_zoo.bench.options import Options
from inception_zoo.bench.roofline import Machine, bound, layers, step_bytes, step_flops
from inception_zoo.bench.turns import Figure, Measured, contested

# Vendor's figures: 989 TFLOP/s dense bf16, 3.35 TB/s, NVLink 900 GB/s for both directions, InfiniBand 400 Gb/s per GPU.
H100 = Machine("H100 SXM", 989e12, 3.35e12, node=450e9, network=50e9)
GPUS = (1, 8, 256)
GPU_BATCH = 256  # images per GPU
HOURS = 16_384 * 54 * 24 / 419  # GPU hours between unexpected interruptions: 419 in 54 days (Llama 3, section 3.3.4)
DISK = 1e9  # bytes/s at which a checkpoint is written, assumed
STATE = 16  # bytes per weight: weight, gradient, momentum and average in fp32
JPEG = 115_000  # bytes of a training image of ImageNet on average: an archive of 147.9 GB with 1,281,167 images
RESTART = 7 / 60  # hours until a failure is noticed (trainer.timeout_minutes) and SLURM starts the job again


def measure(options: Options) -> Measured:
    """Measure this machine's peaks; per network the intensity, the bound, the speed reached, and its projection to H100s."""
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
        saved = saved_bytes(ours.build(case), case.images(3).to(device(), memory_format=ours.layout))
        for label, unit, value in projected(plan, size, reached.median / most, saved):
            yield f"roofline/{name}/{label}", Figure(unit, [value])


def projected(plan: Plan, image_size: int, reached: float, saved: float) -> list[tuple[str, str, float]]:
    """Return (label, unit, value) of everything that is projected for a network on H100s.

    Args:
        plan: plan of the network.
        image_size: pixels.
        reached: share of its bound that the network reaches on this machine, from 0 to 1.
        saved: bytes per image that the network saves for the backward pass.
    """
    weights = sum(layer.weights for layer in layers(plan, image_size))
    found = [(f"projected memory of a {H100.name}", "bytes", STATE * weights + GPU_BATCH * saved)]
    for devices in GPUS:
        speed = project(plan, image_size, GPU_BATCH, H100, devices, reached)
        where = f"{devices} {H100.name}"
        found.append((f"projected for {where}", "images/s, projected", speed.overlapped))
        if devices == 1:
            continue
        failures, node = Failures(devices, weights), speed.overlapped * min(1.0, H100.node_size / devices)
        found += [
            (f"projected for {where}, nothing hidden", "images/s, projected", speed.serial),
            (f"projected for {where}, sent by a GPU in a step", "bytes", per_step(weights, devices, H100)),
            (f"projected for {where}, read by a node", "bytes/s", node * JPEG),
            (f"projected for {where}, between failures", "hours", failures.hours),
            (f"projected for {where}, callbacks.last.every_minutes", "minutes", failures.minutes),
            (f"projected for {where}, time lost then", "%", 100 * failures.lost(failures.minutes)),
        ]
    return found


def all_reduce(weights: int, devices: int, machine: Machine, item: int = 4) -> float:
    """Return the seconds of a ring all-reduce of gradients: first within nodes, then between one device of each node.

    Args:
        weights: number of gradients.
        devices: number of devices in all nodes together.
        machine: bandwidths between devices.
        item: bytes per gradient.
    """
    volume, inside = weights * item, min(devices, machine.node_size)
    nodes = devices // inside
    seconds = 2 * (inside - 1) / inside * volume / machine.node
    if nodes > 1:
        seconds += 2 * (nodes - 1) / nodes * volume / inside / machine.network
    return seconds


def per_step(weights: int, devices: int, machine: Machine, item: int = 4) -> float:
    """Return the bytes that a device sends in a ring all-reduce, within its node and between nodes together."""
    return all_reduce(weights, devices, replace(machine, node=1.0, network=1.0), item)  # at one byte a second


@dataclass(frozen=True)
class Failures:
    """Interruptions of a job on many devices, and the best interval between checkpoints (Young 1974, Daly 2006).

    Args:
        devices: number of devices.
        weights: number of weights; a checkpoint has them, their momentum and an average.
    """

    devices: int
    weights: int

    @property
    def hours(self) -> float:
        """Hours between two failures."""
        return HOURS / self.devices

    @property
    def minutes(self) -> float:
        """Best interval between checkpoints, for `callbacks.last.every_minutes`."""
        return math.sqrt(2 * self._save * 3600 * self.hours) / 60

    def lost(self, minutes: float) -> float:
        """Return the share of the time that is lost: to checkpoints, to work that is done again, and to restarts."""
        return self._save / (60 * minutes) + (minutes / 2 / 60 + RESTART) / self.hours

    @property
    def _save(self) -> float:
        return 12 * self.weights / DISK


@dataclass(frozen=True)
class Projection:
    """Projected images/s of all devices together."""

    overlapped: float  # the backward pass hides as much of the all-reduce as it can
    serial: float  # the all-reduce starts after the backward pass


def project(plan: Plan, image_size: int, batch: int, machine: Machine, devices: int, reached: float) -> Projection:
    """Project a training speed to a machine that is not here: its bound times the share of the bound reached here.

    Args:
        plan: plan of the network.
        image_size: pixels.
        batch: images per device and step.
        machine: peaks of a device, and bandwidths between devices.
        devices: number of devices.
        reached: share of its bound that the network reaches on this machine, from 0 to 1.
    """
    step = batch / (bound(plan, image_size, batch, machine) * reached)
    reduce = all_reduce(sum(layer.weights for layer in layers(plan, image_size)), devices, machine) if devices > 1 else 0.0
    exposed = max(0.0, reduce - step * 2 / 3)  # the backward pass has two of a step's three products
    return Projection(devices * batch / (step + exposed), devices * batch / (step + reduce))
