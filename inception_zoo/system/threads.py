"""Number of threads of a process on CPUs, chosen by a short test."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

ROUNDS = 9  # of the test; each takes a few milliseconds per candidate
WORTH = 0.95  # more threads must take less than this share of the time of fewer threads: the others are left to other programs
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container


def most_threads(processes: int) -> int:
    """Return the threads that each of `processes` on this machine may use: by OMP_NUM_THREADS, affinity and container."""
    cores = torch.get_num_threads()
    quota, period = QUOTA.read_text().split() if QUOTA.exists() else ("max", "1")
    if quota != "max":
        cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores // processes)


def fastest_threads(most: int, dtype: torch.dtype) -> tuple[int, str]:
    """Measure a convolution with BatchNorm, forward and backward, with 1, 2, 4, … threads, interleaved.

    Args:
        most: largest number of threads.
        dtype: dtype of the feature maps.

    Returns:
        The smallest number of threads that is about as fast as the fastest, and the measured times, for the log.
    """
    candidates = sorted({most} | {2**power for power in range(most.bit_length()) if 2**power < most})
    before = torch.get_num_threads()
    try:
        medians = _interleaved(candidates, _convolution(dtype))
    finally:
        torch.set_num_threads(before)
    chosen = candidates[0]
    for count in candidates[1:]:
        if medians[count] < WORTH * medians[chosen]:
            chosen = count
    times = ", ".join(f"{count}: {1e3 * seconds:.1f} ms" for count, seconds in medians.items())
    return chosen, f"a convolution with BatchNorm takes, by threads, {times}"


def _interleaved(candidates: list[int], work: Callable[[], object]) -> dict[int, float]:
    times: dict[int, list[float]] = {count: [] for count in candidates}
    for number in range(ROUNDS + 1):
        for count, found in times.items():
            torch.set_num_threads(count)
            start = time.perf_counter()
            work()
            if number:  # the first round warms up
                found.append(time.perf_counter() - start)
    return {count: statistics.median(found) for count, found in times.items()}


def _convolution(dtype: torch.dtype) -> Callable[[], object]:
    own = torch.Generator().manual_seed(0)  # training continues with the numbers of the global one
    images = torch.rand(16, 64, 28, 28, generator=own).to(dtype, memory_format=torch.channels_last)
    weight = torch.rand(64, 64, 3, 3, generator=own).to(dtype).requires_grad_()

    def work() -> None:
        with torch.enable_grad():
            maps = F.relu(F.batch_norm(F.conv2d(images, weight, padding=1), None, None, training=True))
            torch.autograd.grad(maps.sum(), weight)

    return work
