"""Selection of the checkpoint for a job, and the check that it matches the job."""

import json
import logging
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch import nn

from inception_zoo.architecture.card import Card
from inception_zoo.data.division import TABLE
from inception_zoo.data.layout import class_name
from inception_zoo.errors import ZooError, one_line, shown
from inception_zoo.redaction import redacted
from inception_zoo.runs.results import CHECKPOINTS, RESULTS, evaluated_checkpoint, flattened
from inception_zoo.system.atomic_files import is_whole_zip
from inception_zoo.system.ranks import is_first
from inception_zoo.system.renamed import with_new_names
from inception_zoo.training.atomic_checkpoints import is_whole, read_checkpoint
from inception_zoo.weights.files import METADATA
from inception_zoo.weights.sources import is_name

log = logging.getLogger(__name__)
# keys without an effect on training
COLUMNS = "path", "label", "separator", "probabilities", "weight", "split", "group", "name", "revision", "image"
PROBABILITIES = "data.source.probabilities"
DIVIDING = [f"data.source.{key}" for key in COLUMNS]  # of a table, and of a data set of the Hub
FREE = [f"data.{key}" for key in ["root", "source", "workers", "eval_batch_size", "crops", "on_bad_file"]]
# options of the network without an effect on a test
UNTESTED = ("weights", "adapt", "init", "freeze", "dropout", "drop_path", "memory", "compile", "num_classes", "in_channels")


def newest_whole(folder: Path) -> Path | None:
    """Return the newest intact checkpoint of a run folder, None without one; warn about damaged ones."""
    for path in (folder / "checkpoints" / name for name in CHECKPOINTS):
        if not path.exists():
            continue
        if is_whole(path):
            return path
        log.warning("%s is damaged; trying an earlier checkpoint", path)
    return None


def find_checkpoint(
    ckpt: str | None, task: str, run_folder: Path, interrupted: bool = False, runs: Path = Path("outputs")
) -> Path | None:
    """Return the checkpoint file that `ckpt` selects; None: start without a checkpoint.

    Args:
        ckpt: a file; a run folder (task=test uses its best checkpoint, task=fit its last one); or `last`. `last` selects
            the last checkpoint of `run_folder`, so that an interrupted run is resumed in place, else the newest under `runs`.
        task: `fit` or `test`.
        run_folder: folder of this run.
        interrupted: this run was interrupted; with ``ckpt=last`` and no checkpoint, it starts from the beginning.
        runs: folder of all runs.

    Raises:
        ZooError: the checkpoint does not exist, or it is damaged.
    """
    if ckpt is None:
        return None
    if ckpt == "last":
        if found := newest_whole(run_folder):
            return found
        elsewhere = not is_first() and not (run_folder / RESULTS).exists()  # rank 0 has another disk
        if interrupted and task == "fit" and not elsewhere:
            log.warning("%s has no intact checkpoint; starting the run from the beginning", run_folder)
            return None
        others = {path.parents[1] for path in runs.rglob("checkpoints/last.ckpt")} - {run_folder}
        for folder in sorted(others, key=lambda folder: (folder / "checkpoints").stat().st_mtime, reverse=True):
            if found := newest_whole(folder):
                return found
        hint = "copy the run folder from the machine of rank 0" if elsewhere else "set ckpt=PATH"
        raise ZooError(f"ckpt=last: there is no intact checkpoint in {run_folder} or under {runs}; {hint}")
    path = Path(ckpt)
    if path.is_dir():
        found = newest_whole(path) if task == "fit" else evaluated_checkpoint(path)
        if not found:
            name = "intact checkpoint" if task == "fit" else "best checkpoint, such as checkpoints/best.ckpt"
            raise ZooError(f"ckpt={ckpt}: this run folder has no {name}; give another folder, or a file")
        path = found
    if not path.exists():
        raise ZooError(f"ckpt={ckpt}: {path} does not exist; give a checkpoint, a run folder, or `last`")
    read_checkpoint(path)
    if not is_whole_zip(path):
        raise ZooError(f"ckpt={path} is not a readable checkpoint (damaged)")
    return path


def saved_config(path: Path) -> dict[str, Any]:
    """Return the config of the run that wrote a checkpoint, in plain containers, with current names of all targets.

    Raises:
        ZooError: the file is damaged, or not a checkpoint of a run.
    """
    config = read_checkpoint(path)["hyper_parameters"]
    try:
        json.dumps(config)
    except (TypeError, ValueError, RecursionError) as error:  # a tensor, or a container that contains itself
        raise ZooError(f"{path}: its config is not plain data ({one_line(error)}); it is damaged or was changed") from None
    return with_new_names(config)


def card_of(path: Path) -> Card | None:
    """Return the card of the network in a checkpoint; None if it has none."""
    card = read_checkpoint(path).get(METADATA)
    return Card.of(card) if card else None


