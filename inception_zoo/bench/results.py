"""Figures and their provenance, stored as JSON. A new measurement of a figure replaces the older one."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inception_zoo.bench.turns import Figure
from inception_zoo.errors import ZooError
from inception_zoo.system.records import write_json


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


def compare(new: Results, old: Results) -> tuple[dict[str, float], list[str]]:
    """Return the ratio new / old of each figure's median, and warnings about different hardware or versions."""
    common = [name for name in new.figures if name in old.figures]
    warnings = []
    for key in ("hardware", "versions"):
        pairs = ((new.runs[new.run_of[name]][key], old.runs[old.run_of[name]][key]) for name in common)
        if different := next(((a, b) for a, b in pairs if a != b), None):
            now, then = ({k: v for k, v in each.items() if different[0].get(k) != different[1].get(k)} for each in different)
            warnings.append(f"different {key}; old: {_words(then)}; new: {_words(now)}")
    return {name: new.figures[name].median / old.figures[name].median for name in common if old.figures[name].median}, warnings


def _words(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items()) or "none"


def _plain(figure: Figure, run: int) -> dict[str, Any]:
    known = {"share": figure.share} if figure.share is not None else {}
    values = {"median": figure.median, "low": min(figure.values), "high": max(figure.values), "values": figure.values}
    return {"unit": figure.unit, **values, **known, "run": run}
