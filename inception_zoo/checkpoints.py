"""Which checkpoint the user means, and whether it fits the network, before anything long starts."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inception_zoo.errors import ZooError
from inception_zoo.secrets import redacted
from inception_zoo.weights.card import Card
from inception_zoo.weights.files import METADATA

FREE = ("data.root", "data.source", "data.workers", "data.eval_batch_size", "data.crops")  # change nothing that is learned


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
            raise ZooError(f"ckpt={ckpt}: this run folder has no {path.relative_to(ckpt)}; give another, or a checkpoint")
    if not path.is_file():
        raise ZooError(f"ckpt={ckpt}: {path} does not exist; give a checkpoint, a run folder, or `last`")
    return path


def check_fits(path: Path, model: nn.Module, config: dict[str, Any]) -> Card | None:
    """ZooError if `path` is no checkpoint of ours, one of another network, or, to go on training, of another recipe.

    Returns:
        What the checkpoint says of its network.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        saved = checkpoint["hyper_parameters"]
        state = {key.removeprefix("model."): w for key, w in checkpoint["state_dict"].items() if key.startswith("model.")}
        shapes = {key: weights.shape for key, weights in state.items()}
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ZooError(f"ckpt={path} is no readable checkpoint ({type(error).__name__})") from None
    ours = {key: weights.shape for key, weights in model.state_dict().items()}
    wrong = sorted(key for key in ours.keys() | shapes.keys() if ours.get(key) != shapes.get(key))
    if wrong:
        was, now = saved["model"], config["model"]
        given = "".join(f" model.{key}={value}" for key, value in was.items() if key != "name" and now.get(key) != value)
        raise ZooError(
            f"ckpt={path} holds {was['name']} and does not fit the chosen model: {len(wrong)} tensors differ, first "
            f"'{wrong[0]}'; it was trained with model={was['name']}{given}"
        )
    if config["task"] == "fit":
        if "optimizer_states" not in checkpoint:
            raise ZooError(f"ckpt={path} holds weights only, without the optimizer's state; training cannot go on from it")
        _check_recipe(path, saved, redacted(config))
    card = checkpoint.get(METADATA)
    return Card.of(card) if card else None


def check_classes(path: Path, saved: Sequence[str] | None, classes: Sequence[str] | None) -> None:
    """ZooError if the data's classes have other names than those that the checkpoint's labels stand for."""
    if not saved or not classes:
        return
    for label, (theirs, ours) in enumerate(zip_longest(saved, classes, fillvalue="nothing")):
        if theirs != ours:
            raise ZooError(f"ckpt={path}: its label {label} is '{theirs}', and that of the data is '{ours}'; give its own data")


def _check_recipe(path: Path, saved: dict[str, Any], config: dict[str, Any]) -> None:
    """ZooError naming the key in which a resumed run would silently differ from the saved one."""
    start = ("model.weights", "model.adapt", "model.freeze")
    steps = ("accumulate_grad_batches", "gradient_clip_val", "sync_batchnorm")
    losses = ("label_smoothing", "aux_weight", "layer_decay", "lr_for_batch", "decay_norm_and_bias")
    groups = ("data", "augmentation", "optimizer", "scheduler")
    chosen = (f"{group}.{key}" for group in groups for key in config[group])
    keys = ["seed", *losses, *start, *chosen, *(f"trainer.{key}" for key in steps), "callbacks.ema"]
    if config["scheduler"]["_target_"].endswith("one_cycle"):  # its length is part of it
        keys.append("trainer.max_epochs")
    for key in keys:
        if key in FREE:
            continue
        group, _, name = key.partition(".")
        was, now = (c.get(group, {}).get(name) if name else c.get(group) for c in (saved, config))
        if was != now and (isinstance(was, dict) or isinstance(now, dict)):
            raise ZooError(f"ckpt={path} was trained with another {key}; give the options of {group} that it was trained with")
        if was != now:
            raise ZooError(f"ckpt={path} was trained with {key}={was}, this job has {key}={now}; give {key}={was} to go on")
