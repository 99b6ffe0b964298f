"""The Hydra application behind `run.py` and `inception-zoo run`: config in, one job or a sweep out."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from inception_zoo.check import check
from inception_zoo.choices import model_config
from inception_zoo.errors import ZooError, did_you_mean, fail
from inception_zoo.nets import ALIASES, ZOO

_PACKAGE = Path(__file__).resolve().parent
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())  # wheel, checkout


def register_models() -> None:
    """Make every network of the zoo an option of Hydra's `model` group."""
    for name in (*ZOO, *ALIASES):
        ConfigStore.instance().store(name, model_config(ZOO[ALIASES.get(name, name)]), group="model", provider="zoo")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> float:
    """One job; its value, for a sweeper to maximize, is the validation accuracy."""
    check(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    from inception_zoo.train import run  # torch and Lightning load only once the config is known to be right

    metrics = run(cfg)
    return metrics.get("val/top1", metrics.get("test/top1", math.nan))


def main() -> None:
    """Run the job of the command line. A user's mistake ends in one line and exit status 2, any other in a traceback."""
    register_models()
    if os.environ.get("HYDRA_FULL_ERROR"):
        _job()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets every error through, to be explained here
    try:
        _job()
    except ZooError as error:
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error))


def explain(error: Exception) -> str:
    """Hydra's errors in one line, with the near key or option."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option} is unknown; {did_you_mean(option, sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' cannot be read; it must be key=value, with rows in quotes: 'key=[\"1x1 64 > 3x3 96\"]'"
    text = " ".join(str(error).split())
    key = re.search(r"Could not (?:override|append|delete)[^']*'([^'=@]+)", text) or re.search(r"full_key: (\S+)", text)
    if isinstance(error, ConfigCompositionException) and key:
        return f"{key[1]} is no key of the config; {did_you_mean(key[1], _keys())}"
    return text


def _keys() -> list[str]:
    """Every dotted key of the default config."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return _flat(OmegaConf.to_container(compose("config")))


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    return [key for name, child in node.items() for key in (f"{prefix}{name}", *_flat(child, f"{prefix}{name}."))]


if __name__ == "__main__":
    main()
