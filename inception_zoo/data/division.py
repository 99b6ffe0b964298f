"""Division of the training images, where a data set has no validation or test split."""

import hashlib
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inception_zoo.data.labels import counts_of, names_of, present, strata
from inception_zoo.data.layout import class_name
from inception_zoo.data.source import Files, Images, Source, Split
from inception_zoo.errors import ZooError, one_line, shown
from inception_zoo.system.csv_files import read_table, write_table
from inception_zoo.system.ranks import is_first

TABLE = "split.csv"  # in the run folder: path of each image that was divided, its class and its split
HEADER = ["path", "class", "split"]  # with groups, also "group"
Sizes = Mapping[str, float | None]  # of val and test: a number of images, a fraction below 1, or None

log = logging.getLogger(__name__)


def divide(data: Source, sizes: Sizes, seed: int, folder: Path | None = None, before: Path | None = None) -> dict[str, Split]:
    """Return the splits train, val and test; make those that a data set does not have from its training images, and log it.

    A fraction takes this share of each class. The images of a class are ranked by a hash of the seed and their path, so that
    new or missing files move few others. A number of images is drawn from all classes together. Groups stay whole, see
    `_grouped`.

    Args:
        data: the data set.
        sizes: of the splits to make. Without a size for the test, it is the validation split if the data set has one, and
            otherwise as large as the validation. With `folds` and `fold`, the test is that fold of a cross-validation, see
            `_fold`.
        seed: of the choice.
        folder: receives `TABLE`, if image files are divided. The default is none.
        before: run folder of the checkpoint that is tested or resumed.

    Raises:
        ZooError: a size is missing or too large, a class has too few images, the images are from a stream, or they were
            divided in another way in `before`, so that training images could be in the test split.
    """
    if not data.trains:
        return {"train": data.train, "val": data.val or data.train, "test": data.train}
    train, made = data.train, _missing(data, sizes)
    splits: dict[str, Any] = {"train": train, "val": data.val, "test": data.test or data.val}
    if not made and not sizes.get("folds"):
        return splits
    folds, fold = sizes.get("folds"), sizes.get("fold")
    if folds is not None and not (isinstance(folds, int) and isinstance(fold, int) and 0 <= fold < folds):
        raise ZooError(f"data.split.folds={shown(folds)}, fold={shown(fold)}: set both, with fold from 0 to folds - 1")
    if not isinstance(train, Images | Files) and folds is not None:
        raise ZooError(f"data.split.folds={folds}: a stream cannot be divided; use the image folder")
    if not isinstance(train, Images | Files):
        raise ZooError(f"{data.name}: a stream has no {' or '.join(made)} split; add it to the image folder, and pack it again")
    classes_of = strata(train.labels)
    counts = counts_of(train.labels).tolist()
    classes = data.classes or list(map(str, range(len(counts))))
    by_share = min(made.values(), default=1) < 1
    if few := [name for name, count in zip(classes, counts, strict=False) if by_share and 0 < count <= len(made)]:
        raise ZooError(f"data.split={shown(made)}: class '{few[0]}' has less than {1 + len(made)} images; add some")
    parts = {"train": torch.arange(len(train))}
    if isinstance(folds, int) and isinstance(fold, int):
        parts = _fold(train, folds, fold, seed)
    for left, (name, size) in zip(range(len(made), 0, -1), made.items(), strict=True):  # left: splits that also need images
        rest = parts["train"]
        if size > len(rest) - left:
            raise ZooError(f"data.split.{name}={size} must be from 1 to {len(rest) - left}")
        if isinstance(train, Files) and train.groups is not None:
            rows = _grouped(train, rest, size if size < 1 else size / len(train), left, seed)
            parts |= {"train": rest[~torch.isin(rest, rows)], name: rows}
        elif size < 1:
            rows = _stratified(train, classes_of, rest, size, left, seed)
            parts |= {"train": rest[~torch.isin(rest, rows)], name: rows}
        else:
            order = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
            parts |= {"train": order[int(size) :], name: order[: int(size)]}
    _check_left(train, parts["train"], classes, sizes)
    made_of = (
        f"{', '.join(f'{name} {len(rows):,}' for name, rows in parts.items() if name != 'train')} of {len(train):,} images"
    )
    kinds = " and ".join(dict.fromkeys("stratified" if size < 1 else "random" for size in made.values())) or "stratified"
    kinds = "whole groups" if getattr(train, "groups", None) is not None else kinds
    table = folder / TABLE if folder and isinstance(train, Files) else None
    if isinstance(train, Files):
        _record(train, classes, parts, table, before / TABLE if before and "test" in parts else None)
    if is_first():
        which = f", fold {sizes['fold']} of {sizes['folds']}" if sizes.get("folds") else ""
        log.info("split: %s (%s, seed %s%s)%s", made_of, kinds, seed, which, f": {table}" if table else "")
    return splits | {name: train[rows] for name, rows in parts.items()}


def has_made_test(folder: Path) -> bool:
    """Return True if a run has chosen its test images from the training images."""
    return (folder / TABLE).exists() and any(row[2:3] == ["test"] for row in read_table(folder / TABLE))


def _missing(data: Source, sizes: Sizes) -> dict[str, float]:
    """Return the sizes of the splits to make."""
    val, test = sizes.get("val"), sizes.get("test")
    wanted = {} if data.val else {"val": val}
    if sizes.get("folds"):
        if data.test:
            raise ZooError(f"data.split.folds={sizes['folds']}: {data.name} has a test split already; remove data.split.folds")
    elif not data.test and (test or not data.val):
        wanted["test"] = test or val
    elif not data.test and is_first():
        log.info("%s has no test split: testing on the validation split", data.name)
    if None in wanted.values():
        raise ZooError(f"data.split.val=null: {data.name} has no {' and no '.join(wanted)} split; set a fraction, such as 0.1")
    made = {name: size for name, size in wanted.items() if size is not None}
    if sum(size for size in made.values() if size < 1) >= 1:
        raise ZooError(f"data.split={shown(made)}: no training images are left; set smaller fractions")
    return made