def divided_for(config: Mapping[str, Any]) -> Path | None:
    """Return the run folder of the weights that are tested, if it has a table of splits."""
    weights = config["model"].get("weights")
    if config["task"] != "test" or not weights or is_name(weights):
        return None
    path = Path(weights).absolute()
    return next((folder for folder in (path, *path.parents[:2]) if (folder / TABLE).is_file()), None)


def check_fits(path: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Check that a checkpoint matches the network and, to resume training, the recipe.

    Args:
        path: the checkpoint.
        model: the network.
        config: the final config as plain containers.

    Raises:
        ZooError: the file is not a checkpoint of a run, or it has another network or recipe; the message names the key.
    """
    checkpoint, saved = read_checkpoint(path), saved_config(path)
    try:
        state = {key.removeprefix("model."): w for key, w in checkpoint["state_dict"].items() if key.startswith("model.")}
        shapes = {key: weights.shape for key, weights in state.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ZooError(f"ckpt={path} is not a checkpoint of a run ({type(error).__name__})") from None
    ours = {key: weights.shape for key, weights in model.state_dict().items()}
    if wrong := sorted(key for key in ours.keys() | shapes.keys() if ours.get(key) != shapes.get(key)):
        check_same(path, ("model",), saved, config)
        raise ZooError(f"ckpt={path} does not fit its network: {len(wrong)} tensors differ, for example '{wrong[0]}'")
    if config["task"] == "fit":
        if "optimizer_states" not in checkpoint:
            raise ZooError(f"ckpt={path} holds weights only, without optimizer state; training cannot be resumed from it")
        _check_recipe(path, saved, redacted(config))
    else:  # some have no effect on the shapes, such as `activation` and `stem`
        keys = [f"model.{key}" for key in saved["model"] if key not in UNTESTED]
        check_same(path, keys, saved, redacted(config))


def check_classes(source: object, saved: Sequence[str] | None, classes: Sequence[str] | None, published: bool = False) -> None:
    """Check that the classes of the data have the same names as those of the weights.

    Args:
        source: of the weights, for the message.
        saved: class names of the weights, by label; None: unknown.
        classes: class names of the data; None: unknown.
        published: the weights are published ones, whose names may be others (ImageNet's folders have numbers): only names
            that both have are compared.

    Raises:
        ZooError: a name differs.
    """
    if not saved or not classes:
        return
    for label, (theirs, ours) in enumerate(zip_longest(saved, classes, fillvalue="nothing")):
        if class_name(theirs) != class_name(ours) and not (published and ours not in saved):
            raise ZooError(f"{source}: label {label} is '{theirs}', but in the data it is '{ours}'; use the same data")


def _check_recipe(path: Path, saved: dict[str, Any], config: dict[str, Any]) -> None:
    """Raise ZooError for the first key whose value differs from the checkpoint's and would change the training."""
    network = (f"model.{key}" for key in config["model"] if key != "compile")
    steps = ("accumulate_grad_batches", "gradient_clip_val", "sync_batchnorm", "limit_train_batches", "precision")
    losses = ("loss", "label_smoothing", "class_weight", "aux_weight", "layer_decay", "lr_for_batch", "decay_norm_and_bias")
    groups = ("data", "augmentation", "optimizer", "scheduler")
    chosen = (f"{group}.{key}" for group in groups for key in config[group])
    keys = ["seed", *losses, *network, *chosen, *(f"trainer.{key}" for key in steps), "callbacks.ema", "callbacks.unfreeze"]
    unfreeze = config["callbacks"].get("unfreeze") or {}
    shares = [value for value in unfreeze.values() if isinstance(value, float) and value < 1]
    if config["scheduler"]["_target_"].endswith("one_cycle") or shares:  # they depend on it
        keys.append("trainer.max_epochs")
    if all("best" in (c.get("callbacks") or {}) for c in (saved, config)):  # another metric would replace best.ckpt
        keys += ["callbacks.best.monitor", "callbacks.best.mode"]
    check_same(path, [*(key for key in keys if key not in FREE), *DIVIDING], saved, config)


def check_same(path: object, keys: Sequence[str], saved: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Check that a config has some values of a checkpoint.

    Args:
        path: the checkpoint, for the message.
        keys: dotted; the keys below them are compared, too.
        saved: the config in the checkpoint.
        config: the config of this job.

    Raises:
        ZooError: a value differs; the message names the first key.
    """
    was, now = flattened(saved), flattened(config)
    for key in keys:
        for leaf in dict.fromkeys((*was, *now)):
            unset = False if leaf == PROBABILITIES else None  # checkpoints of earlier versions do not have the key
            if f"{leaf}.".startswith(f"{key}.") and was.get(leaf, unset) != now.get(leaf, unset):
                trained = f"was trained with {leaf}={shown(was.get(leaf))}"
                raise ZooError(f"{leaf}={shown(now.get(leaf))}: ckpt={path} {trained}; leave it out of the command")
