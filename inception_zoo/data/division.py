"""Division of the training images, where a data set has no validation or test split."""

import csv
import hashlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inception_zoo.data.layout import class_name
from inception_zoo.data.source import Files, Images, Source, Split
from inception_zoo.errors import ZooError, shown
from inception_zoo.system.ranks import is_first

TABLE = "split.csv"  # in the run folder: path or number of each image that was divided, its class and its split
Sizes = Mapping[str, float | None]  # of val and test: a number of images, a fraction below 1, or None

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Division:
    """The splits train, val and test; the sizes of those that were made; and the content of `TABLE`, if files were divided."""

    splits: dict[str, Split]
    made: dict[str, float]
    table: str = ""


def divide(data: Source, sizes: Sizes, seed: int, folder: Path | None = None) -> Division:
    """Make the splits that a data set does not have from its training images, and log it.

    A fraction takes this share of each class. The images of a class are ranked by a hash of the seed and their path, so that
    new or missing files move few others. A number of images is drawn from all classes together.

    Args:
        data: the data set.
        sizes: of the splits to make. Without a size for the test, it is the validation split if the data set has one, and
            otherwise as large as the validation.
        seed: of the choice.
        folder: where the caller will write the table, for the log.

    Raises:
        ZooError: a size is missing or too large, a class has too few images, or the images are from a stream.
    """
    train, made = data.train, _missing(data, sizes)
    splits: dict[str, Any] = {"train": train, "val": data.val, "test": data.test or data.val}
    if not made:
        return Division(splits, {})
    if not isinstance(train, Images | Files):
        raise ZooError(f"{data.name}: a stream has no {' or '.join(made)} split; add it to the image folder, and pack it again")
    parts = {"train": torch.arange(len(train))}
    for left, (name, size) in zip(range(len(made), 0, -1), made.items(), strict=True):  # left: splits that also need images
        rest, key = parts["train"], f"data.split.{name}={size}"
        if size >= 1:
            if size > len(rest) - left:
                raise ZooError(f"{key} must be from 1 to {len(rest) - left}")
            order = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
            parts |= {"train": order[int(size) :], name: order[: int(size)]}
        else:
            chosen = _stratified(train, data.classes, rest, size, left, key, seed)
            parts |= {"train": rest[~torch.isin(rest, chosen)], name: chosen}
    splits |= {name: train[rows] for name, rows in parts.items()}
    table = _table(train, data.classes, parts) if isinstance(train, Files) else ""
    if is_first():
        counts = ", ".join(f"{name} {len(parts[name]):,}" for name in made)
        kinds = " and ".join(dict.fromkeys("random" if size >= 1 else "stratified" for size in made.values()))
        where = f": {folder / TABLE}" if folder and table else ""
        log.info("split: %s of %s images (%s, seed %s)%s", counts, f"{len(train):,}", kinds, seed, where)
    return Division(splits, made, table)


def _missing(data: Source, sizes: Sizes) -> dict[str, float]:
    """Return the sizes of the splits to make."""
    wanted = {} if data.val else {"val": sizes.get("val")}
    test = sizes.get("test")
    if not data.test and (test or not data.val):
        wanted["test"] = test or sizes.get("val")
    elif not data.test and is_first():
        log.info("%s has no test split: testing on the validation split", data.name)
    if lacking := [name for name, size in wanted.items() if size is None]:
        raise ZooError(f"data.split.{lacking[0]}=null: {data.name} has no {lacking[0]} split; set a fraction, such as 0.1")
    made = {name: size for name, size in wanted.items() if size is not None}
    if sum(size for size in made.values() if size < 1) >= 1:
        raise ZooError(f"data.split={shown(made)}: no training images are left; set smaller fractions")
    return made


def _stratified(
    train: Images | Files, classes: Sequence[str], rest: Tensor, share: float, left: int, key: str, seed: int
) -> Tensor:
    """Return the rows of a share of each class, at least one, and leave at least one for each of the `left` other splits."""
    names = train.paths[rest.numpy()] if isinstance(train, Files) else rest.numpy()
    ranks = [hashlib.blake2b(os.fsencode(f"{seed}/{class_name(str(name))}"), digest_size=8).digest() for name in names]
    labels = train.labels[rest].numpy()
    order = np.lexsort((np.frombuffer(b"".join(ranks), ">u8"), labels))
    counts = np.bincount(labels)
    if (few := np.flatnonzero((counts > 0) & (counts <= left))).size:
        name = classes[few[0]] if classes else few[0]
        raise ZooError(f"{key}: class '{name}' has too few images for each split to get one; add some, or remove the class")
    wanted = np.floor(share * np.bincount(train.labels.numpy()) + 0.5).clip(1)
    position = np.arange(len(order)) - (np.cumsum(counts) - counts)[labels[order]]
    return rest[torch.from_numpy(np.sort(order[position < np.minimum(wanted[: len(counts)], counts - left)[labels[order]]]))]


def _table(train: Files, classes: Sequence[str], parts: Mapping[str, Tensor]) -> str:
    split_of = np.empty(len(train), object)
    for name, rows in parts.items():
        split_of[rows.numpy()] = name
    text = io.StringIO()
    names = (classes[label] if classes else label for label in train.labels.tolist())
    csv.writer(text, lineterminator="\n").writerows(
        [("path", "class", "split"), *zip(train.paths, names, split_of, strict=True)]
    )
    return text.getvalue()
