"""The Hydra application behind `run.py` and `inception-zoo run`: config in, one job or a sweep out."""

import math
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal import logging_config
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, configure_log
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from inception_zoo.architecture.choices import model_config
from inception_zoo.architecture.nets import ALIASES, ZOO, find_net
from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.config.check import check, check_folder, check_hydra
from inception_zoo.config.targets import refused_logging, refused_targets, refused_variables, trust_words
from inception_zoo.data.layout import count_classes
from inception_zoo.errors import ZooError, did_you_mean, fail, messages_of, one_line, raise_all, say, shown, unreadable
from inception_zoo.redaction import guard, redacted
from inception_zoo.runs.results import CHECKPOINTS, REASON, check_free, claim, is_interrupted, recorded
from inception_zoo.runs.sweeps import finish, quoted, resumed
from inception_zoo.system.ranks import agreed, by_torchrun, is_first

_PACKAGE = Path(__file__).resolve().parent
TRACEBACK = "INCEPTION_ZOO_TRACEBACK"  # set by `main`: whether the user gave HYDRA_FULL_ERROR
DIGITS = 4300  # of an integer that Python reads
CAUGHT = (ZooError, HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError)  # what a user can mend
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())  # wheel, checkout


def register_groups() -> None:
    """Make the zoo's tables options of Hydra: every network of `model`, every variant of `block` (the whole network's)."""
    store = ConfigStore.instance()
    for name in (*ZOO, *ALIASES):
        store.store(name, model_config(ZOO[ALIASES.get(name, name)]), group="model", provider="zoo")
    for name in BLOCKS:
        store.store(name, {"model": {"blocks": {"all": name}}}, group="block", package="_global_", provider="zoo")


@cache
def _start() -> datetime:
    """When this command began: the same for all processes of a job."""
    return datetime.fromisoformat(agreed("start", datetime.now().isoformat()))


# Here, and not in `main`: the processes of a launcher (joblib, submitit, Ray) import this module to find the job.
guard()
OmegaConf.register_new_resolver("zoo.classes", count_classes, replace=True)
OmegaConf.register_new_resolver("zoo.image_size", lambda name: find_net(name).image_size, replace=True)
OmegaConf.register_new_resolver("zoo.now", lambda layout: _start().strftime(layout), use_cache=True, replace=True)
# Hydra copies its store for each group that it looks into, 117 times for --help; what it loads from there is a copy anyway.
ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
_configure_logging = logging_config.configure_logging


def _configure_allowed(config: dict[str, Any]) -> None:
    raise_all(refused_logging(config, "logging"))
    _configure_logging(config)


logging_config.configure_logging = _configure_allowed  # at its use, too: in a sweep each job may have another


