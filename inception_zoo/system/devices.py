"""Check a job's devices, choose the fastest precision, and measure peak memory."""

import math
import re
import statistics
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from inception_zoo.errors import ZooError

EMULATED = 0.1  # of fp32's speed: no bf16 in hardware; small products may be slow in hardware, too
PAIRS = 15  # matrix products in fp32 and bf16 that are compared


def check_devices(trainer: dict[str, Any]) -> None:
    """Check the device options of the `trainer` node.

    Raises:
        ZooError: `devices` is invalid or asks for GPUs that do not exist, or an option requires GPUs and the job runs on CPUs.
    """
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
            raise ZooError(f"trainer.devices={devices}: this machine has {gpus} GPUs; use fewer, or trainer.accelerator=cpu")
    elif trainer["sync_batchnorm"]:
        raise ZooError("trainer.sync_batchnorm=true needs GPUs, but this job runs on CPUs; remove it")
    elif numbers or wanted == -1:
        raise ZooError(f"trainer.devices={devices} names GPUs, but this job runs on CPUs; give the number of processes")


def check_batch(batch_size: int, world_size: int, norm: str | None) -> None:
    """Check the global batch size.

    Args:
        batch_size: Images per step, summed over all processes.
        world_size: Number of processes.
        norm: Normalization of the network.

    Raises:
        ZooError: The batch size is not divisible by the number of processes, or each process gets one image with BatchNorm.
    """
    if batch_size % world_size:
        near = max(world_size, batch_size - batch_size % world_size)
        raise ZooError(f"data.batch_size={batch_size} is not divisible by the {world_size} processes; try {near}")
    if batch_size == world_size and norm == "batch":
        raise ZooError(f"data.batch_size={batch_size} is one image per process, but BatchNorm needs two; try {2 * world_size}")


def auto_precision(accelerator: str) -> tuple[str, str]:
    """Return the Trainer's precision and the reason: `bf16-mixed` if bf16 is fast on this hardware, otherwise `32-true`.

    On CPUs, the speed is measured, because the processor's flags do not predict it: AVX512-BF16 doubles the speed of some
    processors and slows others.
    """
    if torch.backends.mps.is_available() and accelerator != "cpu":
        return "32-true", "Apple's GPU"
    if torch.cuda.is_available() and accelerator != "cpu":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16-mixed", "this GPU supports bf16") if fast else ("32-true", "this GPU does not support bf16")
    gain = bf16_gain()
    return "bf16-mixed" if gain >= 1.4 else "32-true", f"bf16 measured at {gain:.2f} times the speed of fp32 on this CPU"


def peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process in bytes: torch's allocations on a CUDA device, otherwise resident memory.

    NaN on Windows, where the standard library does not know it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):  # preferred: getrusage includes the parent's memory at the fork
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@cache
def bf16_gain() -> float:
    """Return the speed of a bf16 matrix product on this CPU, divided by that of fp32; far below 1 if bf16 is emulated."""
    for size in (128, 1024):
        # in pairs: another program that takes a core for a moment slows both products of a pair
        pairs = [(_matmul_seconds(torch.float32, size), _matmul_seconds(torch.bfloat16, size)) for _ in range(PAIRS + 1)]
        gain = statistics.median(fp32 / bf16 for fp32, bf16 in pairs[1:])  # the first pair warms up
        if gain < EMULATED:  # a large product would take seconds
            break
    return gain


def _matmul_seconds(dtype: torch.dtype, size: int) -> float:
    matrix = torch.ones(size, size, dtype=dtype)
    start = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - start
