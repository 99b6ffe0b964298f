"""Comparison of the ranks of a job: config, images, code and versions of libraries."""

import hashlib
import json
import platform
import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from inception_zoo.data.source import digest_of
from inception_zoo.errors import ZooError
from inception_zoo.runs.results import flattened
from inception_zoo.system.regular_files import opened

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision", "lightning", "numpy")


class SameConfig(Callback):
    """Callback that stops a job whose processes have different configs, images, code or libraries.

    Args:
        config: the config of the job as plain containers.
        results: receives `config_sha256`, and `world_size` from torch.distributed.
    """

    def __init__(self, config: Mapping[str, Any], results: dict[str, Any]) -> None:
        self.values, self.results = flattened(config), results
        self.images: dict[str, str] = {}  # of each split

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        digest = hashlib.sha256(json.dumps(self.values, sort_keys=True, default=str).encode()).hexdigest()
        world_size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self.results |= {"world_size": world_size, "config_sha256": digest}
        if world_size == 1:
            return
        splits = trainer.datamodule.splits  # type: ignore[attr-defined]
        for name, split in splits.items() if not self.images else ():
            self.images[f"{name} images"] = f"{len(split):,} ({digest_of(split)})"
        mine = socket.gethostname(), {**self.values, **self.images, **_software()}
        every: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(every, mine)
        first, ours = every[0]
        for rank, (host, theirs) in enumerate(every):
            for key in sorted(theirs.keys() | ours.keys()):
                if theirs.get(key) != ours.get(key):
                    both = f"{key}={ours.get(key)} on rank 0 ({first}) and {theirs.get(key)} on rank {rank} ({host})"
                    raise ZooError(f"the ranks differ: {both}; start all of them with the same command, data and code")


@cache
def _software() -> dict[str, str]:
    """Return the versions that can change results, and a digest of this package's code."""
    code = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        with opened(file) as source:
            code.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + source.read())
    versions = {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    return {"code": code.hexdigest()[:12], **{f"version of {name}": number for name, number in versions.items()}}
