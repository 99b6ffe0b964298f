"""The best checkpoint of a run, which stays known when the run folder is moved, copied, or resumed in another folder."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from inception_zoo.system.atomic_files import whole_file
from inception_zoo.training.atomic_checkpoints import is_whole, read_checkpoint

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
warn = rank_zero_only(logging.getLogger(__name__).warning)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint with file names in its state. Lightning stores absolute paths.

    A training that resumes in another folder gets a copy of the best checkpoints so far.

    Args:
        **options: see Lightning's ModelCheckpoint.

    Raises:
        ValueError: several checkpoints would get the same file name.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        varies = "{step" in (self.filename or "{step}") or options.get("enable_version_counter", True)
        if self.save_top_k not in (0, 1) and not varies:
            raise ValueError(f"save_top_k={self.save_top_k} needs {{step}} in filename={self.filename}")

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, "ModelCheckpoint")  # as in checkpoints of older versions

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._run_folder = Path(trainer.default_root_dir)

    def state_dict(self) -> dict[str, Any]:
        state, folder = super().state_dict(), str(self.dirpath)
        paths = {name: state[name] and os.path.relpath(state[name], folder) for name in PATHS}
        best = {os.path.relpath(path, folder): score for path, score in self.best_k_models.items()}
        return {**state, **paths, "best_k_models": best, "dirpath": os.path.relpath(folder, self._run_folder)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed = Path(str(trainer.ckpt_path)).absolute()  # it may be a bare file name

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Find the best checkpoints so far in this run's folder, or copy them from the folder of the resumed run."""
        stored = state_dict["dirpath"] or "."
        is_old = Path(stored).is_absolute()  # checkpoints of older versions hold absolute paths
        source = self._resumed.parent if is_old else self._resumed.parents[1] / stored
        folder = Path(str(self.dirpath))

        def found(path: str) -> str:
            name = os.path.relpath(path, stored) if is_old else path
            return str(folder / name) if path and _is_brought(source / name, folder / name) else ""

        scores = {found(path): score for path, score in state_dict["best_k_models"].items()}
        scores = {path: self._score(path, score) for path, score in scores.items() if path}
        state = {**state_dict, "dirpath": self.dirpath, "best_k_models": scores, "last_model_path": ""}
        state["best_model_path"] = "" if self.monitor else found(state_dict["best_model_path"])
        state["best_model_score"] = None
        if scores:
            ranked = sorted(scores, key=lambda path: float(scores[path]), reverse=self.mode == "max")
            state |= {"best_model_path": ranked[0], "best_model_score": scores[ranked[0]]}
            state |= {"kth_best_model_path": ranked[-1], "kth_value": scores[ranked[-1]]}
        super().load_state_dict(state)

    def _score(self, path: str, known: Tensor) -> Tensor:
        """Return the score that a checkpoint file states itself: the file may be newer than the resumed state."""
        own = read_checkpoint(Path(path)).get("callbacks", {}).get(self.state_key, {}).get("current_score")
        return known if own is None else own


def _is_brought(there: Path, here: Path) -> bool:
    """Return whether a checkpoint is at `here`, or could be copied from `there`; warn if it is missing or damaged."""
    if here.is_file() and is_whole(here):
        return True
    if not (there.is_file() and is_whole(there)):
        warn("%s is missing or damaged, the best checkpoint so far; the best later one will be selected", there)
        return False
    with whole_file(here, parents=True) as temporary:
        shutil.copyfile(there, temporary)
    return True
