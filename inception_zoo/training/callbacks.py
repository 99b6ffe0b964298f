"""Callbacks that Lightning does not have. The one that saves checkpoints is in `last_checkpoint.py`."""

import logging
import multiprocessing
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import EMAWeightAveraging, RichModelSummary, RichProgressBar
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich import box, get_console
from rich.progress import BarColumn, TextColumn
from rich.table import Table
from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from inception_zoo.network.inception import Inception
from inception_zoo.runs.results import minutes_of
from inception_zoo.runs.sweeps import progress
from inception_zoo.system.devices import peak_memory

warn = rank_zero_only(logging.getLogger(__name__).warning)
WIDE = 140  # columns of a terminal that has room for all metrics beside the progress bar
NARROW = {
    "train/loss_step": "loss",
    "val/top1": "val",
    "val/recall1": "val",
}  # metrics on a narrower one, and their short names


class EMA(EMAWeightAveraging):
    """Lightning's EMA of the weights, moved to the network's device.

    Lightning creates the average before the network moves to its device, and would leave it on the CPU.

    Source: the warmup is that of TensorFlow's `ExponentialMovingAverage` with `num_updates`.

    Args:
        decay: decay per update.
        warmup: limit the decay after step n to (1 + n) / (10 + n), so that the average of a short run depends less on the
            initial weights. False: as in configs of earlier versions, which do not state it.
        **options: options of Lightning's callback.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = False, **options: Any) -> None:
        super().__init__(decay=decay, **options)
        self.decay, self.warmup = decay, warmup

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)
        # torch's own update reads the number of updates from the device, and waits for it
        self._average_model.update_parameters = self._update  # type: ignore[assignment,method-assign]

    def on_train_batch_end(self, trainer: Trainer, *batch: Any) -> None:
        step = trainer.global_step
        self.current_decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        super().on_train_batch_end(trainer, *batch)

    @torch.no_grad()
    def _update(self, module: nn.Module) -> None:
        average, decay = self._average_model, self.current_decay
        assert average is not None
        is_first = self._latest_update_step == 0
        pairs = zip(average.module.parameters(), module.parameters(), strict=True)
        buffers = zip(average.module.buffers(), module.buffers(), strict=True)
        for ours, theirs in (*pairs, *buffers):
            averaged = average.use_buffers or isinstance(ours, nn.Parameter)
            ours.copy_(theirs if is_first or not averaged else decay * ours + (1 - decay) * theirs)
        average.n_averaged += 1


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's EarlyStopping for runs that are resumed.

    A run that was stopped, and then interrupted in its test, trains no further epoch. Another patience lets it continue.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        is_other = {"stopping_reason_message": None} if state_dict["patience"] != self.patience else {}
        super().load_state_dict({**state_dict, **is_other, "patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop |= self.stopping_reason_message is not None  # another one may have stopped it


class ImagesPerSecond(Callback):
    """Callback that logs `train/images_per_second` of each epoch, over all processes and without validation.

    Lightning's ThroughputMonitor synchronizes the device at every step, and this slows down the training that it measures.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()  # a resumed run may start within an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def _begin(self) -> None:
        self.start, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[1]) * trainer.world_size
        if trainer.is_last_batch:  # before the validation at the end of the epoch
            rate = self.images / (time.perf_counter() - self.start)
            pl_module.log("train/images_per_second", rate, on_step=False, on_epoch=True, sync_dist=True)


class GradientNorm(Callback):
    """Callback that logs `train/gradient_norm`, the norm of all gradients before clipping, every `log_every_n_steps` steps."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            gradients = [weights.grad for weights in pl_module.parameters() if weights.grad is not None]
            pl_module.log("train/gradient_norm", get_total_norm(gradients))


class PeakMemory(Callback):
    """Callback that logs `train/peak_memory_gib` each epoch: the peak memory since training began, in GiB.

    The value is the maximum over all processes. On a CUDA device it is the memory that torch allocated, else the resident
    memory of the process, without the data workers.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        else:
            with suppress(OSError):  # reset the peak (Linux), which includes earlier jobs
                Path("/proc/self/clear_refs").write_text("5")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        peak = peak_memory(pl_module.device)
        pl_module.log("train/peak_memory_gib", peak / 2**30, reduce_fx="max", sync_dist=True)


