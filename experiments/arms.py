"""Arms of a sweep as configs, and the number of batches that each can train on in equal time."""

import statistics
from typing import Any

from claims import load
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from inception_zoo.config import CONF
from inception_zoo.config.hydra_patches import install


def arms_of(name: str) -> dict[str, Any]:
    """Return the config of each arm of ``conf/sweep/NAME.yaml``, by name; seed and rate are the defaults."""
    jobs: Any = OmegaConf.load(CONF / f"sweep/{name}.yaml").hydra.sweeper.jobs
    return {cfg.run_name: cfg for cfg in (composed(f"sweep={name}", *job) for job in jobs)}


def composed(*overrides: str) -> Any:
    """Return the config of a job."""
    install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*overrides])


SECONDS, BATCH = 60, 128  # training time of each network of sweep=cost, on two threads


def batches(name: str, arm: str) -> int:
    """Return the number of batches that `arm` trains on in `SECONDS`, at the median speed of ``results/NAME_speed.csv``."""
    rates = [float(row["images/s"]) for row in load(f"{name}_speed") if row["run_name"] == arm]
    return round(SECONDS * statistics.median(rates) / BATCH)
