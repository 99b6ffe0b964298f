"""Selection of the checkpoint that the user means, and its comparison with the job, before anything long starts."""

import logging
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch import nn

from inception_zoo.architecture.card import Card
from inception_zoo.errors import ZooError
from inception_zoo.redaction import redacted
from inception_zoo.runs.results import CHECKPOINTS
from inception_zoo.system.atomic_files import is_whole_zip
from inception_zoo.system.renamed import with_new_names
from inception_zoo.training.atomic_checkpoints import is_whole, read_checkpoint
from inception_zoo.weights.files import METADATA

log = logging.getLogger(__name__)
FREE = ("data.root", "data.source", "data.workers", "data.eval_batch_size", "data.crops")  # change nothing that is learned


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint that a run folder's run goes on from: the last, or if that is damaged, which is said, the one before."""
    for path in (folder / "checkpoints" / name for name in CHECKPOINTS):
        if not path.exists():
            continue
        if is_whole(path):
            return path
        log.warning("%s is damaged: the one before it is taken", path)
    return None


def find_checkpoint(
    ckpt: str | None, task: str, run_folder: Path, interrupted: bool = False, runs: Path = Path("outputs")
) -> Path | None:
    """The file that `ckpt` names: a file, a run folder (its best for task=test, its last for task=fit), or `last`.

    `last` is this run folder's own, so that an interrupted run goes on in place, else the newest under `runs`. A run that was
    `interrupted` before its first checkpoint begins anew: None.
    """
    if ckpt is None:
        if task == "test":
            raise ZooError("task=test needs ckpt=PATH, a checkpoint or a run folder")
        return None
    if ckpt == "last":
        if found := newest_whole(run_folder):
            return found
        if interrupted and task == "fit":
            log.warning("%s has no whole checkpoint: the run begins anew", run_folder)
            return None
        others = {path.parents[1] for path in runs.rglob("checkpoints/last.ckpt")} - {run_folder}
        for folder in sorted(others, key=lambda folder: (folder / "checkpoints").stat().st_mtime, reverse=True):
            if found := newest_whole(folder):
                return found
        raise ZooError(f"ckpt=last: there is no whole checkpoint in {run_folder} or under {runs}; give ckpt=PATH")
    path = Path(ckpt)
    if path.is_dir():
        best = path / "checkpoints" / "best.ckpt"
        found = newest_whole(path) if task == "fit" else best if best.is_file() else None
        if not found:
            name = "whole checkpoint" if task == "fit" else "checkpoints/best.ckpt"
            raise ZooError(f"ckpt={ckpt}: this run folder has no {name}; give another, or a checkpoint")
        path = found
    if not path.is_file():
        raise ZooError(f"ckpt={ckpt}: {path} does not exist; give a checkpoint, a run folder, or `last`")
    read_checkpoint(path)
    if not is_whole_zip(path):
        raise ZooError(f"ckpt={path} is no readable checkpoint: it is damaged")
    return path


def precision_of(path: Path) -> str | None:
    """What a run was trained in, if its checkpoint says it."""
    try:
        return str(read_checkpoint(path)["hyper_parameters"]["trainer"]["precision"])
    except (KeyError, TypeError):
        return None


def check_fits(path: Path, model: nn.Module, config: dict[str, Any]) -> Card | None:
    """ZooError if `path` is no checkpoint of ours, one of another network, or, to go on training, of another recipe.

    Returns:
        What the checkpoint says of its network.
    """
    checkpoint = read_checkpoint(path)
    try:
        saved = with_new_names(checkpoint["hyper_parameters"])
        state = {key.removeprefix("model."): w for key, w in checkpoint["state_dict"].items() if key.startswith("model.")}
        shapes = {key: weights.shape for key, weights in state.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ZooError(f"ckpt={path} is no checkpoint of a run ({type(error).__name__})") from None
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
    network = (f"model.{key}" for key in config["model"] if key != "compile")
    steps = ("accumulate_grad_batches", "gradient_clip_val", "sync_batchnorm", "limit_train_batches", "precision")
    losses = ("label_smoothing", "aux_weight", "layer_decay", "lr_for_batch", "decay_norm_and_bias")
    groups = ("data", "augmentation", "optimizer", "scheduler")
    chosen = (f"{group}.{key}" for group in groups for key in config[group])
    keys = ["seed", *losses, *network, *chosen, *(f"trainer.{key}" for key in steps), "callbacks.ema"]
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
