"""Protection of a training: regular checkpoints, a clean exit after a signal, and the handling of a NaN or infinite loss.

A checkpoint is saved between two steps, after all work and logging of the first one. It stores the position of the run as
two numbers: the epoch and the next batch. All random numbers follow from this position (`system.seeding`). A resumed run
therefore gives the same results as an uninterrupted run.
"""

import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
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
from inception_zoo.system.terminal import asked, ending_signals, hear
from inception_zoo.tracking.csv_logger import CSVLogger
from inception_zoo.tracking.tensorboard_logger import TensorBoardLogger

LAST, PREVIOUS, _ = CHECKPOINTS
REQUEUE = getattr(signal, "SIGUSR2", None)  # from submitit; Windows does not have it
say = rank_zero_only(logging.getLogger(__name__).warning)


class LastCheckpoint(Callback):
    """Callback that saves `last.ckpt`, handles signals, and handles a NaN or infinite loss.

    It saves before the last step of each epoch (so that an interrupted validation loses one step only), at the end of the
    training, and at the intervals below. The preceding checkpoint stays as `previous.ckpt`.

    After SIGTERM, SIGINT (Ctrl-C) or SIGHUP (a lost connection), the callback finishes the step, saves, and ends the program
    with exit status 143, 130 or 129. After SIGUSR2 from submitit, it finishes the step, saves, and calls submitit's handler,
    which queues the job again. All processes save and end together.

    Args:
        dirpath: folder of the checkpoints.
        every_n_steps: interval in optimizer steps; None: off.
        every_minutes: interval in minutes; None: off.
        on_nan: action after a NaN or infinite loss or weight. `stop` raises an error that names the batch. `rollback`
            restores the weights of `last.ckpt` and lowers the learning rate; it does not repeat the batches since then.
        rollbacks: maximum number of rollbacks in a run.
        rate_factor: factor on the learning rate at each rollback.
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
        self.metrics: dict[str, float] = {}  # of the checkpoint that is resumed: results of the epochs that are not repeated
        self.saved_step, self.saved_at = 0, time.monotonic()
        self.is_whole = False  # `last.ckpt` is intact: this process saved or loaded it
        self.group: Any = None  # gloo group of all processes, for decisions without a GPU
        self.signal: int | None = None
        self.losses: list[tuple[int, float, Tensor]] = []  # (batch, learning rate, loss), not checked yet
        self.others: dict[int, Any] = {}  # the signal handlers that this callback replaced

    state_key = "Safekeeping"  # this class's name in checkpoints of older versions

    # When to save

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:  # also if nothing is left to train
            sweep_up(self.last.parent)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()
        self.is_whole = trainer.ckpt_path is not None and Path(trainer.ckpt_path) == self.last
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()
        if trainer.world_size > 1:
            self.group = torch.distributed.new_group(backend="gloo")
        self._forget_later_rows(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.callback_metrics:  # nothing was left to train, and `on_train_start` was not called; the test is repeated
            self._forget_later_rows(trainer)

    @staticmethod
    def _forget_later_rows(trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger | TensorBoardLogger):
                logger.go_on(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # In a resumed run, Lightning counts the steps for logging wrongly, and leaves out a step of ReduceLROnPlateau.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        trainer.fit_loop._restarting = False
        if batch_idx % trainer.accumulate_grad_batches:
            return  # a checkpoint would lose the accumulated gradients
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
        if not trainer.sanity_checking:  # NaN weights must not become the best checkpoint
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
        """Save, roll back or end on all processes if any process has a reason to.

        Saving is possible only `between` two steps, when everything is logged.
        """
        saves, signum = self._largest(due, self.signal or 0)
        bad, diverges = None, 0
        every = 1 if pl_module.device.type == "cpu" else trainer.log_every_n_steps  # type: ignore[attr-defined]
        if saves or signum or len(self.losses) >= every:  # reading a loss at every step would synchronize the GPU
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
        """Return the maximum of each value over all processes."""
        if self.group is None:
            return list(values)
        tensor = torch.tensor(values)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX, group=self.group)
        return tensor.tolist()

    # How to save

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero and self.is_whole:
            _link(self.last, self.previous)
        trainer.save_checkpoint(self.last)
        self.is_whole, self.saved_step, self.saved_at = True, trainer.global_step, time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reduce the saved position to the epoch and the next batch, in the form that Lightning resumes from."""
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        epoch, batch = epochs["current"]["processed"], batches["current"]["completed"]
        is_read = batches["current"]["ready"] > batch  # the next batch was loaded already
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
        checkpoint["epoch"] = epoch - (batch == 0)  # the last epoch that has started
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        checkpoint["callbacks"][self.state_key]["metrics"] = metrics or self.metrics

    def state_dict(self) -> dict[str, Any]:
        return {"rollbacks": self.done_rollbacks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done_rollbacks, self.metrics = state_dict["rollbacks"], state_dict.get("metrics", {})

    def _first_bad(self) -> tuple[int, float, Tensor] | None:
        """Return the first step since the last check that has a NaN or infinite loss."""
        losses, self.losses = self.losses, []
        if not losses or torch.stack([loss for *_, loss in losses]).isfinite().all():
            return None
        return next(step for step in losses if not step[2].isfinite())

    def _diverged(self, trainer: Trainer, pl_module: LightningModule, bad: tuple[int, float, Tensor] | None) -> None:
        mine, rate = None, trainer.optimizers[0].param_groups[0]["lr"]
        if bad:
            number, rate, loss = bad
            images = trainer.datamodule.training_rows(trainer.current_epoch, number)  # type: ignore[attr-defined]
            where = f"in epoch {trainer.current_epoch}, batch {number}, at learning rate {rate:g}"
            mine = (f"the loss is {loss.item()} {where}", images)
        found: list[Any] = [mine]
        if self.group is not None:
            found = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, mine, group=self.group)
        nowhere = f"a weight is not finite after {trainer.global_step} steps, at learning rate {rate:g}", "unknown"
        reason, images = next(filter(None, found), nowhere)
        good = self.last if self.is_whole else None
        if self.on_nan == "stop" or not good or self.done_rollbacks >= self.rollbacks:
            tried = f" after {self.done_rollbacks} rollbacks" if self.done_rollbacks else ""
            hint = "callbacks.last.on_nan=rollback restores it at a lower rate" if good and not tried else "lower optimizer.lr"
            raise ZooError(f"{reason}{tried}; last good checkpoint: {good or 'none'}; {hint}; images of the batch: {images}")
        self.done_rollbacks += 1
        self._roll_back(trainer, pl_module, good)
        lowered = f"learning rate lowered to {self.rate_factor**self.done_rollbacks:g} of the schedule"
        say(f"{reason}: restored the weights of {good}; {lowered} (rollback {self.done_rollbacks} of {self.rollbacks})")

    def _roll_back(self, trainer: Trainer, pl_module: LightningModule, path: Path) -> None:
        """Restore weights, weight average and optimizer state from a checkpoint; continue the schedule at a lower rate."""
        mine = trainer.strategy.load_checkpoint(path, weights_only=True) if trainer.is_global_zero else {}
        checkpoint = trainer.strategy.broadcast(mine)  # other machines may not have the disk of rank 0
        pl_module.load_state_dict(checkpoint["state_dict"])
        pl_module.restart_means()  # type: ignore[operator]
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
            if hasattr(scheduler, "base_lrs"):  # ReduceLROnPlateau has none: it reads the rates of the optimizer
                scheduler.base_lrs = [rate * self.rate_factor for rate in scheduler.base_lrs]

    # Signals

    def _listen(self) -> None:
        """Replace Lightning's signal handlers, which save nothing. Lightning's teardown restores the original ones."""
        signals = [signal.SIGINT, *ending_signals()]
        if REQUEUE and callable(signal.getsignal(REQUEUE)):  # submitit's handler, which queues the job again
            signals.append(REQUEUE)
        for number in signals:
            self.others[number] = signal.signal(number, self._heard)
        self.signal = self.signal or (asked() - 128 if asked() else None)  # a library may have caught the SystemExit

    def _heard(self, number: int, frame: FrameType | None) -> None:
        request = hear(number) if number != REQUEUE else self.signal is None
        if request > 1:
            raise SystemExit(asked())
        if not request:
            return
        self.signal = self.signal or number
        name, hint = signal.Signals(number).name, "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
        if os.environ.get("LOCAL_RANK", "0") == "0":
            with suppress(OSError):  # the output was closed
                os.write(sys.stderr.fileno(), f"\n{name}: finishing this step and saving before exit{hint}\n".encode())

    def _end_if_asked(self) -> None:
        if self.signal is None:
            return
        if self.signal == REQUEUE:
            handler: Callable = self.others[self.signal]
            handler(self.signal, None)
        raise SystemExit(128 + self.signal)


def _finite(module: LightningModule) -> bool:
    return bool(torch.stack([weights.isfinite().all() for weights in module.parameters()]).all())


def _link(path: Path, name: Path) -> None:
    """Give a file a second name; replace the file that has this name."""
    with whole_file(name) as temporary:
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)
