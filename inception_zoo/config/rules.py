"""Validation rules for single config keys and options.

`Choices` checks the keys of a network, `check` combinations of keys.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from inception_zoo.architecture.decision import LOGGED
from inception_zoo.architecture.nets import ALIASES, ZOO
from inception_zoo.architecture.preprocessing import CROPS, INTERPOLATIONS
from inception_zoo.errors import nearest, shown

MOST = 10**9  # upper bound of counts; a larger value is taken for a typing error


@dataclass(frozen=True)
class Rule:
    """A rule for a value.

    Attributes:
        words: Description of the valid values; it follows "must be" in error messages.
        fits: Test that returns True for a valid value.
        names: Valid names, used to suggest a correction.
    """

    words: str
    fits: Callable[[Any], bool]
    names: tuple[str, ...] = ()

    def __or__(self, other: "Rule") -> "Rule":
        words = f"{self.words} or {other.words}"
        return Rule(words, lambda value: self.fits(value) or other.fits(value), self.names + other.names)

    def mistake(self, key: str, value: Any) -> list[str]:
        """Return the error message for an invalid value, in a list; an empty list for a valid value."""
        if self.fits(value):
            return []
        near = nearest(value, self.names) if isinstance(value, str) else None
        return [f"{key}={shown(value)} must be {self.words}{f'; did you mean {near!r}?' if near else ''}"]


def is_number(value: Any) -> bool:
    """Return True for a finite number that is not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -inf < value < inf


def whole(least: int, most: int = MOST) -> Rule:
    """Return the rule for an integer from `least` to `most`."""
    words = f"a whole number of at least {least}" + (f" and at most {most}" if most < MOST else "")
    return Rule(words, lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most)


def number(least: float, most: float = MOST, below: float = inf) -> Rule:
    """Return the rule for a number from `least` to `most` and below `below`."""
    upper = f" and below {below}" if below < inf else f" and at most {most}" if most < MOST else ""
    return Rule(f"a number of at least {least}{upper}", lambda x: is_number(x) and least <= x <= most and x < below)


def above(bound: float, most: float = MOST, below: float = inf) -> Rule:
    """Return the rule for a number above `bound`, at most `most` and below `below`."""
    upper = f", below {below}" if below < inf else f", at most {most}" if most < MOST else ""
    return Rule(f"a number above {bound}{upper}", lambda value: is_number(value) and bound < value <= most and value < below)


def one_of(*valid: Any) -> Rule:
    """Return the rule for one of the given names or integers."""
    names = tuple(each for each in valid if isinstance(each, str))
    words = f"one of {', '.join(dict.fromkeys(map(str, valid)))}" if len(valid) > 1 else str(valid[0])
    return Rule(words, lambda value: not isinstance(value, bool | float | list | dict) and value in valid, names)


def is_operating_point(value: Any) -> bool:
    """Return True for the name of a threshold, see `inception_zoo.training.operating_points.threshold`."""
    return isinstance(value, str) and bool(re.fullmatch(r"youden|f1|(sensitivity|specificity)@(0?\.\d+|1(\.0*)?)", value))


def list_of(rule: Rule, length: int | None = None, rising: bool = False) -> Rule:
    """Return the rule for a list whose items fit `rule`.

    Args:
        rule: The rule for each item.
        length: Required number of items; None: any number.
        rising: Require ascending order; equal neighbours are valid.
    """
    words = f"a list{'' if length is None else f' of {length}'}, each {rule.words}{', in ascending order' if rising else ''}"

    def fits(value: Any) -> bool:
        right = isinstance(value, list | tuple) and length in (None, len(value)) and all(map(rule.fits, value))
        return right and (not rising or list(value) == sorted(value))

    return Rule(words, fits)


ANY = Rule("anything", lambda value: True)
NULL = Rule("null", lambda value: value is None)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("a string", lambda value: isinstance(value, str))
NAME = Rule("a string that is not empty", lambda value: isinstance(value, str) and value != "" and "\0" not in value)
MAPPING = Rule("a mapping, such as {name: value}", lambda value: isinstance(value, Mapping))
CALLED = Rule("a mapping with a _target_", lambda value: isinstance(value, Mapping) and "_target_" in value)
PART = Rule("null or a mapping with a _target_", lambda value: value is None or CALLED.fits(value))
SHARE = number(0, 1)
COUNT = whole(1)
SEED = whole(0, 2**32 - 1)
SIZE = COUNT | above(0, below=1) | NULL
SIDE = whole(1, 8192)  # pixels

