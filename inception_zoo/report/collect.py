"""Read and check the results of run folders; the order of the folders is kept."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from inception_zoo.errors import ZooError, one_line, shown
from inception_zoo.redaction import redacted
from inception_zoo.runs.results import RESULTS, STATES, checked_results, flattened
from inception_zoo.runs.sweeps import SWEEP, overrides_of
from inception_zoo.system.csv_files import read_table
from inception_zoo.system.records import read_yaml
from inception_zoo.system.renamed import with_new_names

FIGURES = {  # key in results.json → name in the data of the page
    "test/top1": "test",
    "test/ap": "ap",  # only without top-1: of several labels
    "test/recall1": "recall",
    "test/ece": "ece",
    "parameters": "parameters",
    "multiply_adds": "multiply_adds",
    "train/images_per_second": "speed",
    "minutes": "minutes",
}
INTENDED_USE = "intended_use.txt"
READ = ("*.json", "*.csv", INTENDED_USE, ".hydra/*.yaml", "csv/*/*.csv")  # files read from a run folder, which may be untrusted
BYTES = 2**28  # maximum size of one of these files
CURVES = ("val/top1", "val/ap", "val/recall1", "train/loss", "val/loss")
# Config keys that name the place of a run or its number in a series; they do not affect its results.
PLACES = {"dirpath", "save_dir", "default_root_dir", "folder", "output_dir"}
SERIES = ("hydra.", "sweep.", "logger.", "callbacks.progress")


@dataclass(eq=False)
class Run:
    """Results and config of one run folder.

    Attributes:
        name: path of the folder, relative to the common parent of all folders.
        images: numbers of images of the splits, as text; empty if they were not recorded.
        swapped: block changes, such as ``grid17=residual``; empty for none.
        figures: name on the page → value.
        curves: metric → (epochs, values).
        composed: .hydra/config.yaml as nested data, with present class paths.
        resolved: .hydra/resolved.yaml, likewise; empty if it was not written. `config`: it, or else `composed`, flat.
    """

    folder: Path
    name: str
    state: str
    reason: str | None
    seed: int | None
    started: str | None
    model: str
    swapped: str
    image_size: int | None
    images: str
    figures: dict[str, float | None]
    curves: dict[str, tuple[list[int], list[float | None]]]
    overrides: dict[str, str]
    composed: dict[str, Any] = field(repr=False)
    resolved: dict[str, Any] = field(repr=False)
    config: dict[str, str] = field(repr=False)

    @property
    def accuracy(self) -> float:
        """Figure for ranking: validation top-1, else that of the test: top-1, average precision, recall@1; else -1."""
        known = (self.figures[key] for key in ("val", "test", "ap", "recall"))
        return next((value for value in known if value is not None), -1.0)


def collect(folders: Sequence[Path], warn: Callable[[str], None]) -> list[Run]:
    """Read every run in `folders` and their subfolders; skip an unreadable run with a warning.

    Raises:
        ZooError: a folder does not exist or contains no run, or no run can be read.
    """
    paths: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ZooError(f"report {folder}: no such folder; give run folders, or folders above them")
        found = list(find_runs(folder.resolve()))
        if not found:
            raise ZooError(
                f"report {folder}: no run in this folder or its subfolders; a run folder contains {RESULTS} and .hydra/, "
                "such as outputs/DATE/TIME or a job of multirun/DATE/TIME"
            )
        paths |= dict.fromkeys(found)
    above = Path(os.path.commonpath([path.parent for path in paths]))
    runs, faults = [], []
    for path in paths:
        try:
            runs.append(read_run(path, str(path.relative_to(above))))
        except ZooError as error:
            faults.append(str(error))
        except Exception as error:  # an untrusted folder may contain anything
            faults.append(f"{path} is damaged ({type(error).__name__}: {one_line(error)[:200]})")
    if not runs:
        raise ZooError(faults[0] + (f" (and {len(faults) - 1} more unreadable runs)" if faults[1:] else ""))
    for fault in faults:
        warn(f"{fault}; the run is skipped")
    return runs


def find_runs(folder: Path, levels: int = 50) -> Iterator[Path]:
    """Yield run folders in natural order of their names (2 before 10); do not search inside a run folder.

    Raises:
        ZooError: folders are nested more than `levels` deep.
    """
    if not levels:
        raise ZooError(f"{shown(folder)}: folders are nested too deeply for runs; name a folder below")
    is_sweep = (folder / SWEEP).exists() or (folder / "multirun.yaml").exists()
    if not is_sweep and ((folder / RESULTS).exists() or (folder / ".hydra" / "config.yaml").exists()):
        yield folder
        return
    below = (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != ".")
    for path in sorted(below, key=_natural):
        yield from find_runs(path, levels - 1)


def _natural(path: Path) -> list[Any]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path.name) if part]


def read_run(folder: Path, name: str) -> Run:
    """Read one run folder, shown as `name`; remove secrets, because the page may be shared.

    Raises:
        ZooError: a file cannot be read; the message names the file, and the row or key.
    """
    for path in (path for pattern in READ for path in folder.glob(pattern)):
        _check_file(folder, path)
    results = redacted(_results(folder))
    files = (folder / ".hydra" / f"{part}.yaml" for part in ("config", "resolved"))
    composed, resolved = (with_new_names(redacted(read_yaml(file, {}))) for file in files)
    overrides = overrides_of(redacted(read_yaml(folder / ".hydra" / "overrides.yaml", [])))
    flat = as_words(composed)
    curves = read_curves(folder)
    figures = {short: _number(results, key) for key, short in FIGURES.items()}
    best = _number(results, "val/top1_best")
    reached = [value for value in curves.get("val/top1", ([], []))[1] if value is not None]
    if best is None and results.get("monitor", "val/top1") == "val/top1":  # else it is not the checkpoint's value
        best = max(reached, default=_number(results, "val/top1"))
    figures["val"] = best
    if figures["test"] is not None or best is not None:
        figures["ap"] = None
        curves.pop("val/ap", None)
    seed = results.get("seed", flat.get("seed", ""))
    return Run(
        folder=folder,
        name=name,
        state=results["state"],
        reason=results.get("reason"),
        seed=int(seed) if str(seed).isdecimal() else None,
        started=results.get("started"),
        model=str(results.get("model") or flat.get("model.name") or overrides.get("model", "–")),
        swapped=str(results.get("swapped") or "") or _swapped(flat),
        image_size=int(_number(results, "image_size") or 0) or None,
        images=_images(results.get("images")),
        figures=figures,
        curves=curves,
        overrides=overrides,
        composed=composed,
        resolved=resolved,
        config=_comparable(as_words(resolved) or flat),
    )


def _check_file(folder: Path, path: Path) -> None:
    """Raise ZooError for a link to a file outside of the folder, for a special file, and for a file that is too large."""
    if not path.is_file():
        raise ZooError(f"{path} is not a regular file")
    if not path.resolve().is_relative_to(folder):
        raise ZooError(f"{path} links to a file outside of the run folder")
    if path.stat().st_size > BYTES:
        raise ZooError(f"{path} is larger than {BYTES // 2**20} MiB")


def _results(folder: Path) -> dict[str, Any]:
    if not (folder / RESULTS).exists():
        return {"state": "interrupted", "reason": f"no {RESULTS} was written"}
    return {"state": STATES[0], **checked_results(folder)}  # results of older versions have no state


def _number(results: Mapping[str, Any], key: str) -> float | None:
    value = results.get(key)
    return value if value is not None and isfinite(value) else None


def _images(counts: Any) -> str:
    known = counts.items() if isinstance(counts, Mapping) else ()
    return ", ".join(f"{name} {count:,}" for name, count in known if isinstance(count, int))


def as_words(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a flat config with all values as text: dotted key → text."""
    return {key: value if isinstance(value, str) else _text(value) for key, value in flattened(config).items()}


