"""Checks of a composed config, before anything in it is called and before a folder is made."""

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
from inception_zoo.config.targets import refused_targets, refused_variables
from inception_zoo.config.unknown_keys import wrong_overrides
from inception_zoo.errors import ZooError, messages_of, raise_all
from inception_zoo.runs.results import check_free, claim
from inception_zoo.system.atomic_files import check_folder
from inception_zoo.system.ranks import is_first
from inception_zoo.system.renamed import with_new_names


def check_composed(cfg: DictConfig, single: bool) -> None:
    """Check what Hydra has composed, for a job, or for a sweep alone, whose jobs come later.

    Raises:
        ZooError: all mistakes.
    """
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
        own = {name: plain(node.get(name)) for name in parts}
        own["job_logging"] = plain(node.job_logging, resolve=single)  # it knows the job's folder
        own |= {"job": {name: plain(node.job[name]) for name in ("name", "chdir", "env_set")}, key: {"dir": str(node[key].dir)}}
        checks = [lambda: check_hydra(own), lambda: check_folder(f"hydra.{key}.dir", folder)]
        if single:
            job = plain(OmegaConf.masked_copy(cfg, [str(name) for name in cfg if name != "hydra"]))
            checks.append(lambda: check_job(with_new_names(job), node, cfg))
        else:
            checks.append(lambda: raise_all(wrong_overrides(keys=False)))  # not when their job's turn comes
        _run_all(checks, cfg)
        if single and is_first():
            if cfg.task == "fit" and cfg.ckpt is None:
                check_free(folder)
            claim(folder)  # before Hydra writes in it
    finally:
        instance.cfg = before
        OmegaConf.set_readonly(node, False)


def check_job(config: Mapping[str, Any], hydra: HydraConf, cfg: DictConfig) -> None:
    """Check one job.

    Args:
        config: plain and final, with the present names of all targets.
        hydra: its own node.
        cfg: as it was composed.

    Raises:
        ZooError: all mistakes.
    """
    variables = refused_variables(plain(hydra.job.env_set))
    _run_all([lambda: raise_all(variables), lambda: check(config), lambda: _check_rate(hydra)], cfg)


def _run_all(checks: Sequence[Callable[[], None]], cfg: DictConfig) -> None:
    """Raise ZooError for whatever the checks raise. Of a key that only repeats another's value, only that other is named."""
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


def _check_rate(hydra: HydraConf) -> None:
    """Raise ZooError if another optimizer would run at the learning rate of a recipe or an experiment."""
    words = dict(word.split("=", 1) for word in hydra.overrides.task if "=" in word)
    owner = next((f"{group}={words[group]}" for group in ("recipe", "experiment") if group in words), None)
    if owner and "optimizer" in words and "optimizer.lr" not in words:
        chosen = f"optimizer={words['optimizer']}"
        raise ZooError(f"{chosen}: the rates of {owner} are for its own optimizer; give optimizer.lr, too")


def plain(node: Any, resolve: bool = True) -> Any:
    """Return a node of a config as plain containers."""
    return OmegaConf.to_container(node, resolve=resolve) if OmegaConf.is_config(node) else node


@contextmanager
def composed(overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Compose the groups about images, for tools that run no job; errors end the program as in a job."""
    hydra_patches.install()
    with one_line_errors(list(overrides)):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", list(overrides))
        groups = with_new_names({key: plain(cfg[key]) for key in ("data", "augmentation", "model")})
        raise_all(refused_targets(groups))
        yield groups
