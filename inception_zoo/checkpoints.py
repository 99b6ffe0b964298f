"""Which checkpoint the user means, and whether it fits the network, before anything long starts."""

from pathlib import Path

import torch
from torch import nn

from inception_zoo.errors import ZooError


def find_checkpoint(ckpt: str | None, task: str, run_folder: Path, runs: Path = Path("outputs")) -> Path | None:
    """The file that `ckpt` names: a file, a run folder (its best for task=test, its last for task=fit), or `last`.

    `last` is this run folder's own, so that an interrupted run goes on in place, else the newest under `runs`.
    """
    if ckpt is None:
        if task == "test":
            raise ZooError("task=test needs ckpt=PATH, a checkpoint or a run folder")
        return None
    if ckpt == "last":
        own = run_folder / "checkpoints" / "last.ckpt"
        found = [own] if own.exists() else sorted(runs.rglob("checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise ZooError(f"ckpt=last: there is no checkpoint in {run_folder} or under {runs}; give ckpt=PATH")
        return found[-1]
    path = Path(ckpt)
    if path.is_dir():
        path = path / "checkpoints" / ("best.ckpt" if task == "test" else "last.ckpt")
    if not path.is_file():
        raise ZooError(f"ckpt={ckpt}: {path} does not exist; give a checkpoint, a run folder, or `last`")
    return path


def check_fits(path: Path, model: nn.Module) -> None:
    """ZooError if `path` is no checkpoint of ours, or one of another network."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = {key.removeprefix("model."): w for key, w in checkpoint["state_dict"].items() if key.startswith("model.")}
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ZooError(f"ckpt={path} is no readable checkpoint ({type(error).__name__})") from None
    ours = model.state_dict()
    wrong = [key for key in ours if key not in state or state[key].shape != ours[key].shape] + list(state.keys() - ours)
    if wrong:
        saved = checkpoint.get("hyper_parameters", {}).get("model", {}).get("name", "another network")
        raise ZooError(
            f"ckpt={path} holds {saved} and does not fit the chosen model: {len(wrong)} tensors differ, first '{wrong[0]}'"
        )
