"""Cost of training as a function of batch size, resolution, width, depth and number of processes."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from inception_zoo.architecture.nets.table import Net
from inception_zoo.bench.contenders import Case, Contender, case_of, device
from inception_zoo.bench.framework import MEMORY as GIB
from inception_zoo.bench.framework import short_run, size_of_the_job
from inception_zoo.bench.machine import all_reduce_seconds, with_share
from inception_zoo.bench.memory import peak, saved_bytes
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Figure, Measured, contested, in_turns

BATCH = 4  # on every axis but `batch`
POINTS: Mapping[str, tuple[float, ...]] = {
    "batch": (1, 2, 4, 8, 16, 32),
    "resolution": (75, 107, 149, 224, 299, 373, 448),
    "width": (0.25, 0.5, 0.75, 1, 1.5, 2),
    "depth": (0, 2, 4, 8, 12),  # blocks added: copies of the last block of the 17x17 grid
}
ON_CPUS = {1, 2, 4}  # processes
MEMORY = ", memory"


def measure(options: Options) -> Measured:
    """Measure the speed and memory at each point of each axis: ``scaling/NETWORK AXIS/POINT`` and ``…, memory/POINT``."""
    for name in options.networks or ("inception_v3",):
        for axis, points in POINTS.items():
            cases = {point: _case(name, axis, point) for point in points}
            cases = {point: case for point, case in cases.items() if case.plan.fits(case.image_size)}
            turns = {f"{point:g}": Contender().trains(case) for point, case in cases.items()}
            for key, figure in contested(f"scaling/{name} {axis}", turns, options.rounds):
                case = cases[float(key.rpartition("/")[2])]
                yield key, with_share(figure, case.plan, case.image_size, Contender().precision, training=True)
            del turns
            for point, case in cases.items():
                if axis == "batch":
                    yield f"scaling/{name} batch{MEMORY}/{point:g}", Figure("bytes", [peak(case, Contender())])
                else:
                    images = case.images(3).to(device(), memory_format=Contender().layout)
                    saved = saved_bytes(Contender().build(case), images)
                    yield f"scaling/{name} {axis}{MEMORY}/{point:g}", Figure("bytes/image", [saved])
    if not options.networks:
        yield from _processes(options)


def _processes(options: Options) -> Measured:
    """Measure the main job in one and more processes (a thread or a GPU each): total images/s, bytes of the largest process.

    On CPUs, with up to four processes even on fewer cores, and beside a prediction: each process takes as long as one process
    alone does with the same number of images, more processes than cores take turns, and a sum of the gradients follows.
    """
    devices = torch.cuda.device_count() or os.cpu_count() or 1
    points = sorted(
        {min(2**power, devices) for power in range(devices.bit_length() + 1)}
        | (set() if torch.cuda.is_available() else ON_CPUS)
    )
    weights, batch = size_of_the_job(options)
    turns = {str(count): partial(short_run, options, count) for count in points}
    if not torch.cuda.is_available():  # one process with the images of one of several: the same work without waiting
        turns |= {f"share {count}": partial(short_run, options, 1, batch=batch // count) for count in points[1:]}
    speeds = in_turns(turns, options.rounds, warm_up=False)
    for count in points:
        yield f"scaling/quickstart processes/{count}", Figure("images/s", speeds[str(count)])
    if not torch.cuda.is_available():
        for count in points:
            alone = Figure("", speeds[f"share {count}" if count > 1 else "1"]).median
            waiting = all_reduce_seconds(count, weights) if count > 1 else 0.0
            seconds = batch / (alone * min(count, devices)) + waiting
            yield f"scaling/quickstart predicted processes/{count}", Figure("images/s, predicted", [batch / seconds])
    for count in points:
        taken = short_run(options, count, column=GIB) * 2**30
        yield f"scaling/quickstart processes{MEMORY}/{count}", Figure("bytes", [taken])


def _case(name: str, axis: str, point: float) -> Case:
    case = case_of(name, BATCH)
    if axis == "batch":
        return replace(case, batch=int(point))
    if axis == "resolution":
        return replace(case, image_size=int(point))
    if axis == "width":
        return replace(case, choices={**case.choices, "width": point})
    return replace(case, net=deeper(case.net, int(point)))


def deeper(net: Net, more: int) -> Net:
    """Return the network with `more` copies of the last block of its second-to-last stage; grid and channels stay the same."""
    stage = list(net.stages)[-2]
    blocks = dict(net.stages[stage])
    last = list(blocks)[-1]
    blocks |= {f"{last}_{number}": blocks[last] for number in range(more)}
    return replace(net, stages={**net.stages, stage: blocks})