FAMILY = Rule(
    "a network of the Inception family (see `inception-zoo list`); to train another one, write a LightningModule in Python and "
    "use inception_zoo.data.ImageData, see docs/guides/extend.md",
    lambda name: name in (*ZOO, *ALIASES),
    (*ZOO, *ALIASES),
)

Options = Mapping[Any, Rule]  # rule by option of a class or function; `...`: it also has options that it checks itself
KEYS = {
    "task": one_of("fit", "test"),
    "ckpt": NAME | NULL,
    "run_name": NAME | NULL,
    "seed": SEED,
    "label_smoothing": number(0, below=1),
    "aux_weight": number(0) | NULL,
    "decision.calibrate": FLAG,
    "decision.threshold": Rule(
        "youden, f1, sensitivity@SHARE or specificity@SHARE, such as sensitivity@0.95", is_operating_point
    )
    | NULL,
    "decision.positive": NAME | whole(0) | NULL,  # a class named 1 is read as a number
    "class_weight": one_of("balanced", "effective") | list_of(above(0)) | NULL,
    "lr_for_batch": COUNT | NULL,
    "decay_norm_and_bias": FLAG,
    "layer_decay": above(0, most=1),
    "sweep.resume": TEXT | NULL,
    "sweep.trial": whole(0) | NULL,
    "model.name": FAMILY,
    "loss": PART,
    "model.num_classes": whole(0, 10**7),  # 0: with a metric-learning loss
    "model.in_channels": whole(1, 1024),
}
GROUPS = ("model", "data", "augmentation", "trainer", "optimizer", "scheduler", "callbacks", "logger", "metrics")
TOP = {*GROUPS, *(key.partition(".")[0] for key in KEYS)}
SPECIAL = {  # options of every node that Hydra instantiates
    "_target_": TEXT,
    **dict.fromkeys(("_partial_", "_recursive_"), FLAG),
    "_convert_": one_of("none", "partial", "object", "all"),
    "_args_": list_of(ANY),
}
OWNED = {  # options of the Trainer that a group or this package sets, and what to do instead
    "enable_progress_bar": "for no progress bar, write '~callbacks.progress'",
    "enable_model_summary": "for no summary, write '~callbacks.summary'",
    "enable_checkpointing": "the callbacks best and last save checkpoints; keep them",
    "callbacks": "add a callback with +callbacks.NAME._target_=PATH.OF.CLASS, or choose callbacks=…, see --help",
    "logger": "for no logger, write logger=none; for another one logger=…, see --help",
    "use_distributed_sampler": "the DataModule distributes the images",
}
BATCHES = whole(0) | Rule("a fraction from 0.0 to 1.0", lambda value: isinstance(value, float) and 0 <= value <= 1) | NULL
TRAINER: Options = {  # options that this package reads; limits and intervals, which Lightning checks only after loading data
    "accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "devices": whole(1, 4096)
    | Rule("-1 for all GPUs", lambda value: value == -1 and not isinstance(value, bool | float))
    | one_of("auto")
    | Rule(
        "a list of distinct GPU numbers",
        lambda value: isinstance(value, list) and list_of(whole(0)).fits(value) and 0 < len(value) == len(set(value)),
    ),
    "num_nodes": whole(1, 10**5) | one_of("auto"),
    "timeout_minutes": above(0),
    "threads": whole(1, 4096) | one_of("auto") | NULL,
    **dict.fromkeys(("max_epochs", "accumulate_grad_batches", "log_every_n_steps"), COUNT),
    "max_steps": COUNT | one_of(-1),
    **{f"limit_{phase}_batches": BATCHES for phase in ("train", "val", "test", "predict")},
    "overfit_batches": BATCHES,
    "val_check_interval": COUNT | above(0, most=1) | NAME | MAPPING | NULL,
    "check_val_every_n_epoch": COUNT | NULL,
    "gradient_clip_val": number(0) | NULL,
    "sync_batchnorm": FLAG,
    "deterministic": FLAG | one_of("warn") | NULL,
    **{key: Rule(f"left out; {hint}", lambda value: False) for key, hint in OWNED.items()},
    ...: ANY,
}
IMAGE_DATA: Options = {
    "source": CALLED,
    "root": Rule("a folder or a table", NAME.fits) | NULL,
    "num_classes": whole(2, 10**7),
    "in_channels": whole(1, 1024),
    "image_size": SIDE,
    **dict.fromkeys(("batch_size", "eval_batch_size"), whole(1, 10**7)),
    "split": MAPPING,
    "on_bad_file": one_of("error", "skip"),
    "mean": list_of(number(-MOST)),
    "std": list_of(above(0)),
    "interpolation": one_of(*INTERPOLATIONS),
    "crop_pct": above(0, most=1),
    "crops": one_of(*CROPS),
    "flip": SHARE,
    "progressive": Rule(
        "image sides in pixels by first epoch, such as '{0:128,10:160}', or null",
        lambda value: value is None or (isinstance(value, Mapping) and all(map(whole(0).fits, [*value, *value.values()]))),
    ),
    "workers": whole(0, 4096) | NULL,
    "seed": SEED,
    "classes": list_of(whole(0)) | NULL,
    "per_class": COUNT | list_of(COUNT) | NULL,
    "sampler": one_of("balanced") | NULL,
}
OPTIMIZER: Options = {
    "lr": number(0, 10**4),
    "weight_decay": number(0),
    "momentum": SHARE,
    "betas": list_of(number(0, below=1)),
    "eps": number(0) | list_of(number(0) | NULL) | NULL,
    "nesterov": FLAG,
    ...: ANY,
}
SCHEDULER: Options = {"interval": one_of("step", "epoch"), "monitor": NAME, ...: ANY}  # options of Lightning
# Rules of a group for every `_target_`: this package reads the keys, or the library checks them late or not at all.
USUAL = {
    "trainer": TRAINER,
    "data": IMAGE_DATA,
    "data.split": {"val": SIZE, "test": SIZE, "folds": whole(2) | NULL, "fold": whole(0) | NULL},
    "optimizer": OPTIMIZER,
    "scheduler": SCHEDULER,
}
NEEDED = (
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "precision", "max_epochs")),
    *("trainer.accumulate_grad_batches", "trainer.sync_batchnorm", "trainer.log_every_n_steps"),
    *(f"data.{key}" for key in IMAGE_DATA if key not in ("root", "classes", "per_class", "sampler")),
    *KEYS,
)
LOSSES = "inception_zoo.training.losses"
KINDS = {"one": "one label for each image", "several": "several labels for each image", "embedding": "a metric-learning loss"}
OF_DECISIONS = tuple(f"val/{key}" for key in LOGGED)
_ACCURACIES = ("train/top1", "train/top5", "val/top1", "val/top5", "val/macro")
# Logged metrics that a checkpoint can monitor, by the kind of the loss, see `kind_of`. A custom metric is valid too, unless its
# name is similar to one of these.
METRICS = {
    "one": ("train/loss", "val/loss", "val/ece", *_ACCURACIES, *OF_DECISIONS),
    "several": ("train/loss", "val/loss", "val/ece", "val/accuracy", *OF_DECISIONS),
    "embedding": ("train/loss", "val/recall1", "val/recall5", "val/verification"),
}
USUAL_METRIC = {"one": "val/top1", "several": "val/ap", "embedding": "val/recall1"}
KNOWN = tuple(dict.fromkeys(name for names in METRICS.values() for name in names))


