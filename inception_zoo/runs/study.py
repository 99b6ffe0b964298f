"""The Optuna study of a sweep, and the callback that prunes unpromising trials."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from lightning import Callback, LightningModule, Trainer
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.redaction import redacted
from inception_zoo.runs.results import reason_of

if TYPE_CHECKING:
    from optuna.trial import Trial

METRIC = "val/top1"


def open_study(sweeper: Mapping[str, Any], sweep_folder: Path, searching: bool = False) -> optuna.Study:
    """Open the study of a sweep, or create it.

    Args:
        sweeper: the config node `hydra.sweeper`.
        sweep_folder: folder of the sweep. It contains the study as a journal, which several machines may write to. If the
            sweeper has a `storage`, the study is stored there instead.
        searching: configure the sampler for new trials. In a resumed study it gets another seed, so that it does not
            repeat the first trials.

    Raises:
        ZooError: the sampler, the pruner or an option does not exist, or the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = sweeper["storage"]
    if storage is None:
        journal = str(sweep_folder / "optuna.journal")
        # some file systems do not support the default lock, a symbolic link
        storage = JournalStorage(JournalFileBackend(journal, lock_obj=JournalFileOpenLock(journal)))
    name = sweeper["study_name"] or ("sweep" if sweeper["storage"] is None else sweep_folder.name)
    pruner = _chosen(optuna.pruners, "pruner", sweeper)
    try:
        study = optuna.create_study(storage=storage, study_name=name, pruner=pruner, direction="maximize", load_if_exists=True)
    except (SQLAlchemyError, OSError, ImportError) as error:
        raise ZooError(f"hydra.sweeper.storage={redacted(sweeper['storage'])}: {reason_of(error)}") from None
    if searching:
        options = dict(sweeper["sampler_options"])
        if options.get("seed") is not None:
            options["seed"] += len(study.trials)
        study.sampler = _chosen(optuna.samplers, "sampler", {**sweeper, "sampler_options": options})
    return study


def _chosen(module: Any, key: str, sweeper: Mapping[str, Any]) -> Any:
    name, options = sweeper[key], sweeper[f"{key}_options"]
    names = [each for each in module.__all__ if each.lower().endswith(key) and not each.startswith("Base")]
    if name not in names:
        raise ZooError(f"hydra.sweeper.{key}={name} is unknown; {did_you_mean(name, names)}")
    try:
        return getattr(module, name)(**options)
    except (TypeError, ValueError) as error:
        raise ZooError(f"hydra.sweeper.{key}_options={dict(options)}: {error}") from None


class Pruning(Callback):
    """Callback that reports validation top-1 after each epoch, and stops the training if the pruner of the study decides so.

    Rank 0 asks the pruner; all ranks stop together.

    Args:
        sweeper: the config node `hydra.sweeper`.
        sweep_folder: folder of the sweep.
        number: number of the trial.
    """

    def __init__(self, sweeper: Mapping[str, Any], sweep_folder: Path, number: int) -> None:
        self.sweeper, self.folder, self.number = sweeper, sweep_folder, number
        self.reason: str | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.is_global_zero:
            trial, value = self._trial, float(trainer.callback_metrics[METRIC])
            trial.report(value, step=trainer.current_epoch)
            if trial.should_prune():
                self.reason = f"pruned after epoch {trainer.current_epoch + 1} with {METRIC} {value:.4f}"
        self.reason = trainer.strategy.broadcast(self.reason)
        trainer.should_stop |= self.reason is not None

    @cached_property
    def _trial(self) -> "Trial":
        study = open_study(self.sweeper, self.folder)
        return optuna.trial.Trial(study, study.trials[self.number]._trial_id)
