"""Contenders measured in turns A B A B, so that a machine that slows down slows all of them; what comes out are figures."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Contest = Mapping[str, Callable[[], float]]  # label → one turn of the work; it returns how much was done, in images, say


@dataclass(frozen=True)
class Figure:
    """A measured quantity, one value a round."""

    unit: str
    values: list[float]
    share: float | None = None  # of the machine's GEMM peak, by the median

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def over(self, other: "Figure") -> "Figure":
        """The ratio round by round, as both were measured in the same turns; else of the medians."""
        if len(self.values) != len(other.values):
            return Figure("ratio", [self.median / other.median])
        return Figure("ratio", [a / b for a, b in zip(self.values, other.values, strict=True)])


Figures = Mapping[str, Figure]
Measured = Iterator[tuple[str, Figure]]  # as they come


def in_turns(contest: Contest, rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Return the results of each turn, without those of the warm-up round."""
    found: dict[str, list[float]] = {label: [] for label in contest}
    for _ in range(rounds + warm_up):
        for label, turn in contest.items():
            found[label].append(turn())
    return {label: values[warm_up:] for label, values in found.items()}


def rates(contest: Contest, rounds: int) -> dict[str, list[float]]:
    """Return the work that each turn does in a second."""
    return in_turns({label: _timed(turn) for label, turn in contest.items()}, rounds)


def contested(prefix: str, contest: Contest, rounds: int, unit: str = "images/s") -> Measured:
    """The rates of a contest as figures named ``prefix/label``."""
    for label, values in rates(contest, rounds).items():
        yield f"{prefix}/{label}", Figure(unit, values)


def _timed(turn: Callable[[], float]) -> Callable[[], float]:
    def timed() -> float:
        done = 0.0

        def work() -> None:
            nonlocal done
            done = turn()

        seconds = seconds_of(work)
        return done / seconds

    return timed


def seconds_of(work: Callable[[], object]) -> float:
    """By the clock; of a GPU by its own events."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000