def _text(value: Any) -> str:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value  # 0.0 is 0
    return json.dumps(whole, default=str)


def _comparable(flat: Mapping[str, str]) -> dict[str, str]:
    """Remove keys of places and replace ``${key}`` by its value, so that configs of two runs can be compared."""
    followed = {}
    for key, value in flat.items():
        for _ in range(8):  # a cycle would not end
            reference = re.fullmatch(r"\$\{([\w.]+)\}", value)
            value = flat.get(reference[1], value) if reference else value
        followed[key] = value
    return {key: value for key, value in followed.items() if not is_incidental(key) and "hydra:" not in value}


def is_incidental(key: str) -> bool:
    """Return True for a config key without effect on the results: it names the place or the number of a run."""
    return key.rpartition(".")[2] in PLACES or key.startswith(SERIES) or key == "ckpt"


def _swapped(flat: Mapping[str, str]) -> str:
    """Return the block changes as in results.json, for a run that failed before it wrote them."""
    start = "model.blocks."
    chosen = {key.removeprefix(start): value for key, value in flat.items() if key.startswith(start) and value != "null"}
    return ", ".join(f"{key}={'rows' if value[0] in '[{' else value}" for key, value in chosen.items())


def read_curves(folder: Path) -> dict[str, tuple[list[int], list[float | None]]]:
    """Return metric → (epochs, values), with the last value of each epoch.

    A resumed run may have several ``csv/version_N``; a later version replaces the epochs that it repeats.

    Raises:
        ZooError: a file is damaged.
    """
    curves: dict[str, dict[int, float | None]] = {name: {} for name in CURVES}
    for path in sorted(folder.glob("csv/version_*/metrics.csv"), key=lambda path: _natural(path.parent)):
        for number, row in rows_of(path, ["epoch"], grows=True):
            for name in CURVES:
                if row.get(name):
                    epoch = _cell(path, number, row, "epoch")
                    curves[name][int(epoch or 0)] = _cell(path, number, row, name)
    return {name: (list(map(int, sorted(curve))), [curve[e] for e in sorted(curve)]) for name, curve in curves.items() if curve}


