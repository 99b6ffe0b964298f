"""What keeps a training from being lost: its last checkpoint, its end by a signal, and its way out of a loss that is no number.

A checkpoint of ours is taken between two steps, when all of the one before is done and logged, and says just two things of
where the run is: the epoch, and the batch that comes next. Everything random follows from these (`system.seeding`), so
that a run that goes on from it is the run that was interrupted.
"""

import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from inception_zoo.data.stream import BEFORE
from inception_zoo.errors import ZooError
from inception_zoo.runs.results import CHECKPOINTS
from inception_zoo.system.atomic_files import sweep_up, whole_file
from inception_zoo.tracking.csv_logger import CSVLogger

LAST, PREVIOUS, _ = CHECKPOINTS
say = rank_zero_only(logging.getLogger(__name__).warning)


class LastCheckpoint(Callback):
    """Saves `last.ckpt`: before the last step of each epoch, so that validation may take its time, at the end, and in between.

    The one before it stays as `previous.ckpt`. After SIGTERM or SIGINT the step is finished, the checkpoint saved, and the
    program ends with exit status 143 or 130; so does submitit's SIGUSR2, whose own handler queues the job again. All
    processes save and end together.

    Args:
        dirpath: folder of the checkpoints.
        every_n_steps: of the optimizer; None: only by the clock.
        every_minutes: None: only by steps and epochs.
        on_nan: what a loss, or a weight, that is not finite leads to: `stop`, with an error that names the batch, or
            `rollback`, to the weights of `last.ckpt` at a lower learning rate; the batches since are not repeated.
        rollbacks: how many there may be in a run.
        rate_factor: of the learning rate, at each of them.
    """

    def __init__(
        self,
        dirpath: str,
        every_n_steps: int | None = None,
        every_minutes: float | None = 10.0,
        on_nan: str = "stop",
        rollbacks: int = 3,
        rate_factor: float = 0.5,
    ) -> None:
        self.last, self.previous = Path(dirpath, LAST), Path(dirpath, PREVIOUS)
        self.every_n_steps, self.every_minutes = every_n_steps, every_minutes
        self.on_nan, self.rollbacks, self.rate_factor = on_nan, rollbacks, rate_factor
        self.done_rollbacks = 0
        self.saved_step, self.saved_at = 0, time.monotonic()
        self.is_whole = False  # `last.ckpt`, as far as this process knows
        self.group: Any = None  # of all processes, to agree without a GPU
        self.signal: int | None = None
        self.losses: list[tuple[int, float, Tensor]] = []  # not looked at yet: batch, learning rate, loss
        self.others: dict[int, Any] = {}  # handlers that were there

    state_key = "Safekeeping"  # this class's name in checkpoints of older versions

    # from here: when

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()
        if trainer.is_global_zero:
            sweep_up(self.last.parent, "*.ckpt")
        self.is_whole = trainer.ckpt_path is not None and Path(trainer.ckpt_path) == self.last
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()
        if trainer.world_size > 1:
            self.group = torch.distributed.new_group(backend="gloo")
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.go_on(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Lightning miscounts the steps that rows are logged under, where a run goes on
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        if batch_idx % trainer.accumulate_grad_batches:
            return  # the gradients so far would be in no checkpoint
        behind = trainer.global_step - self.saved_step
        steps = trainer.accumulate_grad_batches
        is_last = batch_idx + steps >= trainer.num_training_batches
        late = self.every_minutes is not None and time.monotonic() - self.saved_at >= 60 * self.every_minutes
        many = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        due = behind > 0 and (is_last or late or many)
        self._look_after(trainer, pl_module, due)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append((batch_idx, trainer.optimizers[0].param_groups[0]["lr"], outputs["loss"].detach()))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:  # the weights of a bad last step must not become the best
            self._look_after(trainer, pl_module, due=False, between=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look_after(trainer, pl_module, due=True)

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self._end_if_asked()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self._end_if_asked()

    def _look_after(self, trainer: Trainer, pl_module: LightningModule, due: bool, between: bool = True) -> None:
        """Save (only `between` steps, when all is logged), roll back or end, if any process has reason to: then all do."""
        saves, signum = self._largest(due, self.signal or 0)
        bad, diverges = None, 0
        every = 1 if pl_module.device.type == "cpu" else trainer.log_every_n_steps  # type: ignore[attr-defined]
        if saves or signum or len(self.losses) >= every:  # a GPU is not waited for at every step
            bad = self._first_bad()
            (diverges,) = self._largest(bad is not None)
        if diverges or ((saves or signum) and not _finite(pl_module)):
            self._diverged(trainer, pl_module, bad)
        elif between and (saves or signum):
            self._save(trainer)
        if signum:
            self.signal = signum
            self._end_if_asked()

    def _largest(self, *values: int) -> list[int]:
        """Of each value, the largest that a process has."""
        if self.group is None:
            return list(values)
        tensor = torch.tensor(values)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX, group=self.group)
        return tensor.tolist()

    # from here: how

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero and self.is_whole:
            _link(self.last, self.previous)
        trainer.save_checkpoint(self.last)
        self.is_whole, self.saved_step, self.saved_at = True, trainer.global_step, time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Of where the run is, keep the epoch and the next batch, in a form that Lightning goes on from."""
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        epoch, batch = epochs["current"]["processed"], batches["current"]["completed"]
        is_read = batches["current"]["ready"] > batch  # the next batch, already
        loaders = loops["state_dict"].get("combined_loader", [])
        loops["state_dict"]["combined_loader"] = [state.get(BEFORE, state) if is_read else state for state in loaders]
        if batch >= trainer.num_training_batches:
            epoch, batch = epochs["current"]["started"], 0
        begun = epoch + (batch > 0)
        for progress in (epochs["total"], epochs["current"]):
            progress |= {"ready": begun, "started": begun, "processed": epoch, "completed": epoch}
        for progress, count in ((batches["total"], batches["total"]["completed"]), (batches["current"], batch)):
            progress |= dict.fromkeys(progress, count)
        batches["is_last_batch"] = False
        loops["epoch_loop.val_loop.batch_progress"]["is_last_batch"] = False
        for progress in ("total", "current"):
            counts = loops["epoch_loop.val_loop.batch_progress"][progress]
            counts |= dict.fromkeys(counts, 0)
        checkpoint["epoch"] = epoch - (batch == 0)  # the last that was begun

    def state_dict(self) -> dict[str, Any]:
        return {"rollbacks": self.done_rollbacks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done_rollbacks = state_dict["rollbacks"]

    def _first_bad(self) -> tuple[int, float, Tensor] | None:
        """The first step since the last look whose loss is not finite."""
        losses, self.losses = self.losses, []
        if not losses or torch.stack([loss for *_, loss in losses]).isfinite().all():
            return None
        return next(step for step in losses if not step[2].isfinite())

    def _diverged(self, trainer: Trainer, pl_module: LightningModule, bad: tuple[int, float, Tensor] | None) -> None:
        mine, rate = None, trainer.optimizers[0].param_groups[0]["lr"]
        if bad:
            number, rate, loss = bad
            images = trainer.datamodule.training_rows(trainer.current_epoch, number)  # type: ignore[attr-defined]
            mine = (
                f"the loss is {loss.item()} in epoch {trainer.current_epoch}, batch {number}, at learning rate {rate:g}",
                images,
            )
        found: list[Any] = [mine]
        if self.group is not None:
            found = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, mine, group=self.group)
        nowhere = f"a weight is not finite after {trainer.global_step} steps, at learning rate {rate:g}", "unknown"
        reason, images = next(filter(None, found), nowhere)
        good = self.last if self.is_whole else None
        if self.on_nan == "stop" or not good or self.done_rollbacks >= self.rollbacks:
            tried = f" after {self.done_rollbacks} rollbacks" if self.done_rollbacks else ""
            hint = (
                "callbacks.last.on_nan=rollback goes on from it at a lower rate" if good and not tried else "lower optimizer.lr"
            )
            raise ZooError(f"{reason}{tried}; last good checkpoint: {good or 'none'}; {hint}; images of the batch: {images}")
        self.done_rollbacks += 1
        self._roll_back(trainer, pl_module, good)
        share = self.rate_factor**self.done_rollbacks
        say(
            "%s: back to the weights of %s, at %g of the rate (%d of %d)",
            reason,
            good,
            share,
            self.done_rollbacks,
            self.rollbacks,
        )

    def _roll_back(self, trainer: Trainer, pl_module: LightningModule, path: Path) -> None:
        """The weights, their average and the optimizer's state of a checkpoint; the schedule goes on, lower."""
        checkpoint = trainer.strategy.load_checkpoint(path, weights_only=True)
        pl_module.load_state_dict(checkpoint["state_dict"])
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_load_checkpoint(trainer, pl_module, checkpoint)
        rates = ("lr", "initial_lr", "max_lr", "min_lr")
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        lower = [
            {key: value * self.rate_factor if key in rates else value for key, value in group.items() if key != "params"}
            for group in groups
        ]
        trainer.strategy.load_optimizer_state_dict(checkpoint)
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        for group, options in zip(groups, lower, strict=True):
            group |= options
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            scheduler.base_lrs = [rate * self.rate_factor for rate in scheduler.base_lrs]

    # from here: signals

    def _listen(self) -> None:
        """Lightning's own handlers save nothing, and its teardown puts back those that were there before them."""
        signals = [signal.SIGTERM, signal.SIGINT]
        if callable(signal.getsignal(signal.SIGUSR2)):  # submitit's: the job is to be queued again
            signals.append(signal.SIGUSR2)
        for number in signals:
            self.others[number] = signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt  # a second Ctrl-C: at once
        self.signal = number
        name = signal.Signals(number).name
        if os.environ.get("LOCAL_RANK", "0") == "0":
            os.write(sys.stderr.fileno(), f"\n{name}: the step is finished and saved first\n".encode())

    def _end_if_asked(self) -> None:
        if self.signal is None:
            return
        if self.signal == signal.SIGUSR2:
            handler: Callable = self.others[signal.SIGUSR2]
            handler(self.signal, None)
        raise SystemExit(128 + self.signal)


def _finite(module: LightningModule) -> bool:
    return bool(torch.stack([weights.isfinite().all() for weights in module.parameters()]).all())


def _link(path: Path, name: Path) -> None:
    """Give a file that is there a second name, which another has until then."""
    with whole_file(name) as temporary:
        temporary.unlink()
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)
