"""The best checkpoint of a run, which stays known when the run folder is moved, copied, or resumed in another folder."""

import logging
import os
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import link_or_copy
from inception_zoo.system.ranks import is_first
from inception_zoo.training.atomic_checkpoints import read_checkpoint

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
warn = rank_zero_only(logging.getLogger(__name__).warning)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint with file names in its state. Lightning stores absolute paths.

    A training that resumes in another folder gets a copy of the best checkpoints so far.

    Args:
        **options: see Lightning's ModelCheckpoint.

    Raises:
        ZooError: several checkpoints would get the same file name.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        varies = options.get("enable_version_counter", True) or any(
            key in (self.filename or "{epoch}") for key in ("{epoch", "{step")
        )
        if self.save_top_k not in (0, 1) and not varies:
            raise ZooError(f"save_top_k={self.save_top_k} needs {{epoch}} or {{step}} in filename={self.filename}")

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, "ModelCheckpoint")  # as in checkpoints of older versions

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        paths = {name: self._relative(state[name]) for name in PATHS}
        best = {self._relative(path): score for path, score in self.best_k_models.items()}
        return {**state, **paths, "best_k_models": best, "dirpath": ""}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed = Path(str(trainer.ckpt_path)).parent

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        was = state_dict["dirpath"] or "."  # absolute in checkpoints of older versions

        def here(path: str) -> str:
            return path and str(self._folder / os.path.relpath(path, was))

        state = {**state_dict, **{name: here(state_dict[name]) for name in PATHS}, "dirpath": self.dirpath}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        scores = {path: self._score(path, score) for path, score in scores.items() if self._bring(path)}
        if scores:
            ranked = sorted(scores, key=lambda path: float(scores[path]), reverse=self.mode == "max")
            state |= {"best_model_path": ranked[0], "best_model_score": scores[ranked[0]]}
            state |= {"kth_best_model_path": ranked[-1], "kth_value": scores[ranked[-1]]}
        elif self.monitor or not self._bring(state["best_model_path"]):
            state |= {"best_model_path": "", "best_model_score": None}
        super().load_state_dict({**state, "best_k_models": scores})

    @property
    def _folder(self) -> Path:
        return Path(str(self.dirpath))

    def _relative(self, path: str) -> str:
        return path and os.path.relpath(path, self._folder)

    def _bring(self, path: str) -> bool:
        """Return whether a checkpoint is in this run's folder, or beside the resumed checkpoint: it is then copied."""
        there = self._resumed / self._relative(path)
        if not path or Path(path).is_file():
            return bool(path)
        if not there.is_file():
            warn("%s is missing, the best checkpoint so far; the best one of the later epochs will be selected", there)
            return False
        if is_first():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(there, Path(path))
        return True

    def _score(self, path: str, known: Tensor) -> Tensor:
        """Return the score that a checkpoint file states itself: the file may be newer than the resumed state."""
        file = Path(path) if Path(path).is_file() else self._resumed / self._relative(path)
        own = read_checkpoint(file).get("callbacks", {}).get(self.state_key, {}).get("current_score")
        return known if own is None else own