def rows_of(path: Path, columns: Iterable[str], grows: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (row number, column → cell) for each row of a CSV; the header is row 1.

    Args:
        path: the file.
        columns: names that the header must contain.
        grows: the run appends to the file; a last line without an end is incomplete and left out.

    Raises:
        ZooError: a column is missing or a row is damaged.
    """
    rows = read_table(path, grows)
    header = next(rows, list(columns) if grows else [])
    if missing := [name for name in columns if name not in header]:
        raise ZooError(f"{path}, row 1: column {missing[0]} is missing")
    for number, cells in enumerate(rows, 2):
        if len(cells) != len(header):
            raise ZooError(f"{path}, row {number}: {len(cells)} cells, but {len(header)} columns")
        yield number, dict(zip(header, cells, strict=True))


def _cell(path: Path, number: int, row: Mapping[str, str], name: str) -> float | None:
    """Return a number, or None if the cell is empty or the number is not finite."""
    try:
        value = float(row[name] or "nan")
        return value if isfinite(value) else None
    except ValueError:
        raise ZooError(f"{path}, row {number}: {name}={row[name]} must be a number") from None


def numbers_of(path: Path, columns: Sequence[str]) -> list[list[float | None]]:
    """Return the named columns of a CSV as numbers, row by row; None for an empty cell.

    Raises:
        ZooError: a column is missing, or a cell is not a number.
    """
    return [[_cell(path, number, row, name) for name in columns] for number, row in rows_of(path, columns)]


def read_confusion(path: Path) -> tuple[list[str], list[list[int]]]:
    """Read a confusion matrix.

    Returns:
        The class names, and the matrix: rows are true classes, columns are predictions, values are numbers of images.

    Raises:
        ZooError: a row is damaged, or the matrix is not square.
    """
    classes, matrix = [], []
    rows = read_table(path)
    names = next(rows, ["class"])[1:]  # no dict: two classes may have the same name
    for number, cells in enumerate(rows, 2):
        if len(cells) != len(names) + 1 or not all(cell.isdecimal() for cell in cells[1:]):
            raise ZooError(f"{path}, row {number}: it must be a class and {len(names)} whole numbers")
        classes.append(cells[0])
        matrix.append([int(cell) for cell in cells[1:]])
    if len(classes) != len(names):
        raise ZooError(f"{path}: {len(classes)} rows for {len(names)} classes")
    return classes, matrix
