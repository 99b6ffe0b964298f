"""The number of threads of a job on CPUs (`trainer.threads`)."""

import logging
import os
import statistics
import time
from collections import deque
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from inception_zoo.errors import ZooError
from inception_zoo.system.ranks import by_torchrun
from inception_zoo.system.threads import fastest_threads, most_threads

log = logging.getLogger(__name__)
WINDOW = 20  # steps whose median is compared
SLOW = 1.5  # steps are slow if they take this many times as long as the fastest window
AGAIN = 200  # steps until the next test


def chosen_threads(trainer: dict[str, Any]) -> tuple[int | None, str]:
    """Return the number of threads for `trainer.threads=auto`, and the reason, by a test that takes a fraction of a second.

    Args:
        trainer: the config node `trainer`, with the final precision.

    Returns:
        The number, or None for a job on GPUs, which keeps PyTorch's own.

    Raises:
        ZooError: torchrun or srun has started several processes. Each would measure for itself, and choose another number.
    """
    if by_torchrun() or trainer["num_nodes"] != 1 or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise ZooError("trainer.threads=auto: several machines, torchrun or srun; give the number of threads of a process")
    gpus = torch.cuda.is_available() or torch.backends.mps.is_available()
    if trainer["accelerator"] not in ("auto", "cpu") or (gpus and trainer["accelerator"] != "cpu"):
        return None, "the job runs on a GPU"
    processes = trainer["devices"] if isinstance(trainer["devices"], int) else 1
    return fastest_threads(most_threads(processes), _dtype(str(trainer["precision"])))


def _dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision.startswith("bf16") else torch.float32


class Threads(Callback):
    """Callback that sets the number of threads of this process, after Lightning has set its own.

    Args:
        count: number of threads.
        most: test again if steps become slow, as they do when another program takes a core: the threads of a step wait for
            each other. Training then continues with the number that is the fastest, up to `most`; if that is less, a later
            test can raise it again. None: no test.
    """

    def __init__(self, count: int, most: int | None) -> None:
        self.used, self.most = count, most or 1
        self.times: deque[float] = deque(maxlen=WINDOW)
        self.fastest, self.last, self.next_test = float("inf"), 0.0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        torch.set_num_threads(self.used)

    def on_train_batch_start(self, trainer: Trainer, *batch: Any) -> None:
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *batch: Any) -> None:
        if self.most == 1:
            return
        self.times.append(time.perf_counter() - self.last)
        if len(self.times) < WINDOW or trainer.global_step < self.next_test:
            return
        now = statistics.median(self.times)
        self.fastest = min(self.fastest, now)
        if self.used < self.most or now > SLOW * self.fastest:
            self._test(trainer, now)

    def _test(self, trainer: Trainer, seconds: float) -> None:
        best, why = fastest_threads(self.most, _dtype(str(trainer.precision)))
        if best != self.used:
            usual = f"steps take {1e3 * seconds:.0f} ms instead of {1e3 * self.fastest:.0f}; " if best < self.used else ""
            log.warning("%scontinuing with trainer.threads=%d instead of %d (%s)", usual, best, self.used, why)
            self.used = best
            torch.set_num_threads(best)
        self.fastest = seconds  # what is usual from now on: steps may be slow for another reason, such as larger images
        self.times.clear()
        self.next_test = trainer.global_step + AGAIN
