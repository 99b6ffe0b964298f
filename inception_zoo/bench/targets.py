"""Targets for measured figures, read from `targets.json` in the folder of the results, and the verdict on each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inception_zoo
from inception_zoo.bench.turns import Figure, Figures
from inception_zoo.errors import ZooError

FILE = "targets.json"
CHECKOUT = Path(inception_zoo.__file__).parents[1] / "experiments" / "benchmarks"
SHARE = "share"  # instead of a divisor: the figure's share of the GEMM peak
PEER = "peer"  # as a divisor: the other figure of the group


@dataclass(frozen=True)
class Target:
    """A bound on figures. If there are several pairs, the worst one counts."""

    name: str
    sense: str  # ">=" or "<="
    bound: float
    pairs: Sequence[tuple[str, str | None]]  # (figure, its divisor: another figure, PEER, SHARE, or None for the figure itself)
    machines: str = ""  # only for machines whose instruction set contains this, such as "AMX"

    def measured(self, figures: Figures) -> Figure | None:
        """Return the figure of the worst pair; None if a pair was not measured."""
        found = [_measured(figures, *pair) for pair in self.pairs]
        known = [each for each in found if each]
        if len(known) < len(found):
            return None
        return (min if self.sense == ">=" else max)(known, key=lambda figure: figure.median)

    def verdict(self, figures: Figures) -> str:
        """Return ``met``, ``missed``, ``undecided`` if the bound lies inside a pair's interval, or ``not measured``."""
        found = [_measured(figures, *pair) for pair in self.pairs]
        if None in found:
            return "not measured"
        verdicts = {self._verdict(figure) for figure in found if figure}
        return next(each for each in ("missed", "undecided", "met") if each in verdicts)

    def _verdict(self, figure: Figure) -> str:
        low, high = figure.interval
        if self.sense == "<=":
            low, high = -high, -low
        bound = self.bound if self.sense == ">=" else -self.bound
        return "met" if low >= bound else "missed" if high < bound else "undecided"


def _measured(figures: Figures, name: str, over: str | None) -> Figure | None:
    if not (figure := figures.get(name)) or over is None:
        return figure
    if over == SHARE:
        scale = figure.share and figure.share / figure.median
        return None if scale is None else Figure("share", [value * scale for value in figure.values])
    if over == PEER:
        group = name.rpartition("/")[0]
        over = next((other for other in figures if other.rpartition("/")[0] == group and other != name), PEER)
    return figure.over(figures[over]) if over in figures else None


def of_machine(targets: Sequence[Target], runs: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Return the targets that are set for the machine of the last run."""
    cpu = runs[-1]["hardware"]["cpu"] if runs else ""
    return [target for target in targets if target.machines in cpu]


def read_targets(folder: Path) -> list[Target]:
    """Read `targets.json` from the folder of the results, else from the checkout; return no targets if neither has one.

    Raises:
        ZooError: the file is not a list of targets.
    """
    path = next((path for path in (folder / FILE, CHECKOUT / FILE) if path.is_file()), None)
    try:
        return [Target(**each) for each in json.loads(path.read_text())] if path else []
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ZooError(f"{path}: not a list of targets ({type(error).__name__}); repair or delete it") from None