class CheckedHydra(Hydra):
    """Hydra, which has the config checked before it calls, writes or makes a folder for anything that the config says.

    It has no hook there: its callbacks are called by the config themselves. All its commands compose here, of which `run` and
    `multirun` act, and the others (`--cfg`, `--help`, `--info`) show what they find. The jobs of a sweep are checked in `_job`.
    """

    acts = False

    def run(self, *args: Any, **more: Any) -> JobReturn:
        self.acts = True
        return super().run(*args, **more)

    def multirun(self, *args: Any, **more: Any) -> Any:
        self.acts = True
        return super().multirun(*args, **more)

    def compose_config(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        with_log_configuration: bool = False,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        try:
            cfg = super().compose_config(config_name, overrides, run_mode, False, from_shell, validate_sweep_overrides)
        except ValueError as error:  # of a group whose option is no name
            raise ConfigCompositionException(one_line(error)) from error
        if self.acts:
            check_composed(cfg, run_mode == RunMode.RUN)
        if with_log_configuration:
            configure_log(cfg.hydra.hydra_logging, cfg.hydra.verbose)
        return cfg


def check_composed(cfg: DictConfig, single: bool) -> None:
    """ZooError for all mistakes of what Hydra has composed: of a job, or of the sweep alone, whose jobs come later."""
    node, instance = cfg.hydra, HydraConfig.instance()
    before = instance.cfg
    instance.set_config(cfg)  # for `${hydra:…}`, as when a job is run
    try:
        key = "run" if single else "sweep"
        folder = Path(str(node[key].dir)).absolute()
        if single:
            with read_write(node), open_dict(node):
                node.runtime.output_dir = str(folder)
            instance.set_config(cfg)
        parts = ("callbacks", "hydra_logging", "launcher", "sweeper", "verbose", "output_subdir")
        own = {name: _plain(node.get(name)) for name in parts}
        own["job_logging"] = _plain(node.job_logging, resolve=single)  # it knows the job's folder
        own |= {
            "job": {name: _plain(node.job[name]) for name in ("name", "chdir", "env_set")},
            key: {"dir": str(node[key].dir)},
        }
        checks = [lambda: check_hydra(own), lambda: check_folder(f"hydra.{key}.dir", folder)]
        if single:
            job = _plain(OmegaConf.masked_copy(cfg, [str(name) for name in cfg if name != "hydra"]))
            checks.append(lambda: check_job(job, node, cfg))
        else:
            checks.append(lambda: raise_all(_wrong_words(keys=False)))  # not when their job's turn comes
        _run_all(checks, cfg)
        if single and is_first():
            if cfg.task == "fit" and cfg.ckpt is None:
                check_free(folder)
            claim(folder)  # before Hydra writes in it
    finally:
        instance.cfg = before
        OmegaConf.set_readonly(node, False)


def check_job(config: Mapping[str, Any], hydra: HydraConf, cfg: DictConfig) -> None:
    """ZooError for all mistakes of one job's words and config: plain and final, and as it was composed."""
    variables = refused_variables(_plain(hydra.job.env_set))
    _run_all([lambda: raise_all(variables), lambda: check(config), lambda: check_optimizer(hydra)], cfg)


def _run_all(checks: Sequence[Callable[[], None]], cfg: DictConfig) -> None:
    """ZooError for whatever one of them raises; of a key that in `cfg` only repeats another's value, that other is told."""
    found = []
    for each in checks:
        try:
            each()
        except ZooError as error:
            found += messages_of(error)
    raise_all([message for message in found if not _repeats(cfg, message.partition("=")[0])] or found)


def _repeats(cfg: DictConfig, key: str) -> bool:
    *path, name = key.split(".")
    try:
        node = OmegaConf.select(cfg, ".".join(path)) if path else cfg
        return isinstance(node, DictConfig) and name in node and OmegaConf.is_interpolation(node, name)
    except OmegaConfBaseException:
        return False


def _plain(node: Any, resolve: bool = True) -> Any:
    return OmegaConf.to_container(node, resolve=resolve) if OmegaConf.is_config(node) else node


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> float:
    """One job; its value is the best validation accuracy."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    single = hydra.mode == RunMode.RUN
    interrupted = is_interrupted(folder)
    if interrupted and not single and cfg.task == "fit":  # a job of a sweep that was cut short, by a scheduler perhaps
        cfg.ckpt = "last"
    errors = one_line_errors() if single else others_go_on(folder)
    with told_how_to_go_on(folder, hydra), errors, recorded(folder, seed=cfg.seed) as results:
        config = _plain(cfg)  # from here on it is just what was checked
        check_job(config, hydra, cfg)
        from inception_zoo.training.job import run  # torch and Lightning load only once the config is known to be right

        run(OmegaConf.create(config), results, interrupted)
    return results.get("val/top1_best", math.nan)


@contextmanager
def told_how_to_go_on(folder: Path, hydra: HydraConf) -> Iterator[None]:
    """After an interruption, or an error that is no mistake of the user's, say what goes on with a single run."""
    try:
        yield
    except BaseException as end:
        mistake = isinstance(end, SystemExit) and end.code == 2
        saved = any((folder / "checkpoints" / name).exists() for name in CHECKPOINTS)
        if saved and not mistake and is_first() and hydra.mode == RunMode.RUN:
            words = [word for word in hydra.overrides.task if not word.startswith("ckpt=")]
            again = shlex.join(["python", "run.py", *redacted(words), "ckpt=last", f"hydra.run.dir={quoted(folder)}"])
            print(f"go on with: {again}", file=sys.stderr)
        raise


@contextmanager
def others_go_on(folder: Path) -> Iterator[None]:
    """An error ends one job of a sweep, which has recorded it; it is said, and the sweep goes on."""
    try:
        yield
    except Exception as error:
        if isinstance(error, CAUGHT) and not wants_traceback():
            say([f"job {folder.name}: {message}" for message in explain_all(error)])
        else:
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)


