"""The Optuna study of a sweep, and the callback that prunes unpromising trials."""

import logging
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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

log = logging.getLogger(__name__)
DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}


class Objective(NamedTuple):
    """The metric that selects the best checkpoint, and `max` or `min`."""

    metric: str
    mode: str


def objective(callbacks: Mapping[str, Any]) -> Objective:
    """Return the objective of a search: the metric of the first checkpoint callback, which selects the best checkpoint.

    Args:
        callbacks: the config node.

    Raises:
        ZooError: it does not monitor a validation metric.
    """
    checkpoints = (node for node in callbacks.values() if "dirpath" in node and "monitor" in node)
    node: Mapping[str, Any] = next(checkpoints, {})
    found = Objective(str(node.get("monitor")), node.get("mode", "min"))
    if not found.metric.startswith("val/") or found.mode not in DIRECTIONS:
        needs = "a search needs a validation metric, such as val/top1, and mode=max or mode=min"
        raise ZooError(f"callbacks.best.monitor={found.metric} with mode={found.mode}: {needs}")
    return found


def open_study(sweeper: Mapping[str, Any], sweep_folder: Path, objective: Objective, searching: bool = False) -> optuna.Study:
    """Open the study of a sweep, or create it.

    Args:
        sweeper: the config node `hydra.sweeper`.
        sweep_folder: folder of the sweep. It contains the study as a journal, which several machines may write to. If the
            sweeper has a `storage`, the study is stored there instead.
        objective: what to optimize.
        searching: configure the sampler for new trials. In a resumed study it gets another seed, so that it does not
            repeat the first trials.

    Raises:
        ZooError: the sampler, the pruner or an option does not exist, the storage cannot be opened, or its study has
            another direction.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = sweeper["storage"]
    if storage is None:
        journal = str(sweep_folder / "optuna.journal")
        lock = JournalFileOpenLock(journal)  # some file systems do not support the default lock, a symbolic link
        if searching:
            _cut(Path(journal), lock)
    name = sweeper["study_name"] or ("sweep" if sweeper["storage"] is None else sweep_folder.name)
    pruner = _chosen(optuna.pruners, "pruner", sweeper)
    direction = DIRECTIONS[objective.mode]
    try:
        storage = storage or JournalStorage(JournalFileBackend(journal, lock_obj=lock))
        study = optuna.create_study(storage=storage, study_name=name, pruner=pruner, direction=direction, load_if_exists=True)
    except (SQLAlchemyError, OSError, ImportError) as error:
        raise ZooError(f"hydra.sweeper.storage={redacted(sweeper['storage'])}: {reason_of(error)}") from None
    except Exception as error:  # Optuna raises any type for a damaged journal
        raise ZooError(f"{sweep_folder} has a damaged study ({reason_of(error)}); start another sweep") from None
    known = study.user_attrs.get("metric", objective.metric if not study.trials else "val/top1")  # older studies: val/top1
    if (other := study.direction.name.lower()) != direction or known != objective.metric:
        raise ZooError(
            f"callbacks.best.monitor={objective.metric} with mode={objective.mode}: the study in "
            f"{redacted(sweeper['storage']) or sweep_folder} has to {other} {known}; start another sweep"
        )
    study.set_user_attr("metric", objective.metric)
    if searching:
        options = dict(sweeper["sampler_options"])
        if options.get("seed") is not None:
            options["seed"] += len(study.trials)
        study.sampler = _chosen(optuna.samplers, "sampler", {**sweeper, "sampler_options": options})
    return study


def _cut(journal: Path, lock: JournalFileOpenLock) -> None:
    """Remove an incomplete last line of a killed process: Optuna would append to it, and not read the study any more."""
    lock.acquire()
    try:
        text = journal.read_bytes() if journal.exists() else b""
        if (end := text.rfind(b"\n") + 1) < len(text):
            log.warning("%s: its last line is incomplete and is removed", journal)
            os.truncate(journal, end)
    finally:
        lock.release()


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
    """Callback that reports the objective after each validation, and stops the training if the pruner of the study decides so.

    Rank 0 asks the pruner; all ranks stop together.

    Args:
        sweeper: the config node `hydra.sweeper`.
        sweep_folder: folder of the sweep.
        number: number of the trial.
        objective: what the search optimizes.
    """

    def __init__(self, sweeper: Mapping[str, Any], sweep_folder: Path, number: int, objective: Objective) -> None:
        self.sweeper, self.folder, self.number, self.objective = sweeper, sweep_folder, number, objective
        self.reason: str | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.is_global_zero:
            metric = self.objective.metric
            trial, value = self._trial, float(trainer.callback_metrics[metric])
            trial.report(value, step=trainer.current_epoch)
            if trial.should_prune():
                self.reason = f"pruned after epoch {trainer.current_epoch + 1} with {metric} {value:.4f}"
        self.reason = trainer.strategy.broadcast(self.reason)
        trainer.should_stop |= self.reason is not None

    @cached_property
    def _trial(self) -> "Trial":
        study = open_study(self.sweeper, self.folder, self.objective)
        return optuna.trial.Trial(study, study.trials[self.number]._trial_id)
