"""Callbacks that Lightning does not have. `last_checkpoint.py` holds the one that saves."""

import multiprocessing
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from lightning.pytorch.strategies import DDPStrategy
from rich.progress import TextColumn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from inception_zoo.network.inception import Inception
from inception_zoo.runs.sweeps import progress
from inception_zoo.system.devices import peak_memory


class EMA(EMAWeightAveraging):
    """Lightning's, whose average stays on the CPU if it is made there, before the network moves to its device."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)


class ImagesPerSecond(Callback):
    """Logs `train/images_per_second` of each epoch, over all processes, validation not counted.

    Lightning's ThroughputMonitor synchronizes the device at every step, which costs what it measures.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()  # in mid-epoch, perhaps

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def _begin(self) -> None:
        self.start, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[1]) * trainer.world_size
        if trainer.is_last_batch:  # before the validation that ends the epoch
            rate = self.images / (time.perf_counter() - self.start)
            pl_module.log("train/images_per_second", rate, on_step=False, on_epoch=True, sync_dist=True)


class GradientNorm(Callback):
    """Logs `train/gradient_norm`, of all gradients together and before they are clipped, every `log_every_n_steps` steps."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            gradients = [weights.grad for weights in pl_module.parameters() if weights.grad is not None]
            pl_module.log("train/gradient_norm", get_total_norm(gradients))


class PeakMemory(Callback):
    """Logs `train/peak_memory_gib` with each epoch: the most that the process with the most has used since training began.

    Of a CUDA device what torch allocated, else the resident memory of the process, without those that load data.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        else:
            with suppress(OSError):  # Linux forgets the peak of the jobs before this one
                Path("/proc/self/clear_refs").write_text("5")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        peak = peak_memory(pl_module.device)
        pl_module.log("train/peak_memory_gib", peak / 2**30, reduce_fx="max", sync_dist=True)


class Unfreeze(Callback):
    """Frees what `model.freeze` froze, from the epoch `epoch` (counted from 0) on; `to`: what stays frozen then.

    Lightning's BaseFinetuning does not serve here: it adds parameter groups that a scheduler does not know, leaves frozen
    BatchNorms on the statistics of the batch, and under DDP the freed parameters would not be synchronized.
    """

    def __init__(self, epoch: int, to: str | None = None) -> None:
        self.epoch, self.to = epoch, to

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = pl_module.model
        assert isinstance(model, Inception)
        before = list(model.frozen)
        if trainer.current_epoch < self.epoch or not before:
            return
        model.freeze(self.to)
        if isinstance(trainer.strategy, DDPStrategy) and model.frozen != before:
            # DDP knows only the parameters that needed a gradient when it was set up.
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()


class ProgressBar(RichProgressBar):
    """Lightning's, with the number of the job, the best so far and the time left; none where jobs run side by side."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.sweep = progress(Path(folder))
        if multiprocessing.current_process().name != "MainProcess":  # a worker of joblib's, one of several at the terminal
            self.disable()

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        columns = super().configure_columns(trainer)
        return [*columns, TextColumn(f"[dim]{self.sweep}")] if self.sweep else columns

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
