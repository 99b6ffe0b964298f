"""Import paths of config targets, and a key of the config, that are replaced by current ones.

Configs, checkpoints and sweeps may contain an old path, or Lightning's class where this package has its own.
"""

import re
from collections.abc import Mapping
from typing import Any

MOVED = {
    "inception_zoo.callbacks.EMA": "inception_zoo.training.callbacks.EMA",
    "inception_zoo.callbacks.GradientNorm": "inception_zoo.training.callbacks.GradientNorm",
    "inception_zoo.callbacks.ImagesPerSecond": "inception_zoo.training.callbacks.ImagesPerSecond",
    "inception_zoo.callbacks.PeakMemory": "inception_zoo.training.callbacks.PeakMemory",
    "inception_zoo.finetune.Unfreeze": "inception_zoo.training.callbacks.Unfreeze",
    "inception_zoo.progress.ProgressBar": "inception_zoo.training.callbacks.ProgressBar",
    "inception_zoo.safekeeping.Safekeeping": "inception_zoo.training.last_checkpoint.LastCheckpoint",
    "inception_zoo.muon.Muon": "inception_zoo.training.muon.Muon",
    "inception_zoo.schedules.constant": "inception_zoo.training.schedules.constant",
    "inception_zoo.schedules.cosine": "inception_zoo.training.schedules.cosine",
    "inception_zoo.schedules.exponential": "inception_zoo.training.schedules.exponential",
    "inception_zoo.schedules.one_cycle": "inception_zoo.training.schedules.one_cycle",
    "lightning.pytorch.callbacks.ModelCheckpoint": "inception_zoo.training.best_checkpoint.BestCheckpoint",
    "inception_zoo.metrics_file.CSVLogger": "inception_zoo.tracking.csv_logger.CSVLogger",
    "inception_zoo.tracking.WandbLogger": "inception_zoo.tracking.wandb_logger.WandbLogger",
}


def with_new_names(config: Any) -> Any:
    """Return a copy of plain containers in which every `_target_` and `data.val_size` has its current name."""
    if isinstance(config, Mapping):
        new = {key: _present(value) if key == "_target_" else with_new_names(value) for key, value in config.items()}
        if "val_size" in new and new.get("_target_") == "inception_zoo.data.ImageData":
            new["split"] = {"val": new.pop("val_size")}
        return new
    return [with_new_names(each) for each in config] if isinstance(config, list) else config


def with_new_key(override: str) -> str:
    """Return an override with the current name of its key."""
    return re.sub(r"^([+~]*)data\.val_size\b", r"\1data.split.val", override)


def _present(target: Any) -> Any:
    return MOVED.get(target, target) if isinstance(target, str) else target
