"""Data set of image files that a table lists: a CSV file with one row for each image."""

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from inception_zoo.data.copies import local_folder
from inception_zoo.data.inspection import check_files, state_of
from inception_zoo.data.layout import SPLIT_OF, SPLITS, check_names, class_name, column_of, columns_of_root, names_in
from inception_zoo.data.source import Files, Source
from inception_zoo.errors import ZooError, printable, shown
from inception_zoo.system.ranks import is_first

VALUES = 20  # maximum number of values in a column of subgroups
NAMED = 3  # number of rows to name in an error, and of classes in the log
NUMBER = re.compile(r"(\d{1,60}(\.\d{0,60})?|\.\d{1,60})(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)  # 0 or more
ROUNDED = 0.01  # largest difference of the sum of probabilities from 1
FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
Names = tuple[str, ...]  # of the classes of an image

log = logging.getLogger(__name__)


def table(
    root: str,
    path: str = "path",
    label: str | Sequence[str] = "label",
    separator: str | None = None,
    split: str | None = None,
    group: str | None = None,
    images: str | None = None,
    subgroups: Sequence[str] | None = None,
    probabilities: bool = False,
    weight: str | None = None,
) -> Source:
    """Read a table of image files and their classes. The order of its rows has no effect.

    Args:
        root: CSV file, with the names of its columns in the first row.
        path: column of the files' paths, relative to `images`.
        label: column of the classes' names. A list of columns: each is a class, and its cells are 1 for the images that have
            this label, and 0 for the others.
        separator: between several names in a cell of `label`, such as `|`; a cell without names is an image without labels.
            None: one name in each cell.
        split: column of the splits: train, val (or valid, validation), test. None: the column `split`, if there is one;
            otherwise `ImageData` makes the splits.
        group: column of what may not be divided between splits, such as the patient. None: the column `group`, if there is one.
        images: folder of the images, archive, or address in an object store, see `local_folder`. None: the table's folder.
        subgroups: columns, such as the sex or the site, for whose values the test reports metrics separately. None: none.
        probabilities: the cells of the columns `label` are probabilities of the classes, with the sum 1: soft labels for the
            training loss. The most probable class is the label for all else.
        weight: column of factors, 0 or more, of the images' training losses. None: 1 for each image.

    Returns:
        The data set, whose splits are of the class `Files`. Labels are in the order of the sorted names, or of the columns.
        With a list of columns, or with a separator, images have any number of labels. A table without training rows is for
        tests only.

    Raises:
        ZooError: the table, or a row of it, is invalid; the message names the rows.
    """
    place = f"data.root={root}"
    columns = columns_of_root(root)
    used = {"path": path} | {key: name or key for key, name in (("split", split), ("group", group)) if name or key in columns}
    cells = {key: column_of(columns, place, name) for key, name in used.items()}
    labels = [label] if isinstance(label, str) else list(label)
    subgroups_of = _subgroups(place, columns, subgroups or ())
    _check_unused(place, columns, used, labels)
    for key, each in cells.items():
        _check_cells(place, used[key], each)
    folder = local_folder(images, cells["path"]) if images else Path(root).parent
    _check_paths(place, folder, path, cells["path"], images or str(folder))
    if not isinstance(label, str):
        _check_list(label, separator)
    soft = _probabilities(place, columns, label) if probabilities else None
    classes, names = _labels(place, columns, label, separator) if soft is None else _most_probable(soft, label)
    check_names(place, classes)
    parts = ["train"] * len(names)
    if "split" in cells:
        words = [cell.casefold() for cell in cells["split"]]
        what = f"not one of {', '.join(SPLIT_OF)} in '{used['split']}'"
        _refuse(place, what, cells["split"], [word not in SPLIT_OF for word in words])
        parts = [SPLIT_OF[word] for word in words]
    groups = [class_name(cell) for cell in cells["group"]] if "group" in cells else None
    _check_leaks(place, groups or [], parts)
    _check_classes(place, names, parts, classes)
    weight = weight if "train" in parts else None  # a test has no weights
    weighted = [weight] if weight else []
    if is_first():
        log.info(
            "%s",
            printable(f"{place}: {_described(columns, [*used.values(), *labels, *weighted, *subgroups_of], names, classes)}"),
        )
    several = soft is None and (separator is not None or not isinstance(label, str))
    rows = sorted(range(len(names)), key=lambda row: (() if several else names[row], cells["path"][row].split("/")))
    every = Files(folder, np.array(cells["path"]), _tensor(names, classes, several), subgroups=subgroups_of)
    every = replace(every, groups=np.array(groups)) if groups else every
    weights = _numbers(place, columns, weight) if weight else None
    every = replace(every, soft=soft, weights=weights)
    files, states = {}, {}
    for part in SPLITS:
        if chosen := [row for row in rows if parts[row] == part]:
            files[part] = every[torch.tensor(chosen)]
            paths = (cells["path"][row] for row in chosen)
            states[part] = np.frombuffer(b"".join(state_of(part, each, folder / each) for each in paths), np.uint64)
    kept, bad, lost = check_files(Path(root), files, states)
    train = kept.get("train", kept.get("test"))
    assert train is not None  # see `_check_classes`
    return Source("table", train, kept.get("test"), classes, kept.get("val"), bad, lost, trains="train" in kept)


def _labels(
    place: str, columns: Mapping[str, list[str]], label: str | Sequence[str], separator: str | None
) -> tuple[list[str], list[Names]]:
    """Return the class names in the order of the labels, and those of each image."""
    if isinstance(label, str):
        cells = column_of(columns, place, label)
        if separator is None:
            _check_cells(place, label, cells)
        names = [names_in(cell, separator) for cell in cells]
        return sorted({name for row in names for name in row}), names
    flags = [column_of(columns, place, name) for name in label]
    for name, cells in zip(label, flags, strict=True):
        _refuse(
            place,
            f"not 0 or 1 in '{name}', a column of data.source.label",
            cells,
            [cell.casefold() not in FLAGS for cell in cells],
        )
    classes = list(map(class_name, label))
    rows = zip(*flags, strict=True)
    return classes, [tuple(name for name, cell in zip(classes, row, strict=True) if FLAGS[cell.casefold()]) for row in rows]


def _check_list(label: Sequence[str], separator: str | None) -> None:
    if separator is not None:
        raise ZooError(f"data.source.separator={separator}: each column is a class; remove it, or name one column")
    if len(set(label)) < len(label):
        raise ZooError(f"data.source.label={shown(list(label))}: name each column once")


def _probabilities(place: str, columns: Mapping[str, list[str]], label: str | Sequence[str]) -> torch.Tensor:
    """Return the probabilities of the classes, float (N, classes), from one column for each class."""
    if isinstance(label, str):
        raise ZooError("data.source.probabilities=true: set data.source.label to a list of columns, one for each class")
    each = torch.stack([_numbers(place, columns, name) for name in label], 1).double()
    total = each.sum(1, keepdim=True)
    wrong = ((total - 1).abs() > ROUNDED)[:, 0].tolist()
    sums = [f"{value:g}" for value in total[:, 0].tolist()]
    _refuse(place, "the probabilities do not sum to 1", sums, wrong)
    return (each / total).float()


def _most_probable(soft: torch.Tensor, label: str | Sequence[str]) -> tuple[list[str], list[Names]]:
    """Return the class names in the order of the columns, and the most probable one of each image."""
    classes = list(map(class_name, label))
    ties = int(((soft == soft.amax(1, keepdim=True)).sum(1) > 1).sum())
    if ties and is_first():
        log.warning("%d images have several most probable classes; their label is the first of them", ties)
    return classes, [(classes[number],) for number in soft.argmax(1).tolist()]


def _numbers(place: str, columns: Mapping[str, list[str]], name: str) -> torch.Tensor:
    """Return a column of finite numbers, 0 or more, float (N,)."""
    cells = column_of(columns, place, name)
    _check_cells(place, name, cells)
    values = torch.tensor([float(cell) if NUMBER.fullmatch(cell) else math.nan for cell in cells])
    _refuse(place, f"not a number of 0 or more in '{name}'", cells, (~values.isfinite()).tolist())  # in float32
    return values


def _subgroups(place: str, columns: Mapping[str, list[str]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the values (N,) of each column of subgroups; those of empty cells are `not stated`."""
    cells = {name: column_of(columns, place, name) for name in names}
    for name, column in cells.items():
        _check_spaces(place, name, column)
    found = {name: np.array([class_name(cell) or "not stated" for cell in column]) for name, column in cells.items()}
    for name, values in found.items():
        if (count := len(set(values))) > VALUES:
            key = f"data.source.subgroups={shown(list(names))}"
            raise ZooError(f"{key}: the column '{name}' has {count:,} values, more than {VALUES}; choose another column")
    return found


def _tensor(names: Sequence[Names], classes: Sequence[str], several: bool) -> torch.Tensor:
    """Return the labels, int64 (N,), or float (N, classes) if there can be several."""
    number_of = {name: number for number, name in enumerate(classes)}
    if not several:
        return torch.tensor([number_of[name] for (name,) in names])
    labels = torch.zeros(len(names), len(classes))
    for row, each in enumerate(names):
        labels[row, [number_of[name] for name in each]] = 1
    return labels


def _check_cells(place: str, name: str, cells: Sequence[str]) -> None:
    _refuse(place, f"an empty cell in '{name}'", cells, [not cell for cell in cells])
    _check_spaces(place, name, cells)


def _check_spaces(place: str, name: str, cells: Sequence[str]) -> None:
    _refuse(place, f"a space at the start or the end in '{name}'", cells, [cell != cell.strip() for cell in cells])


def _check_unused(place: str, columns: Mapping[str, Sequence[str]], used: Mapping[str, str], labels: Sequence[str]) -> None:
    if used["path"] in labels:
        raise ZooError(f"{place}: '{used['path']}' is the column of the paths and of the classes; set data.source.label=NAME")
    for key in ("split", "group"):
        if key not in used and (alike := next((name for name in columns if name.strip().casefold() == key), None)):
            raise ZooError(f"{place}: the column '{alike}' is not used; set data.source.{key}='{alike}', or rename it")


def _check_paths(place: str, folder: Path, column: str, paths: Sequence[str], images: str) -> None:
    slash = "; write / instead of \\" if any("\\" in path for path in paths) else ""
    found = [os.path.isfile(folder / path) for path in paths]  # noqa: PTH113 -- Path.is_file raises for long names
    _refuse(place, f"no such file in {images}{slash}", paths, [not each for each in found])
    first: dict[str, int] = {}  # row by file, which may be written in several ways, such as `a/../b.png`
    files = (os.path.normpath(folder.absolute() / path) for path in paths)
    again = [first.setdefault(file, row) != row for row, file in enumerate(files)]
    _refuse(place, f"a file of an earlier row in '{column}'", paths, again)


def _refuse(place: str, what: str, cells: Sequence[str], wrong: Sequence[bool]) -> None:
    """Raise ZooError if any cell is wrong. The row of the names is row 1, as in a spreadsheet."""
    if rows := [row for row, each in enumerate(wrong, 2) if each]:
        named = ", ".join(map(str, rows[:NAMED])) + (f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else "")
        cell = f": {shown(repr(cells[rows[0] - 2]))}" if cells[rows[0] - 2] else ""
        raise ZooError(f"{place}: {'row' if len(rows) == 1 else 'rows'} {named}: {what}{cell}")


def _check_leaks(place: str, groups: Sequence[str], parts: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for row, (group, part) in enumerate(zip(groups, parts, strict=False)):
        other = parts[first.setdefault(group, row)]
        if other != part:
            both = f"{other} (row {first[group] + 2}) and in {part} (row {row + 2})"
            raise ZooError(f"{place}: group '{group}' is in {both}; put all of its images into one split")


def _check_classes(place: str, names: Sequence[Names], parts: Sequence[str], classes: Sequence[str]) -> None:
    known = {
        part: {name for row, each in zip(names, parts, strict=True) if each == part for name in row} for part in set(parts)
    }
    if not known.keys() & {"train", "test"}:
        raise ZooError(f"{place}: has rows of split val only; add some of train, or of test")
    if missing := [name for name in classes if name not in known["train"]] if "train" in known else []:
        other = (
            "which another split has" if any(missing[0] in each for each in known.values()) else "and no other split has any"
        )
        raise ZooError(f"{place}: train has no images of class '{missing[0]}', {other}")
    if not is_first():
        return
    for part, has in known.items():
        if missing := [name for name in classes if name not in has]:
            log.warning("%s", printable(f"{place}: {part} has no images of class {', '.join(missing[:NAMED])}"))
    every = set(classes)
    for alike in [name for name in classes if name != name.casefold() and name.casefold() in every]:
        log.warning("%s", printable(f"{place}: '{alike}' and '{alike.casefold()}' are two classes"))


def _described(
    columns: Mapping[str, Sequence[str]], used: Sequence[str], names: Sequence[Names], classes: Sequence[str]
) -> str:
    """Return the columns, and the classes with their numbers of images."""
    others = ", ".join(name for name in columns if name not in used) or "none"
    counts = Counter(name for row in names for name in row)
    listed = ", ".join(f"{name} {counts[name]:,}" for name in classes[: 3 * NAMED]) + (
        ", …" if len(classes) > 3 * NAMED else ""
    )
    without = f"; {names.count(()):,} images without labels" if () in names else ""
    return f"columns {', '.join(used)}; not used: {others}; {len(classes)} classes: {listed}{without}"
