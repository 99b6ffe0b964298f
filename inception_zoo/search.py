"""Optuna: the study of a sweep, and the callback that ends a trial that promises nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from lightning import Callback, LightningModule, Trainer
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

if TYPE_CHECKING:
    from optuna.trial import Trial

METRIC = "val/top1"


def open_study(sweeper: Mapping[str, Any], sweep_folder: Path, **more: Any) -> optuna.Study:
    """The study of a sweep, made if it is new.

    Args:
        sweeper: the node `hydra.sweeper`.
        sweep_folder: holds the study as a journal, which several machines may write, unless the sweeper has a `storage`.
        more: sampler and pruner.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = sweeper["storage"]
    if storage is None:
        journal = str(sweep_folder / "optuna.journal")
        # a lock by link, the default, is not to be had on every file system
        storage = JournalStorage(JournalFileBackend(journal, lock_obj=JournalFileOpenLock(journal)))
    name = sweeper["study_name"] or sweep_folder.name
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True, **more)


class Pruning(Callback):
    """Reports validation top-1 after each epoch, and stops the training where the study's pruner says so.

    Rank 0 asks; all stop together.
    """

    def __init__(self, sweeper: Mapping[str, Any], sweep_folder: Path, number: int) -> None:
        self.sweeper, self.folder, self.number = sweeper, sweep_folder, number
        self.reason: str | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        prune = False
        if trainer.is_global_zero:
            self._trial.report(value := float(trainer.callback_metrics[METRIC]), step=trainer.current_epoch)
            prune = self._trial.should_prune()
        if trainer.strategy.broadcast(prune):
            trainer.should_stop = True
            if trainer.is_global_zero:
                self.reason = f"pruned after epoch {trainer.current_epoch + 1} with {METRIC} {value:.4f}"

    @property
    def _trial(self) -> "Trial":
        from hydra.utils import instantiate

        study = open_study(self.sweeper, self.folder, pruner=instantiate(self.sweeper["pruner"]))
        return optuna.trial.Trial(study, study.trials[self.number]._trial_id)
