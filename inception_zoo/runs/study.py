"""The Optuna study of a sweep, the trials of a search, and the callback that prunes unpromising trials."""

import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import optuna
from lightning import Callback, LightningModule, Trainer
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.redaction import redacted
from inception_zoo.runs.results import DONE, best_of, read_results, reason_of
from inception_zoo.system.records import read_json, write_json

log = logging.getLogger(__name__)
JOURNAL = "optuna.journal"  # the study, in the folder of a sweep
WORKER = "worker"  # attribute of a trial: the sweep that runs it
IDENTITY = "search.json"  # in the folder of a search, under the key `worker`
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


def open_study(sweeper: Mapping[str, Any], sweep_folder: Path, objective: Objective) -> optuna.Study:
    """Open the study of a sweep, or create it.

    Args:
        sweeper: the config node `hydra.sweeper`.
        sweep_folder: folder of the sweep. It contains the study as a journal, which several machines may write to. If the
            sweeper has a `storage`, the study is stored there instead.
        objective: what to optimize.

    Raises:
        ZooError: the pruner or an option does not exist, the storage cannot be opened, or its study has another direction.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = sweeper["storage"]
    if storage is None:
        journal = str(sweep_folder / JOURNAL)
        lock = JournalFileOpenLock(journal)  # some file systems do not support the default lock, a symbolic link
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
    return study


class Search:
    """The trials that one sweep runs. Several sweeps may work on a study in a database, each in its own folder.

    A trial belongs to the sweep that creates it, from its first moment: a sweep that was killed finds its interrupted trials
    again, and no other sweep takes them.

    Args:
        sweeper: the config node `hydra.sweeper`.
        folder: folder of the sweep.
        objective: what to optimize.
        space: what to vary.

    Raises:
        ZooError: see `open_study`; or the sampler does not exist.
    """

    def __init__(
        self, sweeper: Mapping[str, Any], folder: Path, objective: Objective, space: Mapping[str, BaseDistribution]
    ) -> None:
        self.sweeper, self.folder, self.objective, self.space, self._is_first = sweeper, folder, objective, space, True
        if sweeper["storage"] is None:
            _cut(folder)
        self.study = open_study(sweeper, folder, objective)
        self.most = sweeper["n_trials"]
        self._seed(len(self.study.trials))
        self.worker = read_json(folder / IDENTITY, {}).get(WORKER)
        if not isinstance(self.worker, str):
            self.worker = uuid.uuid4().hex
            write_json(folder / IDENTITY, {WORKER: self.worker})

    def _seed(self, number: int) -> None:
        """Make the sampler. Its seed depends on the first new trial, so that no sweep repeats the trials of another one."""
        self._seeded = number
        options = dict(self.sweeper["sampler_options"])
        if options.get("seed") is not None and self.sweeper["sampler"] != "GridSampler":  # whose seed orders the grid
            options["seed"] += number
        self.study.sampler = _chosen(optuna.samplers, "sampler", {**self.sweeper, "sampler_options": options})

    def own(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the trials of this sweep; in a journal, those of older versions, too, which recorded no sweep."""
        trials = self.study.get_trials(deepcopy=False, states=states)
        anyone = self.worker if self.sweeper["storage"] is None else None
        return [trial for trial in trials if trial.user_attrs.get(WORKER, anyone) == self.worker]

    def jobs(self) -> list[str]:
        """Return the folders of the trials of this sweep, and of those that it may still create."""
        trials = self.study.get_trials(deepcopy=False)
        numbers = [trial.number for trial in self.own() if not _is_surplus(trial)]
        left = self.most - sum(not _is_surplus(trial) for trial in trials)
        return [*map(str, numbers), *map(str, range(len(trials), len(trials) + left))]

    def batches(self, size: int) -> Iterator[list[Trial]]:
        """Yield the trials to run next, at most `size` at a time: interrupted ones first. Then read how they have ended."""
        for known in self.own([TrialState.RUNNING]):
            if read_results(self.folder / str(known.number)).get("state") in DONE:
                self._tell(known.number)  # it ended after the sweep was interrupted
            elif not known.params and self._is_one_too_many(known.number):
                self.study.tell(known.number, state=TrialState.FAIL)  # see `_new`
        left = [self._with_values(known) for known in self.own([TrialState.RUNNING])]
        while True:
            while len(left) < size and (trial := self._new()):
                left.append(trial)
            batch, left = left[:size], left[size:]
            if not batch:
                return
            yield batch
            for trial in batch:
                self._tell(trial.number)

    def _new(self) -> Trial | None:
        """Create the next trial; return None if the study has enough."""
        if self._is_one_too_many(len(self.study.get_trials(deepcopy=False))):
            return None
        # not `study.ask`, whose trials belong to no sweep at first, and would be lost if this process were killed then
        self.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={WORKER: self.worker}))
        born = max(self.own([TrialState.RUNNING]), key=lambda trial: trial.number)
        if self._is_one_too_many(born.number):  # another sweep has created the last one at the same time
            self.study.tell(born.number, state=TrialState.FAIL)
            return None
        if self._is_first and born.number != self._seeded:
            self._seed(born.number)
        self._is_first = False
        return self._with_values(born)

    def _is_one_too_many(self, number: int) -> bool:
        """Return True if the study has enough trials before this one. Of two that are created at once, the first one counts."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(trial.number < number and not _is_surplus(trial) for trial in trials) >= self.most

    def _with_values(self, trial: FrozenTrial) -> Trial:
        """Return a trial with a value for each key that is searched; the process may have been killed before it had them."""
        self.study._thread_local.cached_all_trials = None  # as in `study.ask`: the sampler reads all trials again
        asked = Trial(self.study, trial._trial_id)
        for key, values in self.space.items():
            if key not in trial.params:
                _suggest(asked, key, values)
        return asked

    def _tell(self, number: int) -> None:
        """Tell the study how a trial has ended. One without an end is left to the sweep that is resumed."""
        results = read_results(self.folder / str(number))
        value, state = best_of(results), results.get("state")
        if state in (None, "running", "interrupted"):
            log.warning("trial %d has not ended; it continues when the sweep is resumed", number)
            return
        if value is not None and (other := results.get("monitor")) not in (None, self.objective.metric):
            metric = self.objective.metric
            log.warning("trial %d selected its checkpoint by %s, not by %s; it does not count", number, other, metric)
            value = None
        ended = TrialState.PRUNED if state == "pruned" else TrialState.FAIL
        try:
            self.study.tell(number, **({"values": value} if state == "finished" and value is not None else {"state": ended}))
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
            # GridSampler, after its last point; the result is stored
            self.most = min(self.most, sum(not _is_surplus(trial) for trial in self.study.get_trials(deepcopy=False)))


def _is_surplus(trial: FrozenTrial) -> bool:
    """Return True for a trial that was given up at once, before it had values; see `Search._new`."""
    return trial.state == TrialState.FAIL and not trial.params


def _suggest(trial: Trial, key: str, values: BaseDistribution) -> None:
    if isinstance(values, CategoricalDistribution):
        trial.suggest_categorical(key, values.choices)
    elif isinstance(values, IntDistribution):
        trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
    elif isinstance(values, FloatDistribution):
        trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)


def _cut(folder: Path) -> None:
    """Remove an incomplete last line of a killed process: Optuna would append to it, and not read the study any more."""
    journal = folder / JOURNAL
    lock = JournalFileOpenLock(str(journal))
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
    def _trial(self) -> Trial:
        study = open_study(self.sweeper, self.folder, self.objective)
        return Trial(study, study.trials[self.number]._trial_id)
