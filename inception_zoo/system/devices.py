"""Which devices a job may take, the precision that they are fast at, and the memory that a job has taken there."""

import re
import resource
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from inception_zoo.errors import ZooError


def check_devices(trainer: dict[str, Any]) -> None:
    """ZooError if the Trainer is asked for no device, for GPUs that there are not, or for what only GPUs can do."""
    devices, accelerator = trainer["devices"], trainer["accelerator"]
    numbers = devices if isinstance(devices, list) else []
    wanted = max(numbers, default=-1) + 1 if numbers else devices
    if devices == "auto":
        wanted = 1
    if not isinstance(wanted, int) or (wanted < 1 and wanted != -1):
        raise ZooError(f"trainer.devices={devices} must be at least 1, a list of GPU numbers, -1 for all GPUs, or auto")
    gpus = torch.cuda.device_count()
    apple = torch.backends.mps.is_available()
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and gpus):
        if wanted > gpus and not (apple and wanted == 1):
            raise ZooError(f"trainer.devices={devices}: this machine has {gpus} GPUs; take fewer, or trainer.accelerator=cpu")
    elif trainer["sync_batchnorm"]:
        raise ZooError("trainer.sync_batchnorm=true needs GPUs, and this job runs on CPUs; leave it out")
    elif numbers or wanted == -1:
        raise ZooError(f"trainer.devices={devices} names GPUs, and this job runs on CPUs; give the number of processes")


def check_batch(batch_size: int, world_size: int, norm: str | None) -> None:
    """ZooError if the global batch does not divide, or leaves BatchNorm a single image."""
    if batch_size % world_size:
        near = max(world_size, batch_size - batch_size % world_size)
        raise ZooError(f"data.batch_size={batch_size} does not divide by the {world_size} processes; try {near}")
    if batch_size == world_size and norm == "batch":
        raise ZooError(
            f"data.batch_size={batch_size} gives each process one image, and BatchNorm needs two; try {2 * world_size}"
        )


def auto_precision(accelerator: str) -> tuple[str, str]:
    """bf16-mixed where this hardware is fast at it, else fp32; and why.

    A CPU's flags do not tell: AVX512-BF16 doubles the speed of some processors and slows others. So it is measured.
    """
    if torch.backends.mps.is_available() and accelerator != "cpu":
        return "32-true", "Apple's GPU"
    if torch.cuda.is_available() and accelerator != "cpu":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16-mixed", "this GPU has bf16") if fast else ("32-true", "this GPU has no bf16")
    gain = bf16_gain()
    return "bf16-mixed" if gain >= 1.4 else "32-true", f"bf16 measured at {gain:.2f} times the speed of fp32 on this CPU"


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has used: of a CUDA device what torch allocated there, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):  # getrusage would count what the parent had when it started this process
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@cache
def bf16_gain() -> float:
    """How many times as fast as in fp32 this CPU multiplies matrices in bf16; far below 1 where it emulates that."""
    for size in (128, 1024):
        gain = _matmul_seconds(torch.float32, size) / _matmul_seconds(torch.bfloat16, size)
        if gain < 0.5:  # a large product would take seconds
            break
    return gain


def _matmul_seconds(dtype: torch.dtype, size: int) -> float:
    matrix = torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return min(times)