def check_optimizer(hydra: HydraConf) -> None:
    """ZooError if another optimizer would run at the learning rate that a recipe or an experiment has for its own."""
    words = dict(word.split("=", 1) for word in hydra.overrides.task if "=" in word)
    owner = next((f"{group}={words[group]}" for group in ("recipe", "experiment") if group in words), None)
    if owner and "optimizer" in words and "optimizer.lr" not in words:
        chosen = f"optimizer={words['optimizer']}"
        raise ZooError(f"{chosen}: the rates of {owner} are for its own optimizer; give optimizer.lr, too")


def main() -> None:
    """Run what the command line says. Exit status 2 after a user's mistake, in one line; 1 if a job of a sweep failed."""
    register_groups()
    sys.path.append(str(Path.cwd()))  # a user's own variants
    os.environ[TRACEBACK] = os.environ.get("HYDRA_FULL_ERROR", "")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets every error through, to be explained here
    hydra._internal.hydra.Hydra = CheckedHydra  # type: ignore[misc]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # while nothing is trained yet
    status = 1
    try:
        with one_line_errors():
            trust_words(sys.argv[1:])
            sys.argv[1:] = resumed(sys.argv[1:])
            check_flags()
            if by_torchrun() and not is_first():  # its processes share a folder, in which one writes
                sys.argv += ["hydra.output_subdir=null", f"hydra.job.name=rank{os.environ['RANK']}"]
            _job()
        status = 0
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        ended = finish()
    sys.exit(status or ended)


@contextmanager
def composed(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The groups about images that words of the command line choose, for tools that run no job; errors as in a job."""
    from hydra import compose, initialize_config_dir

    register_groups()
    with one_line_errors(list(words)):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", list(words))
        groups = {key: _plain(cfg[key]) for key in ("data", "augmentation", "model")}
        raise_all(refused_targets(groups))
        yield groups


def wants_traceback() -> bool:
    return bool(os.environ.get(TRACEBACK, os.environ.get("HYDRA_FULL_ERROR")))


@contextmanager
def one_line_errors(words: list[str] | None = None) -> Iterator[None]:
    """End the program in a line for each thing that the user can mend; HYDRA_FULL_ERROR=1 shows the traceback instead.

    Args:
        words: that Hydra composes by; those of the command line when left out.
    """
    try:
        yield
    except CAUGHT as error:
        if wants_traceback():
            raise
        if REASON in os.environ:  # the first process of the job says it
            sys.exit(2)
        fail(*explain_all(error, words))


def check_flags() -> None:
    """ZooError where Hydra's parser of the command line ends the program, or would do what we do not."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        words = "; put all KEY=VALUE words side by side" if message.startswith("unrecognized") else ""
        raise ZooError(f"{message}{words}; see `python run.py --help`")

    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_args()
    commands = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg, "--info": args.info}
    if len(given := [flag for flag, value in commands.items() if value]) > 1:
        raise ZooError(f"{' and '.join(given)} go not together; give one of them")
    if args.resolve and not (args.cfg or args.help):
        raise ZooError("--resolve is for --cfg and --help")
    if args.experimental_rerun:
        raise ZooError("--experimental-rerun reads a pickle, which may run anything; repeat the command instead")
    for word in args.overrides:
        if re.search(rf"\d{{{DIGITS + 1}}}", word):  # Python refuses to read it, in the middle of Hydra's parser
            raise ZooError(f"{word[:40]}…: a number has at most {DIGITS} digits")


def explain_all(error: Exception, words: list[str] | None = None) -> list[str]:
    """A line for each mistake: where Hydra stops at the first word that it cannot place, the others are told as well."""
    if isinstance(error, ZooError):
        text = str(error)
        return [explain(error)] if text.startswith("Caught ZooError") else messages_of(error)
    if isinstance(error, ConfigCompositionException | OverrideParseException):
        try:
            return _wrong_words(words, several="Ambiguous" in str(error)) or [explain(error)]
        except CAUGHT:  # the configs are at fault, not the words
            pass
    return [explain(error)]


