"""Interleaved measurement: contenders take turns (A B A B), so that a slower phase of the machine affects all of them."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

CONFIDENCE = 0.95
Contest = Mapping[str, Callable[[], float]]  # label → one turn, which returns the work done, for example a number of images


@dataclass(frozen=True)
class Figure:
    """A measured quantity, with one value per round."""

    unit: str
    values: list[float]
    share: float | None = None  # share of the machine's GEMM peak, from the median

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of the median at `CONFIDENCE`, from the order of the values; with fewer than six, all their range."""
        count, values, left, outside = len(self.values), sorted(self.values), 0, 0.0
        while (outside := outside + 2 * math.comb(count, left) / 2**count) <= 1 - CONFIDENCE:
            left += 1
        left = max(left - 1, 0)
        return values[left], values[count - 1 - left]

    def over(self, other: "Figure") -> "Figure":
        """Return the ratio to another figure: round by round if both have the same number of rounds, else of the medians."""
        if len(self.values) != len(other.values):
            return Figure("ratio", [self.median / other.median])
        return Figure("ratio", [a / b for a, b in zip(self.values, other.values, strict=True)])


Figures = Mapping[str, Figure]
Measured = Iterator[tuple[str, Figure]]  # (name, figure), as soon as each is known


def in_turns(contest: Contest, rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Interleave the turns of the contenders, and return the results by label.

    Args:
        contest: the contenders.
        rounds: number of turns of each contender.
        warm_up: run one more round first and drop its results.
    """
    found: dict[str, list[float]] = {label: [] for label in contest}
    for _ in range(rounds + warm_up):
        for label, turn in contest.items():
            found[label].append(turn())
    return {label: values[warm_up:] for label, values in found.items()}


def rates(contest: Contest, rounds: int) -> dict[str, list[float]]:
    """Return the work per second of each turn, by label."""
    return in_turns({label: _timed(turn) for label, turn in contest.items()}, rounds)


def contested(prefix: str, contest: Contest, rounds: int, unit: str = "images/s") -> Measured:
    """Yield the rates of a contest as figures with the name ``prefix/label``."""
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
    """Return the seconds that `work` takes, by the clock; if CUDA is in use, by the GPU's events."""
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
