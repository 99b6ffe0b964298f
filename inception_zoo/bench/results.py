"""Figures and their provenance, stored as JSON. A new measurement of a figure replaces the older one."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inception_zoo.bench.machine import hardware
from inception_zoo.bench.turns import Figure
from inception_zoo.errors import ZooError
from inception_zoo.system.records import write_json
from inception_zoo.system.terminal import tell

DISTURBED = "disturbed"  # key of a run: what other users of the machine did while it measured


@dataclass
class Results:
    """Figures by name, and the index of the run that measured each."""

    runs: list[dict[str, Any]] = field(default_factory=list)  # hardware, versions, commit, date, rounds
    figures: dict[str, Figure] = field(default_factory=dict)
    run_of: dict[str, int] = field(default_factory=dict)

    def add(self, run: Mapping[str, Any]) -> None:
        """Add a run; figures that are put later belong to it."""
        self.runs.append(dict(run))

    def put(self, name: str, figure: Figure) -> None:
        """Add or replace a figure; it belongs to the last run."""
        self.figures[name], self.run_of[name] = figure, len(self.runs) - 1

    def drop_others(self, section: str, names: Collection[str]) -> None:
        """Delete the figures of a section, except those in `names`."""
        old = [name for name in self.figures if name.startswith(f"{section}/") and name not in names]
        for name in old:
            del self.figures[name]

    def save(self, path: Path) -> None:
        """Write the figures, and the runs that they belong to, as JSON."""
        used = sorted({self.run_of[name] for name in self.figures})
        figures = {name: _plain(self.figures[name], used.index(self.run_of[name])) for name in self.figures}
        write_json(path, {"runs": [self.runs[number] for number in used], "figures": figures})


def read(path: Path, option: str) -> Results:
    """Read a file that `Results.save` has written.

    Args:
        path: the file.
        option: command-line option that names the file, for error messages.

    Raises:
        ZooError: the file cannot be read, or does not hold results.
    """
    try:
        plain = json.loads(path.read_text())
        figures = {name: Figure(each["unit"], each["values"], each.get("share")) for name, each in plain["figures"].items()}
        return Results(plain["runs"], figures, {name: each["run"] for name, each in plain["figures"].items()})
    except OSError as error:
        raise ZooError(f"{option} {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ZooError(f"{option} {path}: not a results file of `inception-zoo bench`; give another file") from None


def read_older(path: Path) -> Results:
    """Read the results to compare with.

    Args:
        path: a results file, or a folder. In a folder, and in the folders in it, the file is taken that was measured on a
            machine with this machine's instruction set and number of cores.

    Raises:
        ZooError: the file is missing or invalid, or the folder has none, or several, for this machine.
    """
    if not path.is_dir():
        return read(path, "--compare")
    here, found = _kind(hardware()), []
    for file in sorted([*path.glob("results.json"), *path.glob("*/results.json")]):
        older = read(file, "--compare")
        if older.runs and _kind(older.runs[-1]["hardware"]) == here:
            found.append((file, older))
    if len(found) != 1:
        which = f"several results ({', '.join(str(file) for file, _ in found)})" if found else "no results"
        raise ZooError(f"--compare {path}: {which} for {here[1]} cores with {here[0]}; give a results file")
    tell(f"comparing with {found[0][0]}")
    return found[0][1]


def _kind(machine: Mapping[str, Any]) -> tuple[str, int]:
    """Return the instruction set, such as ``AVX512 with bf16 and AMX``, and the number of cores."""
    return machine["gpu"] or machine["cpu"].rpartition("(")[2].rstrip(")"), machine["cores"]


def different(new: Results, old: Results) -> list[str]:
    """Return warnings about different hardware or versions, for the figures that both have."""
    common, warnings = [name for name in new.figures if name in old.figures], []
    for key in ("hardware", "versions"):
        pairs = ((new.runs[new.run_of[name]][key], old.runs[old.run_of[name]][key]) for name in common)
        if pair := next(((a, b) for a, b in pairs if a != b), None):
            now, then = ({k: v for k, v in each.items() if pair[0].get(k) != pair[1].get(k)} for each in pair)
            warnings.append(f"different {key}; old: {_words(then)}; new: {_words(now)}")
    return warnings


def _words(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items()) or "none"


def _plain(figure: Figure, run: int) -> dict[str, Any]:
    known = {"share": figure.share} if figure.share is not None else {}
    values = {"median": figure.median, "low": min(figure.values), "high": max(figure.values), "values": figure.values}
    return {"unit": figure.unit, **values, **known, "run": run}