def explain(error: Exception) -> str:
    """Hydra's errors in one line, with the near key or option."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option} is unknown; {did_you_mean(option, sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    cause = error.__cause__ or error.__context__
    text = one_line(error) if str(error) or cause is None else one_line(cause)
    if ambiguous := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return _several(ambiguous[1])
    if text.startswith("Caught ZooError"):  # in a worker, which wraps it in its traceback
        return text.rpartition("ZooError: ")[2]
    if (merged := re.search(r"Error merging override (.*)", text)) and isinstance(cause, OmegaConfBaseException):
        return f"{merged[1]}: {str(cause).splitlines()[0]}"
    key = re.search(r"full_key: (\S+)", text) or re.search(r"Could not (?:override|append|delete)[^']*'([^'=@]+)", text)
    if isinstance(error, ConfigCompositionException) and key and "Interpolation" not in text:
        return _no_key(key[1], _flat(_plain_keys(_loader(), [])))
    return re.sub(r" full_key: (\S+) object_type=\S+", r" (in \1)", text)


def _several(word: str) -> str:
    return f"{word} has several values: add -m for a sweep over them, or brackets for a list"


def _no_key(key: str, keys: Sequence[str]) -> str:
    others = f"; other options of lightning.Trainer are added: +{key}=…" if key.startswith("trainer.") else ""
    of_hydra = key.startswith("hydra.")
    hint = did_you_mean(key, [each for each in keys if each.startswith("hydra.") == of_hydra])
    hint = "see `python run.py --cfg all`" if hint.startswith("valid") else hint
    return f"{key} is no key of the config; {hint}{others}"


def _wrong_words(words: list[str] | None = None, several: bool = False, keys: bool = True) -> list[str]:
    """A message for each word that is unreadable, or names an option or a key that there is not.

    Args:
        words: those of the command line when left out.
        several: whether words with several values are wrong, too.
        keys: whether keys are looked at; in a sweep each job may have others.
    """
    args = get_args_parser().parse_args(words)
    if args.config_path or args.config_name:  # not ours
        return []
    loader = _loader(args.config_dir)
    parser = OverridesParser.create(config_loader=loader)
    found, chosen, others = [], [], []
    for word in args.overrides:
        try:
            override = parser.parse_override(word)
        except HydraException:
            found.append(unreadable(word))
            continue
        key, sweeps = override.key_or_group, override.is_sweep_override()
        if sweeps and several:
            found.append(_several(word))
        options = [] if override.is_delete() else loader.get_group_options(key)
        if not options:
            others.append(override)
            continue
        values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else [override.value()]
        for value in values:
            if value in (None, "null"):
                found.append(f"{key}=null is no option; '~{key}' takes the group out")
            elif value not in options and not isinstance(value, list):
                found.append(f"{key}={shown(value)} is unknown; {did_you_mean(value, sorted(options))}")
        chosen += [f"{key}={value}" for value in values if isinstance(value, str) and value in options][:1]
    if not keys:
        return found
    known = _flat(_plain_keys(loader, chosen))
    added = [override.key_or_group for override in others if override.is_add() or override.is_force_add()]
    return found + [
        _no_key(override.key_or_group, known)
        for override in others
        if override.key_or_group not in known and not any(f"{override.key_or_group}.".startswith(f"{key}.") for key in added)
    ]


def _loader(added: str | None = None) -> ConfigLoaderImpl:
    """Of our configs, and those in a folder of the user's."""
    path = create_config_search_path(str(CONF))
    if added:
        schema = path.get_path().pop()
        path.append("command-line", f"file://{Path(added).absolute()}")
        path.append(schema.provider, schema.path)
    return ConfigLoaderImpl(path)


def _plain_keys(loader: ConfigLoaderImpl, chosen: list[str]) -> Any:
    return OmegaConf.to_container(loader.load_configuration("config", chosen, RunMode.RUN))


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    return [key for name, child in node.items() for key in (f"{prefix}{name}", *_flat(child, f"{prefix}{name}."))]


if __name__ == "__main__":
    main()
