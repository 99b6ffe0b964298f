"""Targets for measured figures, read from `targets.json` in the folder of the results, and the verdict on each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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

    def measured(self, figures: Figures) -> Figure | None:
        """Return the figure of the worst pair; None if a pair was not measured."""
        found = [_measured(figures, *pair) for pair in self.pairs]
        known = [each for each in found if each]
        if len(known) < len(found):
            return None
        return (min if self.sense == ">=" else max)(known, key=lambda figure: figure.median)

    def verdict(self, figures: Figures) -> str:
        """Return ``met``, ``missed`` or ``not measured``."""
        if not (found := self.measured(figures)):
            return "not measured"
        met = found.median >= self.bound if self.sense == ">=" else found.median <= self.bound
        return "met" if met else "missed"


def _measured(figures: Figures, name: str, over: str | None) -> Figure | None:
    if not (figure := figures.get(name)) or over is None:
        return figure
    if over == SHARE:
        return None if figure.share is None else Figure("share", [figure.share])
    if over == PEER:
        group = name.rpartition("/")[0]
        over = next((other for other in figures if other.rpartition("/")[0] == group and other != name), PEER)
    return figure.over(figures[over]) if over in figures else None


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