def _fold(train: Images | Files, folds: int, fold: int, seed: int) -> dict[str, Tensor]:
    """Return the rows of the splits train and test for one fold of a cross-validation: each image is in one fold's test.

    Folds have the same share of each class, as far as whole groups allow it.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # its import takes a second

    groups, classes = getattr(train, "groups", None), strata(train.labels).numpy()
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # reported as a class that would be held out whole
        try:
            parts = list(kind(folds, shuffle=True, random_state=seed).split(classes, classes, groups))
        except ValueError as error:
            raise ZooError(f"data.split.folds={folds}: {one_line(error)}; set fewer folds") from None
    rows, test = map(torch.from_numpy, parts[fold])
    if not len(test):
        raise ZooError(f"data.split.folds={folds}: fold {fold} would have no images; set fewer folds")
    return {"train": rows, "test": test}


def _stratified(train: Images | Files, classes: Tensor, rest: Tensor, share: float, left: int, seed: int) -> Tensor:
    """Return the rows of a share of each class, at least one, and leave at least one for each of the `left` other splits."""
    names = train.paths[rest.numpy()] if isinstance(train, Files) else rest.numpy()
    ranks = [_rank(seed, class_name(str(name))) for name in names]
    labels, counts = classes[rest].numpy(), np.bincount(classes[rest], minlength=int(classes.max()) + 1)
    wanted = np.minimum((share * np.bincount(classes) + 0.5).astype(int).clip(1), counts - left)
    order = np.lexsort((np.frombuffer(b"".join(ranks), ">u8"), labels))
    position = np.arange(len(order)) - (np.cumsum(counts) - counts)[labels[order]]
    return rest[np.sort(order[position < wanted[labels[order]]])]


def _grouped(train: Files, rest: Tensor, share: float, left: int, seed: int) -> Tensor:
    """Return the rows of whole groups, about a share of each class, with at least one group of each.

    Groups are visited in the order of a hash of the seed and their name: first one for each class, the rarest first; then each
    one that brings the number of images, and the numbers of each class relative to the classes' sizes, nearer to the share.
    """
    assert train.groups is not None
    names, group_of = np.unique(train.groups[rest.numpy()], return_inverse=True)
    labels, total = train.labels[rest].numpy(), counts_of(train.labels).numpy()
    counts = np.zeros((len(names), len(total) + 1))  # the last column is of all images
    if labels.ndim == 2:
        np.add.at(counts[:, :-1], group_of, labels / total.clip(1))
    else:
        np.add.at(counts, (group_of, labels), 1 / total[labels])
    counts[:, -1] = np.bincount(group_of) / len(train)
    order = sorted(range(len(names)), key=lambda group: _rank(seed, str(names[group])))
    groups_with = (counts[:, :-1] > 0).sum(0)
    if (few := groups_with[total > 0].min()) <= left:
        raise ZooError(
            f"data.split: a class has images of {few} groups only, for {left + 1} splits; add images of other groups"
        )
    missing, taken = np.full(len(total) + 1, share), np.zeros(len(names), bool)
    for label in np.argsort(groups_with, kind="stable"):
        if total[label] and not counts[taken, label].any():
            group = next(group for group in order if counts[group, label])
            missing, taken[group] = missing - counts[group], True
    for group in order:
        after = missing - counts[group]
        if not taken[group] and (after**2).sum() < (missing**2).sum() and abs(after[-1]) < abs(missing[-1]):
            missing, taken[group] = after, True
    return rest[torch.from_numpy(taken[group_of])]


def _check_left(train: Images | Files, rows: Tensor, classes: Sequence[str], sizes: Sizes) -> None:
    """Raise ZooError if groups, images with several labels, or folds leave a class without a training image."""
    grouped = getattr(train, "groups", None) is not None
    if not grouped and train.labels.dim() == 1 and not sizes.get("folds"):
        return
    if lost := sorted(present(train.labels) - present(train.labels[rows])):
        why, more = (", since groups are not divided", "groups") if grouped else ("", "images of it")
        given = {key: value for key, value in sizes.items() if value is not None}
        raise ZooError(f"data.split={shown(given)}: class '{classes[lost[0]]}' would be held out whole{why}; add {more}")


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(f"{seed}/{name}"), digest_size=8).digest()


def _record(train: Files, classes: Sequence[str], parts: Mapping[str, Tensor], path: Path | None, before: Path | None) -> None:
    """Write the table; raise ZooError if it differs from an earlier one."""
    if not (path or before):
        return
    split_of = {row: name for name, rows in parts.items() for row in rows.tolist()}
    named = zip(train.paths, names_of(train.labels, classes), strict=True)
    rows = [[str(path), name, split_of[row]] for row, (path, name) in enumerate(named)]
    header = HEADER
    if train.groups is not None:
        header, rows = [*HEADER, "group"], [[*row, str(group)] for row, group in zip(rows, train.groups, strict=True)]
    earlier = read_table(before, errors="surrogateescape") if before and before.exists() else ()
    if before and not all(mine == theirs for mine, theirs in zip_longest([header, *rows], earlier)):
        raise ZooError(
            f"ckpt: {before} does not list the same images in the same splits, so training images could be in the test split; "
            "use the same files, data.split, data.seed and data.classes, or give the test images a folder `test`"
        )
    if path and is_first():
        write_table(path, header, rows)