class RunTime(Callback):
    """Callback that stores the run time in checkpoints, so that the reported time of a resumed run includes its first part.

    Args:
        results: content of results.json.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results

    def state_dict(self) -> dict[str, Any]:
        return {"minutes": minutes_of(self.results)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.results["earlier_minutes"] = state_dict["minutes"]


class Unfreeze(Callback):
    """Callback that unfreezes the layers that `model.freeze` froze.

    Lightning's BaseFinetuning is not suitable. It adds parameter groups that the scheduler does not know, and lets frozen
    BatchNorms use batch statistics. With DDP it would not synchronize the unfrozen parameters.

    Args:
        epoch: first epoch, counted from 0, in which the layers are trained; below 1: as a share of `max_epochs`.
        to: new value of `model.freeze` from then on; None: nothing stays frozen.
        every: unfreeze one stage at a time, the last one first, with this number of epochs between them, or this share of
            `max_epochs`; None: all at once.
    """

    def __init__(self, epoch: float, to: str | None = None, every: float | None = None) -> None:
        self.epoch, self.to, self.every = epoch, to, every

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module.model, Inception)
        self.frozen = list(pl_module.model.frozen)  # the same in a resumed run, which builds the network from the same config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unfreeze(trainer, pl_module)  # Lightning does not call `on_train_epoch_start` for a resumed epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unfreeze(trainer, pl_module)

    def _unfreeze(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = pl_module.model
        assert isinstance(model, Inception)
        since = trainer.current_epoch - _epochs(self.epoch, trainer)
        if since < 0 or not model.frozen:
            return
        before, last = list(model.frozen), self.to
        if self.every is not None:
            stages = dict.fromkeys(block.stage for block in model.plan.blocks if block.name in self.frozen)
            left = list(stages)[: -1 - since // _epochs(self.every, trainer)]
            last = max(self.to, left[-1] if left else None, key=lambda each: len(model.up_to(each)))
        model.freeze(last)
        if isinstance(trainer.strategy, DDPStrategy) and model.frozen != before:
            # DDP synchronizes only the parameters that needed a gradient at its setup.
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = pl_module.model
        assert isinstance(model, Inception)
        if left := model.frozen[len(model.up_to(self.to)) :]:
            warn("callbacks.unfreeze: %s to %s stayed frozen; train more epochs, or set every=null", left[0], left[-1])


def _epochs(number: float, trainer: Trainer) -> int:
    """Return a number of epochs; a value below 1 is a share of `max_epochs`, rounded to at least one epoch."""
    assert trainer.max_epochs is not None
    return int(number) if number >= 1 else max(1, round(number * trainer.max_epochs))


class ProgressBar(RichProgressBar):
    """Lightning's progress bar with the state of the sweep: job number, best result so far and remaining time.

    It is off where several jobs run in parallel on one terminal.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.sweep = progress(Path(folder))
        if multiprocessing.current_process().name != "MainProcess":  # a joblib worker
            self.disable()

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        columns = super().configure_columns(trainer)
        if get_console().width < WIDE:  # the log has the state of the sweep, too
            for bar in (column for column in columns if isinstance(column, BarColumn)):
                bar.bar_width = max(4, min(10, get_console().width - 76))
            return columns
        return [*columns, TextColumn(self.sweep, style="dim", markup=False)] if self.sweep else columns

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
        if pl_module.recent_loss is not None:  # a number: reading a tensor at each step would synchronize a GPU
            metrics = {"train/loss_step": f"{pl_module.recent_loss:.3f}", **metrics}
        if get_console().width >= WIDE:
            return metrics
        return {short: metrics[key] for key, short in NARROW.items() if key in metrics}


class ModelSummary(RichModelSummary):
    """Print the modules that have parameters, and how many of these are trained."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        """Print the table.

        Args:
            summary_data: name and values of each column.
            total_parameters: number of all parameters.
            trainable_parameters: number of the parameters that are not frozen.
            model_size: megabytes in fp32.
            total_training_modes: not printed.
            total_flops: not printed; Lightning counts 0 without an example input.
            **summarize_kwargs: not used.
        """
        columns = {name.strip(): values for name, values in summary_data}
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("Name", "Type", "Params"):
            table.add_column(name.lower(), justify="right" if name == "Params" else "left")
        for row in zip(columns["Name"], columns["Type"], columns["Params"], strict=True):
            if row[2].strip() != "0":
                table.add_row(*row)
        total, trained = (get_human_readable_count(number).strip() for number in (total_parameters, trainable_parameters))
        get_console().print(table, f"{trained} of {total} parameters are trained, {model_size:,.1f} MB in fp32\n")
