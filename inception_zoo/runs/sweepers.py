"""The sweepers: a resumable grid, block changes by stage, and Optuna. `hydra_plugins` registers them with Hydra."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from inception_zoo.architecture.nets import ALIASES, ZOO, find_net
from inception_zoo.architecture.plan import make_plan
from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.errors import ZooError, check_installed, check_whole
from inception_zoo.redaction import redacted
from inception_zoo.runs.folders import quoted
from inception_zoo.runs.results import DONE, RESULTS, read_results
from inception_zoo.runs.sweeps import begin, words_of
from inception_zoo.system.ranks import by_torchrun
from inception_zoo.system.records import save_redacted

NUMBER = "${hydra:job.num}"  # default of hydra.sweep.subdir


class GridSweeper(BasicSweeper):
    """Hydra's BasicSweeper, with resuming. It skips finished jobs; the others keep their numbers and folders.

    Args:
        max_batch_size: maximum number of jobs per launch; None: all.
        params: overrides by key, as in Hydra.
        jobs: sets of overrides, for combinations that are not a grid. Each set is run with each combination of the other
            values.
    """

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None, jobs: Sequence[Sequence[str]] = ((),)
    ) -> None:
        # No `super().__init__`: Hydra executes the files of its plugins twice, and `super(BasicSweeper, self)` then fails.
        self.max_batch_size, self.params, self.jobs = max_batch_size, params or {}, jobs
        self.overrides, self.batch_index = None, 0
        self.hydra_context, self.config, self.launcher = None, None, None

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run the sweep. Hydra's own method would write overrides and config with their secrets."""
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
                _ = job.return_value  # raises the error of a failed job
        return returns

    def split_arguments(  # type: ignore[override]  # a static method in BasicSweeper
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        assert self.config is not None
        jobs = self.combinations(overrides)
        folder = Path(self.config.hydra.sweep.dir)
        names = self._names(jobs)
        left = [number for number, job in enumerate(jobs) if not _is_done(folder / names[number], job)]
        if len(left) < len(jobs) and any("hydra:job.num" in word for job in jobs for word in job):
            raise ZooError("hydra:job.num changes when a sweep is resumed; start a new sweep in another folder")
        begin(folder, names)
        places = [[*jobs[number], _place(names[number])] for number in left]
        return list(self.split_overrides_to_chunks(places, max_batch_size)) if places else []

    def _names(self, jobs: Sequence[Sequence[str]]) -> list[str]:
        """Return the folder of each job, relative to that of the sweep: its number, or the value of `hydra.sweep.subdir`."""
        assert self.config is not None and self.hydra_context is not None
        given = _subdir(self.config)
        if given == NUMBER:
            return [str(number) for number in range(len(jobs))]
        names = [self._name(number, job) for number, job in enumerate(jobs)]
        wrong = [name for name in names if names.count(name) > 1 or "/" in name or name in (".", "..")]
        if wrong:
            raise ZooError(
                f"hydra.sweep.subdir={given} must give each job a folder of its own, but gives '{wrong[0]}'; for folders by "
                f"job number, set 'hydra.sweep.subdir={NUMBER}'"
            )
        return names

    def _name(self, number: int, job: Sequence[str]) -> str:
        """Return the value of `hydra.sweep.subdir` for a job, as the job itself will see it."""
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(job))  # type: ignore[union-attr,arg-type]
        with read_write(cfg.hydra), open_dict(cfg.hydra):
            cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
        before, HydraConfig.instance().cfg = HydraConfig.instance().cfg, None
        try:
            HydraConfig.instance().set_config(cfg)
            return str(cfg.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = before

    def combinations(self, overrides: list[Override]) -> list[list[str]]:
        """Return the overrides of every job."""
        own = {word.partition("=")[0] for job in self.jobs for word in job}
        if both := own & {override.get_key_element() for override in overrides}:
            raise ZooError(f"{min(both)}: the jobs of this sweep set this key themselves; leave it out")
        ((*grid,),) = BasicSweeper.split_arguments(overrides, None)
        return [[*job, *more] for job in grid for more in self._more(job)]

    def _more(self, job: Sequence[str]) -> Sequence[Sequence[str]]:
        return self.jobs


def _is_done(folder: Path, job: Sequence[str]) -> bool:
    """Return whether a job needs no more work; raise ZooError if its folder belongs to another job."""
    own = sorted(redacted([word for word in job if not word.startswith("hydra")]))
    if (folder / RESULTS).exists() and (words := words_of(folder)) is not None and own != sorted(words):
        other = f"another sweep: its job {folder.name} differs"
        raise ZooError(f"hydra.sweep.dir={folder.parent} holds {other}; set another folder")
    return read_results(folder).get("state") in DONE


class BlockSweeper(GridSweeper):
    """Sweep over network x stage x variant: each network as published, then with the blocks of one stage replaced.

    Other keys with several values multiply the number of jobs, as in any sweep: ``seed=1,2,3``.

    Args:
        max_batch_size: maximum number of jobs per launch; None: all.
        params: overrides by key, as in Hydra.
        variants: names of the block variants.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None, variants: Sequence[str]) -> None:
        super().__init__(max_batch_size, params)
        self.variants = variants

    def _more(self, job: Sequence[str]) -> Sequence[Sequence[str]]:
        (name,) = (word.removeprefix("model=") for word in job if word.startswith("model="))
        if name not in {*ZOO, *ALIASES} and self.hydra_context and self.config:  # a file in conf/model
            name = self.hydra_context.config_loader.load_sweep_config(self.config, [f"model={name}"]).model.name
        stages = make_plan(find_net(name)).swappable
        return [[], *([f"model.blocks.{stage}={variant}"] for stage in stages for variant in self.variants)]


class OptunaSweeper(Sweeper):
    """Search with Optuna for the best value of the metric that selects the best checkpoint, by default validation top-1.

    The search space has the syntax of Hydra: ``optimizer.lr=tag(log,interval(1e-4,1e-1))``, ``model=googlenet,inception_v3``,
    ``int(interval(1,8))``, ``range(0,0.5,step=0.1)``. Each trial is a job; its folder has the number of the trial. A resumed
    sweep first completes the trials that were interrupted.

    Args:
        n_trials: total number of trials.
        n_jobs: number of trials per launch.
        params: search space by key; the command line takes precedence.
        **node: the remaining options, see `OptunaSweeperConf`.
    """

    def __init__(self, n_trials: int, n_jobs: int, params: dict[str, Any] | None, **node: Any) -> None:
        self.n_trials, self.n_jobs, self.params = n_trials, n_jobs, params or {}
        self.node = node  # see OptunaSweeperConf

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.conf, self.context = config, hydra_context
        plugins = Plugins.instance()
        launcher = plugins.instantiate_launcher(hydra_context=hydra_context, task_function=task_function, config=config)
        self.launch = launcher.launch

    def sweep(self, arguments: list[str]) -> None:
        check_installed("optuna", "search", "hydra/sweeper=optuna")
        if by_torchrun():
            raise ZooError("hydra/sweeper=optuna: under torchrun each process would start a search; use trainer.devices")
        from inception_zoo.runs.study import Search, objective

        for name in ("n_trials", "n_jobs"):
            check_whole(f"hydra.sweeper.{name}", getattr(self, name), at_least=1)
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        given = {word.partition("=")[0] for word in arguments}
        params = [f"{key}={value}" for key, value in self.params.items() if key not in given]
        overrides = parser.parse_overrides([*params, *arguments])
        fixed = [override.input_line or "" for override in overrides if not override.is_sweep_override()]
        space = {override.get_key_element(): _distribution(override) for override in overrides if override.is_sweep_override()}
        if not space:
            raise ZooError("hydra/sweeper=optuna has no search space; set one, such as 'optimizer.lr=interval(1e-4,1e-1)'")
        if varied := [key for key in space if key in ("callbacks.best.monitor", "callbacks.best.mode")]:
            raise ZooError(f"{varied[0]}: the trials are compared by this metric; give the key one value")
        folder = Path(self.conf.hydra.sweep.dir)
        if (subdir := _subdir(self.conf)) != NUMBER:
            raise ZooError(f"hydra.sweep.subdir={subdir}: the folders of trials have their numbers; set '{NUMBER}'")
        composed = self.context.config_loader.load_sweep_config(self.conf, fixed).callbacks
        callbacks: Any = OmegaConf.to_container(composed)  # unresolved: other values need the run folder
        goal = objective(
            {key: node | ({"mode": composed[key].mode} if "mode" in node else {}) for key, node in callbacks.items()}
        )
        search = Search({**self.node, "n_trials": self.n_trials}, folder, goal, space)
        save_redacted(self.conf, folder / "multirun.yaml")
        begin(folder, search.jobs(), fails_again=False)
        for batch in search.batches(self.n_jobs):
            begin(folder, search.jobs(), fails_again=False)
            places = ([_place(str(trial.number)), f"sweep.trial={trial.number}"] for trial in batch)
            jobs = [[*fixed, *_words(trial.params), *place] for trial, place in zip(batch, places, strict=True)]
            self.launch(jobs, initial_job_idx=batch[0].number)
        begin(folder, search.jobs(), fails_again=False)  # other sweeps may have taken the last trials


def _place(name: str) -> str:
    return f"hydra.sweep.subdir={name if name.isdecimal() else quoted(Path(name))}"


def _subdir(config: DictConfig) -> str:
    return str(OmegaConf.to_container(config.hydra, resolve=False)["sweep"]["subdir"])  # type: ignore[call-overload,index]


def _words(params: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]


def _distribution(override: Override) -> Any:
    """Return the Optuna distribution for the values of an override."""
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
    return d.CategoricalDistribution(list(override.sweep_string_iterator()))  # strings, as in the overrides


@dataclass
class GridSweeperConf(BasicSweeperConf):
    """Default options of `GridSweeper`."""

    _target_: str = "hydra_plugins.inception_zoo_sweeper.GridSweeper"
    jobs: list[list[str]] = field(default_factory=lambda: [[]])


@dataclass
class BlockSweeperConf(BasicSweeperConf):
    """Default options of `BlockSweeper`."""

    _target_: str = "hydra_plugins.inception_zoo_sweeper.BlockSweeper"
    params: dict[str, str] | None = field(default_factory=lambda: {"model": ",".join(ZOO)})
    variants: list[str] = field(default_factory=lambda: [name for name in BLOCKS if not name.startswith("residual_")])


@dataclass
class OptunaSweeperConf:
    """Default options of `OptunaSweeper`."""

    _target_: str = "hydra_plugins.inception_zoo_sweeper.OptunaSweeper"
    n_trials: int = 20
    n_jobs: int = 1  # trials per launch; to run them in parallel, use a launcher such as hydra/launcher=joblib
    sampler: str = "TPESampler"  # class in optuna.samplers
    sampler_options: dict[str, Any] = field(default_factory=lambda: {"seed": 1})
    pruner: str = "MedianPruner"  # class in optuna.pruners; NopPruner: no pruning
    pruner_options: dict[str, Any] = field(default_factory=dict)
    storage: str | None = None  # null: a journal in the sweep folder; or a database, for example sqlite:///study.db
    study_name: str | None = None  # null: `sweep` in a journal; in a database, the name of the sweep folder
    params: dict[str, Any] | None = None  # search space; the command line takes precedence


CONFIGS = {"grid": GridSweeperConf, "blocks": BlockSweeperConf, "optuna": OptunaSweeperConf}  # group hydra/sweeper
