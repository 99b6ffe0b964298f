"""The sweepers: a grid that can be resumed, blocks by stage, and Optuna. `hydra_plugins` shows them to Hydra."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from inception_zoo.architecture.nets import ALIASES, ZOO, find_net
from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.errors import ZooError, check_installed, check_whole
from inception_zoo.redaction import redacted, save_redacted
from inception_zoo.runs.results import DONE, read_results
from inception_zoo.runs.sweeps import begin, words_of
from inception_zoo.system.ranks import by_torchrun


class GridSweeper(BasicSweeper):
    """Hydra's own, which can go on: finished jobs are left out, the others keep their numbers and so their folders.

    `jobs` are sets of words that each combination of the other values is run with: combinations that no grid has.
    """

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None, jobs: Sequence[Sequence[str]] = ((),)
    ) -> None:
        # Not by `super().__init__`: Hydra executes its own plugins' files again, and `super(BasicSweeper, self)` then fails.
        self.max_batch_size, self.params, self.jobs = max_batch_size, params or {}, jobs
        self.overrides, self.batch_index = None, 0
        self.hydra_context, self.config, self.launcher = None, None, None

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """As Hydra's, which would write the words and the config with their secrets."""
        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        words = parser.parse_overrides([*self._parse_config(), *arguments])
        batches = self.split_arguments(words, self.max_batch_size)
        save_redacted(self.config, Path(self.config.hydra.sweep.dir) / "multirun.yaml")
        returns: list[Sequence[JobReturn]] = []
        for batch in batches:
            self.validate_batch_is_legal(batch)
            returns.append(self.launcher.launch(batch, initial_job_idx=sum(map(len, returns))))
            for job in returns[-1]:
                _ = job.return_value  # raises the error of one that failed
        return returns

    def split_arguments(  # type: ignore[override]  # a static method there
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        assert self.config is not None
        if any(word.startswith("hydra.sweep.subdir=") for word in self.config.hydra.overrides.hydra):
            raise ZooError("hydra.sweep.subdir: the folder of a job is its number, by which a sweep goes on; leave it out")
        jobs = self.combinations(overrides)
        folder = Path(self.config.hydra.sweep.dir)
        left = [number for number, job in enumerate(jobs) if not _is_done(folder / str(number), job)]
        if len(left) < len(jobs) and any("hydra:job.num" in word for job in jobs for word in job):
            raise ZooError("hydra:job.num is another when a sweep goes on; start the jobs anew, in a folder of their own")
        begin(folder, len(jobs))
        places = [[*jobs[number], f"hydra.sweep.subdir={number}"] for number in left]
        return list(self.split_overrides_to_chunks(places, max_batch_size)) if places else []

    def combinations(self, overrides: list[Override]) -> list[list[str]]:
        """The words of every job."""
        own = {word.partition("=")[0] for job in self.jobs for word in job}
        if both := own & {override.get_key_element() for override in overrides}:
            raise ZooError(f"{min(both)}: the jobs of this sweep have values of their own for it; leave it out")
        ((*grid,),) = BasicSweeper.split_arguments(overrides, None)
        return [[*job, *more] for job in grid for more in self._more(job)]

    def _more(self, job: Sequence[str]) -> Sequence[Sequence[str]]:
        return self.jobs


def _is_done(folder: Path, job: Sequence[str]) -> bool:
    """Whether a job has nothing left to do; ZooError if its folder is that of another."""
    own = sorted(redacted([word for word in job if not word.startswith("hydra")]))
    if (folder / ".hydra").exists() and own != sorted(words_of(folder)):
        raise ZooError(
            f"hydra.sweep.dir={folder.parent} holds another sweep, whose job {folder.name} differs; give another folder"
        )
    return read_results(folder).get("state") in DONE


class BlockSweeper(GridSweeper):
    """Network x stage x variant: each network as published, then with one stage's blocks swapped at a time.

    What else has several values on the command line multiplies, as in any sweep: ``seed=1,2,3``.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None, variants: Sequence[str]) -> None:
        super().__init__(max_batch_size, params)
        self.variants = variants

    def _more(self, job: Sequence[str]) -> Sequence[Sequence[str]]:
        (name,) = (word.removeprefix("model=") for word in job if word.startswith("model="))
        if name not in {*ZOO, *ALIASES} and self.hydra_context and self.config:  # a file in conf/model
            name = self.hydra_context.config_loader.load_sweep_config(self.config, [f"model={name}"]).model.name
        return [[], *([f"model.blocks.{grid}={variant}"] for grid in find_net(name).grids for variant in self.variants)]


class OptunaSweeper(Sweeper):
    """Trials of an Optuna study, `n_jobs` at a time: they maximize the best validation top-1.

    What is searched is written as in Hydra: ``optimizer.lr=tag(log,interval(1e-4,1e-1))``, ``model=googlenet,inception_v3``,
    ``int(interval(1,8))``, ``range(0,0.5,step=0.1)``. Each trial is a job, in the folder of its number; what was in progress
    when a sweep was interrupted is done first when it goes on.
    """

    def __init__(self, n_trials: int, n_jobs: int, params: dict[str, Any] | None, **node: Any) -> None:
        self.n_trials, self.n_jobs, self.params = n_trials, n_jobs, params or {}
        self.node = node  # see OptunaSweeperConf

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.conf, self.context = config, hydra_context
        self.launch = (
            Plugins.instance()
            .instantiate_launcher(hydra_context=hydra_context, task_function=task_function, config=config)
            .launch
        )

    def sweep(self, arguments: list[str]) -> None:
        check_installed("optuna", "search", "hydra/sweeper=optuna")
        if by_torchrun():
            raise ZooError(
                "hydra/sweeper=optuna: every process of torchrun would search by itself; give trainer.devices instead"
            )
        from optuna.trial import TrialState

        from inception_zoo.runs.study import open_study

        for name in ("n_trials", "n_jobs"):
            check_whole(f"hydra.sweeper.{name}", getattr(self, name), at_least=1)
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        given = {word.partition("=")[0] for word in arguments}
        params = [f"{key}={value}" for key, value in self.params.items() if key not in given]
        overrides = parser.parse_overrides([*params, *arguments])
        fixed = [override.input_line or "" for override in overrides if not override.is_sweep_override()]
        space = {override.get_key_element(): _distribution(override) for override in overrides if override.is_sweep_override()}
        if not space:
            raise ZooError(
                "hydra/sweeper=optuna has nothing to search; give a key several values: 'optimizer.lr=interval(1e-4,1e-1)'"
            )
        folder = Path(self.conf.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        study = open_study(self.node, folder, searching=True)
        save_redacted(self.conf, folder / "multirun.yaml")
        begin(folder, self.n_trials, fails_again=False)
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            found = read_results(folder / str(trial.number))
            if found.get("state") in DONE:  # but the sweep was cut short before it was told
                self._tell(study, trial.number, found)
        while batch := list(self._next(study, space)):
            jobs = [[*fixed, *_words(trial.params), *_place(trial.number)] for trial in batch]
            self.launch(jobs, initial_job_idx=batch[0].number)
            for trial in batch:
                self._tell(study, trial.number, read_results(folder / str(trial.number)))

    def _next(self, study: Any, space: Mapping[str, Any]) -> Iterator[Any]:
        """The trials to run next: first those that were cut short, then new ones."""
        from optuna.trial import TrialState

        trials = study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING][: self.n_jobs]
        yield from running
        for _ in range(min(self.n_jobs - len(running), self.n_trials - len(trials))):
            yield study.ask(dict(space))

    def _tell(self, study: Any, number: int, results: Mapping[str, Any]) -> None:
        from optuna.trial import TrialState

        value, state = results.get("val/top1_best"), results.get("state")
        if state == "finished" and value is not None:
            study.tell(number, value)
        else:
            study.tell(number, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)


def _place(number: int) -> list[str]:
    return [f"hydra.sweep.subdir={number}", f"sweep.trial={number}"]


def _words(params: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]


def _distribution(override: Override) -> Any:
    """What Optuna draws from, for the values of one word."""
    from optuna import distributions as d

    value: Any = override.value()
    if isinstance(value, IntervalSweep | RangeSweep):
        start, step = value.start, getattr(value, "step", None)
        end = list(value.range())[-1] if isinstance(value, RangeSweep) else value.end
        assert start is not None and end is not None
        log = "log" in value.tags
        try:
            if isinstance(start, int) and isinstance(end, int):
                return d.IntDistribution(start, end, log=log, step=int(step or 1))
            return d.FloatDistribution(float(start), float(end), log=log, step=step and float(step))
        except ValueError as error:
            raise ZooError(f"{override.input_line}: {error}") from None
    return d.CategoricalDistribution(list(override.sweep_string_iterator()))  # words, as they will be given


@dataclass
class GridSweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.inception_zoo_sweeper.GridSweeper"
    jobs: list[list[str]] = field(default_factory=lambda: [[]])


@dataclass
class BlockSweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.inception_zoo_sweeper.BlockSweeper"
    params: dict[str, str] | None = field(default_factory=lambda: {"model": ",".join(ZOO)})
    variants: list[str] = field(default_factory=lambda: [name for name in BLOCKS if not name.startswith("residual_")])


@dataclass
class OptunaSweeperConf:
    _target_: str = "hydra_plugins.inception_zoo_sweeper.OptunaSweeper"
    n_trials: int = 20
    n_jobs: int = 1  # at a time; more than one needs a launcher that runs them so, such as hydra/launcher=joblib
    sampler: str = "TPESampler"  # of optuna.samplers
    sampler_options: dict[str, Any] = field(default_factory=lambda: {"seed": 1})
    pruner: str = "MedianPruner"  # of optuna.pruners; NopPruner: none
    pruner_options: dict[str, Any] = field(default_factory=dict)
    storage: str | None = None  # a journal in the sweep's folder; or a database, as sqlite:///study.db
    study_name: str | None = None  # the name of the sweep's folder, in a database
    params: dict[str, Any] | None = None  # what is searched, where the command line does not say it


CONFIGS = {"grid": GridSweeperConf, "blocks": BlockSweeperConf, "optuna": OptunaSweeperConf}  # of the group hydra/sweeper