def direction(metric: str | None) -> str:
    """Return `min` for a metric that is better when it is lower, otherwise `max`."""
    return "min" if str(metric).rpartition("/")[2] in ("loss", "brier", "ece") else "max"


def kind_of(loss: Mapping[str, Any] | None) -> str:
    """Return what a loss trains: `one` label for each image, `several`, or an `embedding`."""
    target = str(loss["_target_"]) if loss else f"{LOSSES}.CrossEntropy"
    if not target.startswith(f"{LOSSES}."):
        return "embedding"
    return "one" if target.removeprefix(f"{LOSSES}.") in ("CrossEntropy", "Focal") else "several"


METRIC = Rule(
    "a logged metric, such as val/top1",
    lambda value: NAME.fits(value) and (value in KNOWN or not nearest(value, KNOWN, 0.8)),
    KNOWN,
)
HYDRA = {
    **dict.fromkeys(("hydra.run.dir", "hydra.sweep.dir", "hydra.job.name"), NAME),
    "hydra.output_subdir": NAME | NULL,
    "hydra.job.chdir": FLAG | NULL,
    "hydra.verbose": FLAG | TEXT | list_of(TEXT),
    **{f"hydra.{each}": Rule(f"chosen by hydra/{each}=NAME", CALLED.fits) for each in ("launcher", "sweeper")},
}
# A level of Python's logging.
LEVEL = one_of("CRITICAL", "FATAL", "ERROR", "WARN", "WARNING", "INFO", "DEBUG", "NOTSET") | whole(0)
