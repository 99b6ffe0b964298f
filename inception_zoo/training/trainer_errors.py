"""Errors of Lightning in one line that names the config key, and checks of limits that Lightning makes too late."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

from lightning import Trainer

from inception_zoo.data import ImageData
from inception_zoo.errors import ZooError, one_line, origin_of, raise_all

PHASES = ("train", "val", "test")


@contextmanager
def naming_the_key(config: Mapping[str, Any]) -> Iterator[None]:
    """Raise an error that Lightning raises about its options as a ZooError with the config key.

    Args:
        config: the final config as plain containers.
    """
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        if origin_of(error) is not error or not _is_of_lightning(error):
            raise
        raise ZooError(f"{_key(str(error), config)}: {one_line(error)}") from error


def _key(message: str, config: Mapping[str, Any]) -> str:
    """Return the config key that a message of Lightning is about, with its value."""
    words = set(re.findall(r"\w+", message))
    for name, node in config["callbacks"].items():
        if node["_target_"].rpartition(".")[2].replace("BestCheckpoint", "ModelCheckpoint") in words:
            return f"callbacks.{name}"
    options = [key for key in signature(Trainer).parameters if key in words]
    given = [key for key in options if key in config["trainer"]]
    if not given:
        return f"trainer.{options[0]}" if options else "trainer"
    key = max(given, key=len)
    return f"trainer.{key}={config['trainer'][key]}"


def _is_of_lightning(error: Exception) -> bool:
    """Return whether code of Lightning raised an error, not code that it called."""
    names, place = [], error.__traceback__
    while place:
        names.append(place.tb_frame.f_globals.get("__name__", ""))
        place = place.tb_next
    if isinstance(error, TypeError | ValueError | AttributeError):  # also where torch refuses the value that it was given
        names = [name for name in names if not name.startswith("torch.")]
    return names[-1].startswith("lightning.")


def check_monitors(config: Mapping[str, Any]) -> None:
    """Check that there is a validation for each callback and scheduler that needs one; Lightning finds out after an epoch.

    Args:
        config: the final config as plain containers.

    Raises:
        ZooError: a callback other than a checkpoint monitors a validation metric, and validation is off.
    """
    if config["trainer"].get("limit_val_batches") != 0:
        return
    nodes = {f"callbacks.{name}": node for name, node in config["callbacks"].items() if "Checkpoint" not in node["_target_"]}
    watching = {key: node.get("monitor") for key, node in nodes.items()}
    if "ReduceLROnPlateau" in config["scheduler"]["_target_"]:
        watching["scheduler"] = config["scheduler"].get("monitor", "val/loss")
    raise_all(
        f"{name}.monitor={metric} needs a validation, but trainer.limit_val_batches=0 turns it off"
        for name, metric in watching.items()
        if str(metric).startswith("val/")
    )
    if config["sweep"]["trial"] is not None:
        raise ZooError("trainer.limit_val_batches=0 turns off the validation by which a search compares its trials; remove it")


def check_limits(config: Mapping[str, Any], data: ImageData) -> None:
    """Check the limits of batches against the data, whose number of batches is known now.

    Args:
        config: the final config as plain containers.
        data: with its splits, attached to the Trainer.

    Raises:
        ZooError: a limit leaves nothing to do, or an interval is longer than an epoch.
    """
    trainer, found = config["trainer"], []
    loaders = data.train_dataloader, data.val_dataloader, data.test_dataloader
    counts = {phase: len(loader()) for phase, loader in zip(PHASES, loaders, strict=True)}
    for phase, count in counts.items():
        key = f"limit_{phase}_batches"
        limit = trainer.get(key)
        if isinstance(limit, float) and 0 < limit * count < 1:
            found.append(f"trainer.{key}={limit} of the {count} batches is less than one; for one batch, set 1")
        elif isinstance(limit, float):
            counts[phase] = int(limit * count)
        elif limit is not None:
            counts[phase] = min(limit, count)
    share = trainer.get("overfit_batches")
    if isinstance(share, float) and 0 < share * counts["train"] < 1:
        found.append(f"trainer.overfit_batches={share} of the {counts['train']} batches is less than one; set 1 or more")
    interval = trainer.get("val_check_interval")
    if type(interval) is int and trainer.get("check_val_every_n_epoch", 1) is not None and interval > counts["train"]:
        found.append(f"trainer.val_check_interval={interval} is more than the {counts['train']} batches of an epoch")
    if config["task"] == "fit" and not counts["train"]:
        found.append("trainer.limit_train_batches=0 trains nothing; to evaluate a checkpoint, use task=test")
    if config["task"] == "test" and not counts["test"]:
        found.append("trainer.limit_test_batches=0 tests nothing; remove it")
    raise_all(found)
