"""Differences paired by seed: Student's t, Holm's correction, and the size that a test would have seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq

POWER = 0.8  # probability with which a difference of the size `visible` would have been significant


@dataclass(frozen=True)
class Difference:
    """Difference of an arm from the reference, paired by seed, in the unit of the values.

    Attributes:
        mean: mean over the seeds.
        half: half the width of the 95 % interval of Student's t, for this comparison alone.
        visible: true difference that would have been significant with the probability `POWER`, corrected for all comparisons.
        p: two-sided p value, corrected by `holm`.
    """

    mean: float
    half: float
    visible: float
    p: float


def compare(values: Mapping[str, Mapping[str, float]], references: Mapping[str, str]) -> dict[str, Difference]:
    """Return the difference of each arm from its reference.

    Args:
        values: arm → seed → value.
        references: arm → arm with which it is compared; one that is not named is not compared.

    Raises:
        ValueError: an arm has other seeds than its reference.
    """
    found = {}
    for arm, reference in references.items():
        each, other = values[arm], values[reference]
        if each.keys() != other.keys():
            raise ValueError(f"{arm} has the seeds {sorted(each)}, and {reference} has {sorted(other)}")
        found[arm] = np.array([value - other[seed] for seed, value in each.items()])
    corrected = holm([float(stats.ttest_1samp(each, 0).pvalue) for each in found.values()])
    return {arm: _difference(each, p, len(found)) for (arm, each), p in zip(found.items(), corrected, strict=True)}


def _difference(each: np.ndarray, p: float, comparisons: int) -> Difference:
    error, free = float(stats.sem(each)), len(each) - 1
    half = float(stats.t.ppf(0.975, free)) * error
    return Difference(float(each.mean()), half, visible(free, comparisons) * error, p)


def visible(free: int, comparisons: int) -> float:
    """Return the true difference, in standard errors, that a two-sided t test at 5 % finds with the probability `POWER`.

    Args:
        free: degrees of freedom.
        comparisons: number of tests; the first step of Holm's method divides the 5 % among them.
    """
    critical = float(stats.t.ppf(1 - 0.025 / comparisons, free))
    return float(brentq(lambda shift: stats.nct.sf(critical, free, shift) - POWER, 0, 10 * critical))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's method."""
    order, corrected, largest = np.argsort(values), [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected
