"""Data set of image files that a table lists: a CSV file with one row for each image."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from inception_zoo.data.inspection import check_files, state_of
from inception_zoo.data.layout import SPLITS, check_names, class_name, columns_of
from inception_zoo.data.source import Files, Source
from inception_zoo.errors import ZooError, printable, shown
from inception_zoo.system.ranks import is_first

NAMED = 3  # number of rows to name in an error
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}

log = logging.getLogger(__name__)


def table(
    root: str,
    path: str = "path",
    label: str = "label",
    split: str | None = None,
    group: str | None = None,
    images: str | None = None,
) -> Source:
    """Read a table of image files and their classes. The order of its rows has no effect.

    Args:
        root: CSV file, with the names of its columns in the first row.
        path: column of the files' paths, relative to `images`.
        label: column of the classes' names.
        split: column of the splits: train, val (or valid, validation), test. None: the column `split`, if there is one;
            otherwise `ImageData` makes the splits.
        group: column of what may not be divided between splits, such as the patient. None: the column `group`, if there is one.
        images: folder of the images. None: the folder of the table.

    Returns:
        The data set, whose splits are of the class `Files`. Labels are in the order of the sorted names.

    Raises:
        ZooError: the table, or a row of it, is invalid; the message names the rows.
    """
    columns, folder = columns_of(Path(root)), Path(images or Path(root).parent)
    place = f"data.root={root}"
    paths, labels = (_column(columns, place, name) for name in (path, label))
    splits, groups = (
        _column(columns, place, name or own) if name or own in columns else None
        for name, own in ((split, "split"), (group, "group"))
    )
    _refuse(
        place, "an empty cell", [not all(cells) for cells in zip(*filter(None, (paths, labels, splits, groups)), strict=True)]
    )
    _refuse(place, f"the path of an earlier row in '{path}'", _repeated(paths))
    _refuse(place, f"a file in '{path}' that does not exist in {folder}", [not (folder / each).is_file() for each in paths])
    if splits:
        _refuse(
            place, f"a word in '{split or 'split'}' other than {', '.join(SPLIT_OF)}", [each not in SPLIT_OF for each in splits]
        )
    names = [class_name(each) for each in labels]
    classes = sorted(set(names))
    check_names(place, classes)
    parts = [SPLIT_OF[each] for each in splits] if splits else ["train"] * len(names)
    if groups:
        _check_leaks(place, groups, parts)
    _check_classes(place, names, parts, classes)
    if is_first():
        used = [
            name
            for name, cells in ((path, paths), (label, labels), (split or "split", splits), (group or "group", groups))
            if cells
        ]
        others = [name for name in columns if name not in used]
        log.info("%s", printable(f"{place}: columns {', '.join(used)}; not used: {', '.join(others) or 'none'}"))
    rows = sorted(range(len(paths)), key=lambda row: (names[row], paths[row].split("/")))
    files, states = {}, {}
    for part in dict.fromkeys(SPLITS):
        if chosen := [row for row in rows if parts[row] == part]:
            label_of = torch.tensor([classes.index(names[row]) for row in chosen])
            group_of = np.array([groups[row] for row in chosen]) if groups else None
            files[part] = Files(folder, np.array([paths[row] for row in chosen]), label_of, groups=group_of)
            found = (state_of(part, paths[row], folder / paths[row]) for row in chosen)
            states[part] = np.frombuffer(b"".join(found), np.uint64)
    kept, bad = check_files(Path(root), files, states)
    return Source("table", kept["train"], kept.get("test"), classes, kept.get("val"), bad)


def _column(columns: Mapping[str, list[str]], place: str, name: str) -> list[str]:
    if name not in columns:
        raise ZooError(f"{place} has no column '{name}'; its columns: {shown(', '.join(columns))}")
    return columns[name]


def _refuse(place: str, what: str, wrong: Sequence[bool]) -> None:
    """Raise ZooError if any row is wrong. The row of the names is row 1, as in a spreadsheet."""
    if rows := [row for row, each in enumerate(wrong, 2) if each]:
        named = ", ".join(map(str, rows[:NAMED])) + (f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else "")
        raise ZooError(f"{place}: {'row' if len(rows) == 1 else 'rows'} {named}: {what}")


def _repeated(paths: Sequence[str]) -> list[bool]:
    first: dict[str, int] = {}
    return [first.setdefault(path, row) != row for row, path in enumerate(paths)]


def _check_leaks(place: str, groups: Sequence[str], parts: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for row, (group, part) in enumerate(zip(groups, parts, strict=True)):
        other = parts[first.setdefault(group, row)]
        if other != part:
            both = f"{other} (row {first[group] + 2}) and in {part} (row {row + 2})"
            raise ZooError(f"{place}: group '{group}' is in {both}; put all of its images into one split")


def _check_classes(place: str, names: Sequence[str], parts: Sequence[str], classes: Sequence[str]) -> None:
    known = {part: {name for name, each in zip(names, parts, strict=True) if each == part} for part in set(parts)}
    if missing := [name for name in classes if name not in known.get("train", ())]:
        raise ZooError(f"{place}: train has no images of class '{missing[0]}', which another split has")
    for part, has in known.items():
        if is_first() and (missing := [name for name in classes if name not in has]):
            log.warning("%s", printable(f"{place}: {part} has no images of class {', '.join(missing[:5])}"))
