"""Data set of image files that a table lists: a CSV file with one row for each image."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from inception_zoo.data.inspection import check_files, state_of
from inception_zoo.data.layout import SPLITS, check_names, class_name, column_of, columns_of
from inception_zoo.data.source import Files, Source
from inception_zoo.errors import ZooError, printable, shown
from inception_zoo.system.ranks import is_first

NAMED = 3  # number of rows to name in an error, and of classes in the log
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
    place, folder = f"data.root={root}", Path(images or Path(root).parent)
    columns = columns_of(Path(root))
    used = {"path": path, "label": label}
    used |= {key: name or key for key, name in (("split", split), ("group", group)) if name or key in columns}
    cells = {key: column_of(columns, place, name) for key, name in used.items()}
    _check_unused(place, columns, used)
    for key, name in used.items():
        _refuse(place, f"an empty cell in '{name}'", cells[key], [not cell for cell in cells[key]])
        _refuse(
            place, f"a space at the start or the end in '{name}'", cells[key], [cell != cell.strip() for cell in cells[key]]
        )
    _check_paths(place, folder, path, cells["path"])
    names = [class_name(cell) for cell in cells["label"]]
    classes = sorted(set(names))
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
    if is_first():
        log.info("%s", printable(f"{place}: {_described(columns, used, names)}"))
    rows = sorted(range(len(names)), key=lambda row: (names[row], cells["path"][row].split("/")))
    number_of = {name: number for number, name in enumerate(classes)}
    files, states = {}, {}
    for part in SPLITS:
        if chosen := [row for row in rows if parts[row] == part]:
            paths = [cells["path"][row] for row in chosen]
            labels = torch.tensor([number_of[names[row]] for row in chosen])
            of_groups = np.array([groups[row] for row in chosen]) if groups else None
            files[part] = Files(folder, np.array(paths), labels, groups=of_groups)
            states[part] = np.frombuffer(b"".join(state_of(part, each, folder / each) for each in paths), np.uint64)
    kept, bad, lost = check_files(Path(root), files, states)
    return Source("table", kept["train"], kept.get("test"), classes, kept.get("val"), bad, lost)


def _check_unused(place: str, columns: Mapping[str, Sequence[str]], used: Mapping[str, str]) -> None:
    if used["path"] == used["label"]:
        raise ZooError(f"{place}: '{used['path']}' is the column of the paths and of the classes; set data.source.label=NAME")
    for key in ("split", "group"):
        if key not in used and (alike := next((name for name in columns if name.strip().casefold() == key), None)):
            raise ZooError(f"{place}: the column '{alike}' is not used; set data.source.{key}='{alike}', or rename it")


def _check_paths(place: str, folder: Path, column: str, paths: Sequence[str]) -> None:
    slash = "; write / instead of \\" if any("\\" in path for path in paths) else ""
    found = [os.path.isfile(folder / path) for path in paths]  # noqa: PTH113 -- Path.is_file raises for long names
    _refuse(place, f"no such file in {folder}{slash}", paths, [not each for each in found])
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


def _check_classes(place: str, names: Sequence[str], parts: Sequence[str], classes: Sequence[str]) -> None:
    known = {part: {name for name, each in zip(names, parts, strict=True) if each == part} for part in set(parts)}
    if missing := [name for name in classes if name not in known.get("train", ())]:
        raise ZooError(f"{place}: train has no images of class '{missing[0]}', which another split has")
    if not is_first():
        return
    for part, has in known.items():
        if missing := [name for name in classes if name not in has]:
            log.warning("%s", printable(f"{place}: {part} has no images of class {', '.join(missing[:NAMED])}"))
    every = set(classes)
    for alike in [name for name in classes if name != name.casefold() and name.casefold() in every]:
        log.warning("%s", printable(f"{place}: '{alike}' and '{alike.casefold()}' are two classes"))


def _described(columns: Mapping[str, Sequence[str]], used: Mapping[str, str], names: Sequence[str]) -> str:
    """Return the columns, and the classes with their numbers of images."""
    others = ", ".join(name for name in columns if name not in used.values()) or "none"
    counts = Counter(names)
    listed = ", ".join(f"{name} {counts[name]:,}" for name in sorted(counts)[: 3 * NAMED]) + (
        ", …" if len(counts) > 3 * NAMED else ""
    )
    return f"columns {', '.join(used.values())}; not used: {others}; {len(counts)} classes: {listed}"
