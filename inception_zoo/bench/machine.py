"""This machine's hardware, its peak FLOP/s and its bandwidth. Speeds are also reported as a share of the GEMM peak."""

import os
import platform
import re
import statistics
import time
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.multiprocessing import spawn

from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.plan import Plan
from inception_zoo.bench.contenders import device, fast_precision
from inception_zoo.bench.turns import Figure, seconds_of
from inception_zoo.runs.results import commit_of_the_code
from inception_zoo.system.atomic_files import write_whole

LIBRARIES = ("torch", "torchvision", "timm", "lightning", "onnxruntime")
ROUNDS = 20  # all-reduces that are timed
BUSY = 0.05  # share of the machine's CPU time that other programs may use
UNSTEADY = 1.3  # ratio of two speeds of the same matrix product
LONG, SHORT = 0.5, 0.3  # seconds of repetitions per matrix size
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def hardware() -> dict[str, Any]:
    """Return the names of the CPU and of the GPU (None without one), and the numbers of cores and of threads."""
    cpuinfo = Path("/proc/cpuinfo")
    facts = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"model name\s*: (.*)", facts)
    gpu = torch.cuda.get_device_name() if device().type == "cuda" else None
    cpu = model[1] if model else platform.processor() or platform.machine()
    able = torch.backends.cpu.get_cpu_capability()  # the model name alone does not identify the generation
    bf16 = " with bf16" if fast_precision() == torch.bfloat16 and not gpu else ""
    amx = " and AMX" if bf16 and "amx_bf16" in facts else ""
    return {"cpu": f"{cpu} ({able}{bf16}{amx})", "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def provenance(rounds: int) -> dict[str, Any]:
    """Return the provenance of a result: hardware, versions, commit, date and rounds."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"hardware": hardware(), "versions": versions, "commit": commit_of_the_code(), "date": now, "rounds": rounds}


@cache
def gemm_peak(precision: torch.dtype) -> float:
    """Return the FLOP/s of the fastest matrix product on this device, over two sizes and many repetitions."""
    sizes = (1024, 2048) if device().type == "cpu" else (4096, 8192)
    most = 0.0
    for size in sizes:
        most = max(most, _gemm(size, precision))
        if 2 * size**3 / most > LONG:  # the dtype is emulated: the larger size would take a minute
            break
    return most


def _gemm(size: int, precision: torch.dtype, seconds: float = LONG) -> float:
    a, b = (torch.randn(size, size, device=device()).to(precision) for _ in range(2))
    out = torch.empty_like(a)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        times.append(seconds_of(lambda: torch.mm(a, b, out=out)))
    return 2 * size**3 / min(times)


class Disturbance:
    """Signs of other users of this machine: the CPU time of other programs, and changes of a matrix product's speed."""

    def __init__(self) -> None:
        self._speed, self._others = _gemm(1024, fast_precision(), SHORT), _cpu_seconds()
        self._start = time.perf_counter()

    def words(self) -> list[str]:
        """Facts since the creation that make figures doubtful; empty on a machine without other users."""
        found = []
        seconds = (time.perf_counter() - self._start) * len(os.sched_getaffinity(0))
        if (share := (_cpu_seconds() - self._others) / seconds) > BUSY:
            found.append(f"other programs used {share:.0%} of the CPU time")
        slow, fast = sorted((self._speed, _gemm(1024, fast_precision(), SHORT)))
        if fast > UNSTEADY * slow:
            found.append(
                f"the same matrix product ran at {slow / 1e9:,.0f} and at {fast / 1e9:,.0f} GFLOP/s, before and after it"
            )
        return found


def _cpu_seconds() -> float:
    """Return the CPU seconds that other programs, and other virtual machines on this hardware, have used; 0 without /proc."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


@cache
def bandwidth() -> float:
    """Return the bytes/s that a copy reads and writes; the tensors are larger than any cache."""
    source = torch.ones(2**27, device=device())  # 512 MiB
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source)) for _ in range(7))


def all_reduce_seconds(processes: int, values: int) -> float:
    """Return the median time in which processes on this machine sum fp32 values with gloo, one thread each."""
    with TemporaryDirectory() as folder:
        place = str(Path(folder) / "store")
        spawn(_reduce, (processes, values, place), nprocs=processes)
        return float(Path(f"{place}.seconds").read_text())


def _reduce(rank: int, processes: int, values: int, place: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(place, processes)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    tensor, times = torch.zeros(values), []
    for _ in range(ROUNDS):
        torch.distributed.barrier()
        times.append(seconds_of(lambda: torch.distributed.all_reduce(tensor)))
    if rank == 0:
        write_whole(Path(f"{place}.seconds"), str(statistics.median(times)))
    torch.distributed.destroy_process_group()


def with_share(figure: Figure, plan: Plan, image_size: int, precision: torch.dtype, training: bool) -> Figure:
    """Return a figure in images/s with its share of the GEMM peak.

    A multiply-add counts as 2 FLOPs, and a training step as three forward passes. This includes the gradient with
    respect to the images, although no step needs it: 2.6 % of GoogLeNet's FLOPs, 0.3 % of Inception-v3's.

    Args:
        figure: the speed in images/s.
        plan: plan of the network.
        image_size: pixels.
        precision: dtype of the GEMM peak.
        training: True for training steps, False for evaluation.
    """
    flops = 2 * plan_cost(plan, image_size).macs * (3 if training else 1)
    return Figure(figure.unit, figure.values, figure.median * flops / gemm_peak(precision))
