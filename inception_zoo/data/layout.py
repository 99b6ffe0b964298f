"""Class folders, split folders and tables of image data sets.

Imports nothing heavy: the config counts classes before torch is imported.
"""

import csv
import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from inception_zoo.errors import ZooError, shown
from inception_zoo.system.csv_files import read_rows
from inception_zoo.system.records import read_json
from inception_zoo.system.regular_files import opened

CLASSES = "classes.json"  # class names by label, in a data set in chunks
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")  # folder in Kaggle's archive of ImageNet


SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}  # names of the splits' folders
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}  # by name of a folder, a cell or a part
WORDS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # a data set has other classes, too


def splits_folder(root: Path) -> Path:
    """Return the folder that contains `train`: `root`, or the one in Kaggle's archive. Return `root` if neither does."""
    return root / KAGGLE if not (root / "train").is_dir() and (root / KAGGLE / "train").is_dir() else root


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split that exists. Without a folder `train`, it is `root` itself, as `train`.

    Raises:
        ZooError: `root` cannot be read, or several folders are the validation split.
    """
    try:
        os.scandir(root).close()
    except OSError as error:
        raise ZooError(f"data.root={root} cannot be read: {error.strerror}; set data.root=FOLDER") from None
    folder = splits_folder(root)
    found = {split: [folder / name for name in names if (folder / name).is_dir()] for split, names in SPLITS.items()}
    if not found["train"]:
        return {"train": folder}
    if len(found["val"]) > 1:
        raise ZooError(f"data.root={root}: has both {found['val'][0].name} and {found['val'][1].name}; keep one of them")
    return {split: folders[0] for split, folders in found.items() if folders}


def are_classes(names: Collection[str]) -> bool:
    """Return True if there are folders, and not only such with the names of splits, such as `Train` and `Val`."""
    return not {name.casefold() for name in names} <= WORDS


def class_name(folder: str) -> str:
    """Return the class name of a folder, in Unicode's form NFC. Some systems store é as one character, others as two."""
    return unicodedata.normalize("NFC", folder)


def check_names(place: str, names: Iterable[str]) -> None:
    """Check the names of classes, which tables, cards and JSON have to hold.

    Raises:
        ZooError: a name is not UTF-8, or has a line break or another control character.
    """
    if odd := next((name for name in names if any(unicodedata.category(each) in ("Cs", "Cc") for each in name)), None):
        raise ZooError(f"{place}: the class name {odd!a} has a control character or is not UTF-8; rename the class")


def class_folders(split: Path) -> list[str]:
    """Return the class names of a split's folders in the order of labels, without hidden ones; none without such a split."""
    _, names, _ = next(os.walk(split), ("", [], []))  # a link to itself is not a folder, whereas `DirEntry.is_dir` raises
    return sorted(class_name(name) for name in names if not name.startswith("."))


def columns_of(path: Path, place: str, hint: str) -> dict[str, list[str]]:
    """Return the columns of a table by name, without empty rows and columns at the end.

    Args:
        path: CSV file.
        place: beginning of error messages, such as the option that names the table.
        hint: end of the message for a file that cannot be read.

    Raises:
        ZooError: the file cannot be read, or is not a table with one name for each column.
    """
    try:
        with opened(path, "r", newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark first
            rows = list(read_rows(file))
    except UnicodeDecodeError:
        raise ZooError(f"{place} is not UTF-8; save it as CSV UTF-8") from None
    except (OSError, ZooError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path} ")
        raise ZooError(f"{place} cannot be read: {why}; {hint}") from None
    while rows and not any(rows[-1]):
        rows.pop()
    names = rows[0] if rows else []
    while names and not names[-1] and not any(cells[len(names) - 1 :] != [""] for cells in rows):
        rows = [cells[:-1] for cells in rows]
        names = rows[0]
    if any(mark in name for mark in (";", "\t") for name in names):
        raise ZooError(f"{place}: its columns are separated by ';' or tabs; save it with commas")
    if len(rows) < 2 or len(set(names)) < len(names) or not all(names):
        raise ZooError(f"{place}: the first row must have the names of the columns, each once, and the others the images")
    if wrong := next((row for row, cells in enumerate(rows, 1) if len(cells) != len(names)), None):
        raise ZooError(f"{place}: row {wrong} has {len(rows[wrong - 1])} cells, not {len(names)}")
    return {name: list(column) for name, column in zip(names, zip(*rows[1:], strict=True), strict=True)}


def columns_of_root(root: str) -> dict[str, list[str]]:
    """Return the columns of the table `data.root`; see `columns_of`."""
    return columns_of(Path(root), f"data.root={root}", "set data.root=TABLE.csv")


def column_of(columns: Mapping[str, list[str]], place: str, name: str) -> list[str]:
    """Return a column; raise ZooError, which begins with `place`, if there is none of this name."""
    if name not in columns:
        raise ZooError(f"{place} has no column '{name}'; its columns: {shown(', '.join(map(repr, columns)))}")
    return columns[name]


def names_in(cell: str, separator: str | None) -> tuple[str, ...]:
    """Return the class names in a cell of a table, each once; without a separator, the cell is one name."""
    parts = [cell] if separator is None else [part.strip() for part in cell.split(separator)]
    return tuple(dict.fromkeys(class_name(part) for part in parts if part))


def why_uncounted(root: str | None, column: str | Sequence[str]) -> str:
    """Return the error message for a table without a column of two classes or more, or without two columns of classes."""
    if not root:
        return "data.root=null: not set; set data.root=TABLE.csv"
    if not isinstance(column, str):
        return f"data.source.label={shown(list(column))}: list two columns or more, or name one without brackets"
    try:
        cells = column_of(columns_of_root(root), f"data.root={root}", column)
    except ZooError as error:
        return str(error)
    return f"data.root={root}: the column '{column}' has one class only: {shown(next(filter(None, cells), ''))}"


def count_classes(root: str | None, column: str | Sequence[str] = "", separator: str | None = None) -> int:
    """Return the number of classes of chunks, of class folders, or of a table; 0 if there are none.

    Args:
        root: Folder, or table.
        column: Of a table, or its columns, see `inception_zoo.data.table.table`.
        separator: See there.
    """
    if not root:
        return 0
    if not isinstance(column, str):
        return len(column)
    if column:
        with suppress(ZooError):
            return len({name for cell in columns_of_root(root).get(column, ()) for name in names_in(cell, separator)})
        return 0
    with suppress(ZooError):  # reported when the data are read
        if packed := read_json(Path(root, CLASSES), []):
            return len(packed)
    folder = splits_folder(Path(root))
    names = class_folders(folder / "train") if (folder / "train").is_dir() else class_folders(folder)
    return len(names) if are_classes(names) else 0
