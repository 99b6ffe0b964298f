"""Cost of the framework: `run.py` against a plain PyTorch loop in the same process, and several processes against one."""

import copy
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.nn import functional as F

from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Figure, Measured, in_turns
from inception_zoo.config.targets import VARIABLE
from inception_zoo.errors import ZooError
from inception_zoo.runs.results import read_results
from inception_zoo.system.records import read_yaml, write_json

WARM_UP = 5  # turns
STEPS, EPOCHS = 100, 3  # enough steps that the checkpoint of an epoch takes no larger share than in a full epoch
SPEED, MEMORY = "train/images_per_second", "train/peak_memory_gib"
JOB = (  # the main job; validation and test are cut short, since they are not measured
    *("experiment=quickstart", f"trainer.limit_train_batches={STEPS}", "trainer.limit_val_batches=1"),
    *("trainer.limit_test_batches=1", "logger=csv", "~callbacks.progress", "~callbacks.summary"),
)


def measure(options: Options) -> Measured:
    """Measure ``framework/loop``, and on a CPU with several cores ``framework/processes``, in images/s."""
    words = (*JOB, f"data.root={options.fashion_mnist()}")
    bare = f"+callbacks.bare._target_={__name__}.{BareLoop.__name__}"
    with job(*words, bare, f"trainer.max_epochs={options.rounds}", threads=None) as folder:
        found = json.loads((folder / BareLoop.FILE).read_text())
    for label, values in found.items():
        yield f"framework/loop/{label}", Figure("images/s", values[WARM_UP:])
    cores = os.cpu_count() or 1
    if cores > 1 and not torch.cuda.is_available():
        contest = {
            f"{cores} processes": partial(short_run, options, cores),
            "1 process": partial(short_run, options, 1, threads=cores),
        }
        for label, values in in_turns(contest, options.rounds, warm_up=False).items():  # each starts new processes
            yield f"framework/processes/{label}", Figure("images/s", values)


class BareLoop(Callback):
    """Callback that trains a copy of the network in a plain PyTorch loop, interleaved with the training: `TURN` steps each.

    It writes the images/s of each turn into `FILE`: ``{"inception_zoo": […], "bare PyTorch": […]}``. The work between two
    epochs, such as a checkpoint, is in no turn.
    """

    FILE, TURN = "turns.json", 4

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        self.model: Any = copy.deepcopy(pl_module.model)
        self.optimizer = pl_module.optimizer(self.model.parameters())  # type: ignore[operator, union-attr]
        self.batches = iter(trainer.datamodule.train_dataloader())
        self.rates: dict[str, list[float]] = {"inception_zoo": [], "bare PyTorch": []}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def _begin(self) -> None:
        self.steps, self.images, self.start = 0, 0, time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps, self.images = self.steps + 1, self.images + len(batch[1])
        if self.steps == self.TURN:
            self.rates["inception_zoo"].append(self.images / (time.perf_counter() - self.start))
            self.rates["bare PyTorch"].append(self._turn(trainer))
            self._begin()

    def _turn(self, trainer: Any) -> float:
        data, count, start = trainer.datamodule, 0, time.perf_counter()
        half = str(trainer.precision).startswith("bf16")
        for _ in range(self.TURN):
            images, labels = data.prepared(self._batch(data), training=True)
            with torch.autocast(images.device.type, torch.bfloat16) if half else nullcontext():
                loss = F.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            count += len(labels)
        return count / (time.perf_counter() - start)

    def _batch(self, data: Any) -> Any:
        if (batch := next(self.batches, None)) is None:
            self.batches = iter(data.train_dataloader())
            batch = next(self.batches)
        return batch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        write_json(Path(trainer.default_root_dir) / self.FILE, self.rates)


class FirstStep(Callback):
    """Callback that ends the process after the first training step.

    Args:
        mark: file to create then; its modification time is the end of the step.
    """

    def __init__(self, mark: str) -> None:
        self.mark = Path(mark)

    def on_train_batch_end(self, *args: Any) -> None:
        self.mark.touch()
        os._exit(0)


@contextmanager
def job(*words: str, threads: int | None = 1) -> Iterator[Path]:
    """Run a job of `run.py` in a temporary folder, and yield the folder.

    Args:
        *words: overrides.
        threads: threads of each process; None: as many as this process has.

    Raises:
        ZooError: the job failed; the message has the last line of its stderr.
    """
    with tempfile.TemporaryDirectory(prefix="inception_zoo_bench_") as folder:
        run_job(words, Path(folder), threads or torch.get_num_threads())
        yield Path(folder)


def run_job(words: Sequence[str], folder: Path, threads: int) -> None:
    """Run a job of `run.py`.

    Args:
        words: overrides.
        folder: the run folder, created if it does not exist.
        threads: threads of each process.

    Raises:
        ZooError: the job failed; the message has the last line of its stderr.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), VARIABLE: f"{__name__}.{BareLoop.__name__}"}
    command = [sys.executable, "-m", "inception_zoo.app", *words, f"hydra.run.dir={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode:
        raise ZooError(f"run.py {' '.join(words)}: {(done.stderr.strip() or 'killed').splitlines()[-1]}")


def short_run(options: Options, processes: int, threads: int = 1, column: str = SPEED, batch: int | None = None) -> float:
    """Run the main job, and return the median of a metric over its epochs, without the first.

    Args:
        options: they name the data folder.
        processes: number of processes.
        threads: threads of each process.
        column: column of `metrics.csv`; the default is the images/s of all processes together.
        batch: images of a step of all processes together; None: the main job's.
    """
    words = *JOB, f"data.root={options.fashion_mnist()}", f"trainer.max_epochs={EPOCHS}", f"trainer.devices={processes}"
    with job(*words, *([f"data.batch_size={batch}"] if batch else []), threads=threads) as folder:
        return Figure("", _by_epoch(folder, column)[1:]).median


def size_of_the_job(options: Options) -> tuple[int, int]:
    """Return the number of parameters of the main job's network, and the images of a batch."""
    words = *JOB, f"data.root={options.fashion_mnist()}", "trainer.max_epochs=1", "trainer.limit_train_batches=1"
    with job(*words, threads=1) as folder:
        return read_results(folder)["parameters"], read_yaml(folder / ".hydra/config.yaml", {})["data"]["batch_size"]


def _by_epoch(folder: Path, column: str) -> list[float]:
    with next(folder.glob("csv/**/metrics.csv")).open() as file:
        found = [row.get(column) for row in csv.DictReader(file)]
    return [float(value) for value in found if value]
