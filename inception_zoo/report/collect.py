"""Folders → what their runs recorded, checked: plain data, in the order of the folders."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import yaml

from inception_zoo.errors import ZooError, did_you_mean, one_line
from inception_zoo.redaction import redacted
from inception_zoo.runs.results import RESULTS, flattened
from inception_zoo.runs.sweeps import SWEEP, overrides_of
from inception_zoo.system.renamed import with_new_names

STATES = ("finished", "running", "failed", "interrupted", "pruned")
FIGURES = {  # of results.json → the name on the page
    "test/top1": "test",
    "test/ece": "ece",
    "parameters": "parameters",
    "multiply_adds": "multiply_adds",
    "train/images_per_second": "speed",
    "minutes": "minutes",
}
READ = ("*.json", "*.csv", ".hydra/*.yaml", "csv/*/*.csv")  # of a run folder, which may be a stranger's
BYTES = 2**28  # of one of these files
DEPTH = 100  # of a config
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C's is ten times as fast
Kind = TypeVar("Kind", dict[str, Any], list[Any])
CURVES = ("val/top1", "train/loss", "val/loss")
# Keys of a config that say where a run wrote or which of a series it was, not what it did.
PLACES = {"dirpath", "save_dir", "default_root_dir", "folder", "output_dir"}
SERIES = ("hydra.", "sweep.", "logger.", "callbacks.progress")


@dataclass(eq=False)
class Run:
    """One run folder. Curves are (epochs, values) by metric, configs flat: dotted key → text."""

    folder: Path
    name: str
    state: str
    reason: str | None
    seed: int | None
    started: str | None
    model: str
    swapped: str
    image_size: int | None
    figures: dict[str, float | None]
    curves: dict[str, tuple[list[int], list[float | None]]]
    overrides: dict[str, str]
    composed: dict[str, Any] = field(repr=False)  # .hydra/config.yaml, with present names
    config: dict[str, str] = field(repr=False)
    is_resolved: bool = False

    @property
    def accuracy(self) -> float:
        """The accuracy that runs are ranked by: on the validation split, else on the test split."""
        known = (self.figures["val"], self.figures["test"])
        return next((value for value in known if value is not None), -1.0)


def collect(folders: Sequence[Path], warn: Callable[[str], None]) -> list[Run]:
    """Every run in and beneath `folders`; what cannot be read is left out with a warning.

    Raises:
        ZooError: a folder does not exist or holds no run, or no run can be read.
    """
    paths: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ZooError(f"report {folder}: there is no such folder; give run folders, or folders above them")
        found = list(find_runs(folder.resolve()))
        if not found:
            raise ZooError(
                f"report {folder}: no run in it or beneath it; a run folder holds {RESULTS} and .hydra/, as outputs/DATE/TIME "
                "or a job of multirun/DATE/TIME"
            )
        paths |= dict.fromkeys(found)
    above = Path(os.path.commonpath([path.parent for path in paths]))
    runs, faults = [], []
    for path in paths:
        try:
            runs.append(read_run(path, str(path.relative_to(above))))
        except ZooError as error:
            faults.append(str(error))
        except Exception as error:  # a stranger's folder may hold anything
            faults.append(f"{path} is damaged ({type(error).__name__}: {one_line(error)[:200]})")
    if not runs:
        raise ZooError(faults[0] + (f" (and {len(faults) - 1} more that cannot be read)" if faults[1:] else ""))
    for fault in faults:
        warn(f"{fault}; the run is left out")
    return runs


def find_runs(folder: Path) -> Iterator[Path]:
    """Run folders, in the order of their names with numbers as numbers; none is looked for inside another."""
    is_sweep = (folder / SWEEP).exists() or (folder / "multirun.yaml").exists()
    if not is_sweep and ((folder / RESULTS).exists() or (folder / ".hydra" / "config.yaml").exists()):
        yield folder
        return
    below = (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != ".")
    for path in sorted(below, key=_natural):
        yield from find_runs(path)


def _natural(path: Path) -> list[Any]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path.name) if part]


def read_run(folder: Path, name: str) -> Run:
    """ZooError names the file, and the row or key, that cannot be read. The page goes to others: secrets are left out."""
    for path in (path for pattern in READ for path in folder.glob(pattern)):
        _check_file(folder, path)
    results = redacted(_results(folder / RESULTS))
    files = (folder / ".hydra" / name for name in ("config.yaml", "resolved.yaml"))
    composed, resolved = (with_new_names(redacted(_yaml(file, {}))) for file in files)
    words = _yaml(folder / ".hydra" / "overrides.yaml", [])
    if not all(isinstance(word, str) for word in words):
        raise ZooError(f"{folder}/.hydra/overrides.yaml is damaged; it must be a list of words")
    overrides = overrides_of(redacted(words))
    flat = as_words(composed)
    curves = read_curves(folder)
    figures = {short: _number(results, key, folder) for key, short in FIGURES.items()}
    best = _number(results, "val/top1_best", folder)
    reached = [value for value in curves.get("val/top1", ([], []))[1] if value is not None]
    figures["val"] = best if best is not None else max(reached, default=_number(results, "val/top1", folder))
    seed = results.get("seed", flat.get("seed", ""))
    return Run(
        folder=folder,
        name=name,
        state=results["state"],
        reason=_line(results, "reason", folder),
        seed=int(seed) if str(seed).isdecimal() else None,
        started=_line(results, "started", folder),
        model=str(results.get("model") or flat.get("model.name") or overrides.get("model", "–")),
        swapped=str(results.get("swapped") or "") or _swapped(flat),
        image_size=int(_number(results, "image_size", folder) or 0) or None,
        figures=figures,
        curves=curves,
        overrides=overrides,
        composed=composed,
        config=_comparable(as_words(resolved) or flat),
        is_resolved=bool(resolved),
    )


def _check_file(folder: Path, path: Path) -> None:
    """ZooError for what would bring another file of this machine onto the page, or fill its memory."""
    if not path.resolve().is_relative_to(folder):
        raise ZooError(f"{path} links to a file outside of the run folder")
    if not path.is_file():
        raise ZooError(f"{path} is no file")
    if path.stat().st_size > BYTES:
        raise ZooError(f"{path} is larger than {BYTES // 2**20} MiB")


def _results(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"state": "interrupted", "reason": f"it left no {RESULTS}"}
    try:
        results = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ZooError(f"{path} is damaged: {one_line(error)}") from None
    if not isinstance(results, dict):
        raise ZooError(f"{path} is damaged: it must be one object of names and values")
    results.setdefault("state", "finished")  # of runs before states were written
    if results["state"] not in STATES:
        raise ZooError(f"{path}: state={results['state']} is unknown; {did_you_mean(results['state'], STATES)}")
    return results


def _number(results: Mapping[str, Any], key: str, folder: Path) -> float | None:
    value = results.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ZooError(f"{folder / RESULTS}: {key}={value} must be a number")
    return _finite(value)


def _line(results: Mapping[str, Any], key: str, folder: Path) -> str | None:
    value = results.get(key)
    if not isinstance(value, str | None):
        raise ZooError(f"{folder / RESULTS}: {key} must be a line of text")
    return value


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _yaml(path: Path, missing: Kind) -> Kind:
    """Return the content of a file, of the kind of `missing`; `missing` itself if there is no file."""
    if not path.exists():
        return missing
    try:
        text = path.read_text()
        _check_yaml(text)
        found = yaml.load(text, LOADER)
    except (yaml.YAMLError, ValueError) as error:
        raise ZooError(f"{path} is damaged: {one_line(error)}") from None
    if not isinstance(found, type(missing)):
        kind = "a mapping of keys" if isinstance(missing, dict) else "a list of words"
        raise ZooError(f"{path} is damaged: it must be {kind}")
    return found


def _check_yaml(text: str) -> None:
    """ValueError for what no run writes: references, a few lines of which make billions of values, and an endless depth."""
    depth = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"a run's own has no reference such as *{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise ValueError(f"nested more than {DEPTH} deep")


def as_words(config: Mapping[str, Any]) -> dict[str, str]:
    """A config flat, every value as text: dotted key → text."""
    return {key: value if isinstance(value, str) else _text(value) for key, value in flattened(config).items()}


def _text(value: Any) -> str:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value  # 0.0 is 0
    return json.dumps(whole, default=str)


def _comparable(flat: Mapping[str, str]) -> dict[str, str]:
    """Without places, and with ``${key}`` followed to its value: configs of two runs are set side by side."""
    followed = {}
    for key, value in flat.items():
        for _ in range(8):  # a ring would never end
            reference = re.fullmatch(r"\$\{([\w.]+)\}", value)
            value = flat.get(reference[1], value) if reference else value
        followed[key] = value
    return {key: value for key, value in followed.items() if not is_place(key) and "hydra:" not in value}


def is_place(key: str) -> bool:
    """Return True for a key that tells the place or the number of a run, not its work."""
    return key.rpartition(".")[2] in PLACES or key.startswith(SERIES) or key == "ckpt"


def _swapped(flat: Mapping[str, str]) -> str:
    """As results.json has it, of a run that failed before it could say."""
    start = "model.blocks."
    chosen = {key.removeprefix(start): value for key, value in flat.items() if key.startswith(start) and value != "null"}
    return ", ".join(f"{key}={'rows' if value[0] in '[{' else value}" for key, value in chosen.items())


def read_curves(folder: Path) -> dict[str, tuple[list[int], list[float | None]]]:
    """The last value of each metric in each epoch; where a run was resumed, later versions replace what they repeat."""
    curves: dict[str, dict[int, float | None]] = {name: {} for name in CURVES}
    for path in sorted(folder.glob("csv/version_*/metrics.csv"), key=lambda path: _natural(path.parent)):
        for number, row in rows_of(path, ["epoch"]):
            for name in CURVES:
                if row.get(name):
                    epoch = _cell(path, number, row, "epoch")
                    curves[name][int(epoch or 0)] = _cell(path, number, row, name)
    return {name: (list(map(int, sorted(curve))), [curve[e] for e in sorted(curve)]) for name, curve in curves.items() if curve}


def rows_of(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbered rows of a CSV that must have `columns`; the header is row 1. ZooError names the row that is damaged."""
    try:
        with path.open(newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if missing := [name for name in columns if name not in header]:
                raise ZooError(f"{path}, row 1: there is no column {missing[0]}")
            for number, cells in enumerate(reader, 2):
                if len(cells) != len(header):
                    raise ZooError(f"{path}, row {number}: {len(cells)} cells under {len(header)} columns")
                yield number, dict(zip(header, cells, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ZooError(f"{path} is damaged: {error}") from None


def _cell(path: Path, number: int, row: Mapping[str, str], name: str) -> float | None:
    """A number, or nothing where the cell is empty or the number is not finite."""
    try:
        return _finite(float(row[name])) if row[name] else None
    except ValueError:
        raise ZooError(f"{path}, row {number}: {name}={row[name]} must be a number") from None


def numbers_of(path: Path, columns: Sequence[str]) -> list[list[float | None]]:
    """The named columns of a CSV, as numbers, row by row."""
    return [[_cell(path, number, row, name) for name in columns] for number, row in rows_of(path, columns)]


def read_confusion(path: Path) -> tuple[list[str], list[list[int]]]:
    """The classes, and for each true class how often each was predicted."""
    classes, matrix = [], []
    with path.open(newline="") as file:
        names = next(csv.reader(file), ["class"])[1:]  # two classes may share a name: no dict
        for number, cells in enumerate(csv.reader(file), 2):
            if len(cells) != len(names) + 1 or not all(cell.isdecimal() for cell in cells[1:]):
                raise ZooError(f"{path}, row {number}: it must be a class and {len(names)} whole numbers")
            classes.append(cells[0])
            matrix.append([int(cell) for cell in cells[1:]])
    if len(classes) != len(names):
        raise ZooError(f"{path}: {len(classes)} rows for {len(names)} classes")
    return classes, matrix
