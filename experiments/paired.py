"""Differences paired by seed: Student's t, Holm's correction, and the size that a test would have seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq

Values = Mapping[str, Mapping[str, float]]  # arm → seed → value
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


def shown_p(each: Difference) -> str:
    """Return the p value as text."""
    return f"{each.p:.3f}" if each.p >= 0.001 else "< 0.001"


def compare(values: Values, references: Mapping[str, str], pooled: bool = False) -> dict[str, Difference]:
    """Return the difference of each arm from its reference.

    Args:
        values: arm → seed → value.
        references: arm → arm with which it is compared; one that is not named is not compared.
        pooled: estimate one standard error from all arms, as in an analysis of variance with the factors arm and seed. It
            assumes that all arms have the same variance, and finds smaller differences. False: each difference by itself.

    Raises:
        ValueError: an arm has other seeds than its reference.
    """
    if not references:
        return {}
    for arm, other in references.items():
        if values[arm].keys() != values[other].keys():
            raise ValueError(f"{arm} has the seeds {sorted(values[arm])}, and {other} has {sorted(values[other])}")
    found = {
        arm: np.array([values[arm][seed] - values[other][seed] for seed in values[arm]]) for arm, other in references.items()
    }
    errors = {arm: (float(stats.sem(each)), len(each) - 1) for arm, each in found.items()}
    if pooled:
        errors = dict.fromkeys(found, _pooled(values))
    means = {arm: float(each.mean()) for arm, each in found.items()}
    p = holm([_two_sided(means[arm], *errors[arm]) for arm in found])
    return {
        arm: Difference(means[arm], float(stats.t.ppf(0.975, free)) * error, visible(free, len(found)) * error, each)
        for (arm, (error, free)), each in zip(errors.items(), p, strict=True)
    }


def _two_sided(mean: float, error: float, free: int) -> float:
    """Return the p value of a t test; equal differences, without an error, are certain."""
    return 2 * float(stats.t.sf(abs(mean) / error, free)) if error else float(mean == 0)


def _pooled(values: Values) -> tuple[float, int]:
    """Return the standard error of a difference of two arms, and its degrees of freedom; all arms need the same seeds."""
    table = np.array([[each[seed] for seed in sorted(each)] for each in values.values()])
    residual = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    free = (table.shape[0] - 1) * (table.shape[1] - 1)
    return float(np.sqrt((residual**2).sum() / free * 2 / table.shape[1])), free


@cache
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
