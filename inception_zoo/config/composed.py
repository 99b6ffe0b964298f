"""Checks of the composed config, before anything in it is called and before a folder is created."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from inception_zoo.config import CONF, hydra_patches
from inception_zoo.config.check import check, check_hydra
from inception_zoo.config.explain import one_line_errors
from inception_zoo.config.targets import AGENT, refused_places, refused_targets, refused_words, trust_words
from inception_zoo.config.unknown_keys import readable, wrong_overrides
from inception_zoo.errors import ZooError, messages_of, raise_all
from inception_zoo.runs.results import claim_folder
from inception_zoo.system.atomic_files import check_folder
from inception_zoo.system.renamed import with_new_names


def check_composed(cfg: DictConfig, single: bool, recover: Callable[..., Any] = lambda *_: None) -> None:
    """Check a composed config before Hydra acts on it.

    Args:
        cfg: The config with its node `hydra`.
        single: True for a single job; False for a sweep, whose jobs are checked later, by `check_job`.
        recover: Function of the config of a single job, its node `hydra` and its folder: takes the config of a checkpoint.

    Raises:
        ZooError: The config is invalid; all errors are reported together.
    """
    node, instance = cfg.hydra, HydraConfig.instance()
    before = instance.cfg
    instance.set_config(cfg)  # for `${hydra:…}`, as in a running job
    try:
        key = "run" if single else "sweep"
        folder = Path(str(node[key].dir)).absolute()
        if single:
            recover(cfg, node, folder)
            with read_write(node), open_dict(node):
                node.runtime.output_dir = str(folder := Path(str(node.run.dir)).absolute())
            instance.set_config(cfg)
        parts = ("callbacks", "hydra_logging", "launcher", "sweeper", "verbose", "output_subdir")
        own = {name: plain(node.get(name)) for name in parts}
        own["job_logging"] = plain(node.job_logging, resolve=single)  # it refers to the job's folder
        own |= {"job": {name: plain(node.job[name]) for name in ("name", "chdir")}, key: {"dir": str(node[key].dir)}}
        checks = [lambda: check_hydra(own), lambda: check_folder(f"hydra.{key}.dir", folder)]
        if AGENT in os.environ or not any(word.startswith(f"hydra.{key}.dir=") for word in node.overrides.hydra):
            upwards = refused_places({"hydra": {key: own[key]}}, Path(own[key]["dir"]))  # a name with `..`
            checks.append(lambda: raise_all(upwards))
        if single:
            job = plain(OmegaConf.masked_copy(cfg, [str(name) for name in cfg if name != "hydra"]))
            checks.append(lambda: check_job(with_new_names(job), node, cfg))
        else:
            # report them now, not when their job starts
            checks += [lambda: raise_all(wrong_overrides(keys=False)), lambda: raise_all(refused_words(sys.argv[1:]))]
        _run_all(checks, cfg)
        claim_folder(cfg, key)  # before Hydra writes to it
    finally:
        instance.cfg = before
        OmegaConf.set_readonly(node, False)


def check_job(config: Mapping[str, Any], hydra: HydraConf, cfg: DictConfig) -> None:
    """Check one job.

    Args:
        config: The config as resolved plain containers, with current names of all targets.
        hydra: The node `hydra` of the job.
        cfg: The composed config.

    Raises:
        ZooError: The config is invalid; all errors are reported together.
    """
    places = refused_places(config, Path(hydra.runtime.output_dir))
    _run_all([lambda: check(config), lambda: raise_all(places), lambda: _check_rate(hydra)], cfg)


def _run_all(checks: Sequence[Callable[[], None]], cfg: DictConfig) -> None:
    """Run all checks and raise their errors together. Errors of keys that refer to another key are left out."""
    found = []
    for each in checks:
        try:
            each()
        except ZooError as error:
            found += messages_of(error)
    raise_all([message for message in found if not _repeats(cfg, message.partition("=")[0])] or found)


def _repeats(cfg: DictConfig, key: str) -> bool:
    """Return True if the value of `key` is an interpolation, such as ``${data.num_classes}``."""
    *path, name = key.split(".")
    try:
        node = OmegaConf.select(cfg, ".".join(path)) if path else cfg
        return isinstance(node, DictConfig) and name in node and OmegaConf.is_interpolation(node, name)
    except OmegaConfBaseException:
        return False


def _check_rate(hydra: HydraConf) -> None:
    """Raise ZooError if an overridden optimizer would use the learning rate of a recipe or an experiment."""
    words = dict(word.split("=", 1) for word in hydra.overrides.task if "=" in word)
    owner = next((f"{group}={words[group]}" for group in ("recipe", "experiment") if group in words), None)
    if owner and "optimizer" in words and "optimizer.lr" not in words:
        chosen = f"optimizer={words['optimizer']}"
        raise ZooError(f"{chosen}: the learning rate of {owner} is for its own optimizer; set optimizer.lr, too")


def plain(node: Any, resolve: bool = True) -> Any:
    """Return a config node as plain containers, with its interpolations resolved if `resolve`."""
    return OmegaConf.to_container(node, resolve=resolve) if OmegaConf.is_config(node) else node


@contextmanager
def composed(overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Compose the groups data, augmentation and model, for tools that do not run a job.

    Args:
        overrides: Overrides as on the command line.

    Yields:
        The groups by name, as plain containers. An error ends the program, as in a job.
    """
    hydra_patches.install()
    with one_line_errors(list(overrides)):
        trust_words(overrides)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", readable(overrides))
        groups = with_new_names({key: plain(cfg[key]) for key in ("data", "augmentation", "model")})
        raise_all(refused_targets(groups))
        yield groups
