"""The Hydra application behind `run.py` and `inception-zoo run`: config in, one job or a sweep out."""

import math
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from inception_zoo.check import check
from inception_zoo.choices import model_config
from inception_zoo.data_layout import count_classes
from inception_zoo.errors import ZooError, did_you_mean, fail, one_line, unreadable
from inception_zoo.nets import ALIASES, ZOO, find_net
from inception_zoo.ranks import agreed, by_torchrun, is_first
from inception_zoo.runs import recorded, unfinished_checkpoint
from inception_zoo.sweeps import finish, resumed
from inception_zoo.variants import BLOCKS

_PACKAGE = Path(__file__).resolve().parent
TRACEBACK = "INCEPTION_ZOO_TRACEBACK"  # set by `main`: whether the user gave HYDRA_FULL_ERROR
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
OmegaConf.register_new_resolver("zoo.classes", count_classes, replace=True)
OmegaConf.register_new_resolver("zoo.image_size", lambda name: find_net(name).image_size, replace=True)
OmegaConf.register_new_resolver("zoo.now", lambda layout: _start().strftime(layout), use_cache=True, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> float:
    """One job; its value is the best validation accuracy."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    single = hydra.mode == RunMode.RUN
    ckpt = None if single else unfinished_checkpoint(folder)  # of a job that was cut short, by a scheduler perhaps
    with one_line_errors() if single else others_go_on(folder), recorded(folder, seed=cfg.seed) as results:
        check(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
        check_optimizer(hydra)
        from inception_zoo.train import run  # torch and Lightning load only once the config is known to be right

        run(cfg, results, ckpt)
    return results.get("val/top1_best", math.nan)


@contextmanager
def others_go_on(folder: Path) -> Iterator[None]:
    """An error ends one job of a sweep, which has recorded it; it is said, and the sweep goes on."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ZooError | HydraException | OmegaConfBaseException) and not wants_traceback():
            print(f"error: job {folder.name}: {explain(error)}", file=sys.stderr)
        else:
            traceback.print_exc()


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
    status = 1
    try:
        with one_line_errors():
            sys.argv[1:] = resumed(sys.argv[1:])
            if by_torchrun() and not is_first():  # its processes share a folder, in which one writes
                sys.argv += ["hydra.output_subdir=null", f"hydra.job.name=rank{os.environ['RANK']}"]
            _job()
        status = 0
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:  # Lightning makes one of a SIGTERM, without a status
        status = end.code if isinstance(end.code, int) else 143
    finally:
        ended = finish()
    sys.exit(status or ended)


@contextmanager
def composed(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The groups about images that words of the command line choose, for tools that run no job; errors as in a job."""
    from hydra import compose, initialize_config_dir

    register_groups()
    with one_line_errors():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", list(words))
        yield {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("data", "augmentation", "model")}


def wants_traceback() -> bool:
    return bool(os.environ.get(TRACEBACK, os.environ.get("HYDRA_FULL_ERROR")))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program in one line for what the user can mend; HYDRA_FULL_ERROR=1 shows the traceback instead."""
    try:
        yield
    except (ZooError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback():
            raise
        fail(explain(error))


def explain(error: Exception) -> str:
    """Hydra's errors in one line, with the near key or option."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option} is unknown; {did_you_mean(option, sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    text = one_line(error)
    if ambiguous := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return f"{ambiguous[1]} has several values: add -m for a sweep over them, or brackets for a list"
    if text.startswith("Caught ZooError"):  # in a worker, which wraps it in its traceback
        return text.rpartition("ZooError: ")[2]
    key = re.search(r"full_key: (\S+)", text) or re.search(r"Could not (?:override|append|delete)[^']*'([^'=@]+)", text)
    if isinstance(error, ConfigCompositionException) and key:
        others = f"; other options of lightning.Trainer are added: +{key[1]}=…" if key[1].startswith("trainer.") else ""
        hint = did_you_mean(key[1], _keys(of_hydra=key[1].startswith("hydra.")))
        hint = "see `python run.py --cfg all`" if hint.startswith("valid") else hint
        return f"{key[1]} is no key of the config; {hint}{others}"
    return text


def _keys(of_hydra: bool = False) -> list[str]:
    """Every dotted key of the config, with the groups' options that the command line chose."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    groups = ("model", "block", r"hydra/\w+", *(folder.name for folder in CONF.iterdir() if folder.is_dir()))
    chosen = [word for word in sys.argv[1:] if re.fullmatch(rf"({'|'.join(groups)})=\w+", word)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return _flat(OmegaConf.to_container(compose("config", chosen, return_hydra_config=of_hydra)))


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    return [key for name, child in node.items() for key in (f"{prefix}{name}", *_flat(child, f"{prefix}{name}."))]


if __name__ == "__main__":
    main()
