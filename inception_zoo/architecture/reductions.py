"""The generations of grid reduction, interchangeable: (channels in, channels out, pool) → rows.

At the paper's channels each function returns the paper's block; at others it splits the channels in the same shares.
`pool` is the token of the pool in the table's own reduction, such as `max/2v`.
"""

from collections.abc import Callable

from inception_zoo.architecture.geometry import split

Reduction = Callable[[int, int, str], list[str]]


def reduction_pool(c_in: int, c_out: int, pool: str) -> list[str]:
    """V1: a pool, then 1x1 where the channels change (1512.00567, Figure 9, left)"""
    return [pool if c_in == c_out else f"{pool} > 1x1 {c_out}"]


def reduction_parallel_bn(c_in: int, c_out: int, pool: str) -> list[str]:
    """V2: strided 3x3 and double 3x3 beside the pool (1502.03167, Figure 5; split as 3c)"""
    pooled, rest, conv = _beside(c_in, c_out, pool)
    reduce3, threes, reduce = split(rest, 1 / 2, 5 / 8, 1 / 4)
    double = rest - threes
    return [f"1x1 {reduce3} > {conv} {threes}", f"1x1 {reduce} > 3x3 {double} > {conv} {double}", pooled]


def reduction_expanded(c_in: int, c_out: int, pool: str) -> list[str]:
    """V3: an unreduced strided 3x3, double 3x3 and the pool (1512.00567, Figure 10; split as mixed_6a)"""
    pooled, rest, conv = _beside(c_in, c_out, pool)
    reduce, double = split(rest, 2 / 15, 1 / 5)
    return [f"{conv} {rest - double}", f"1x1 {reduce} > 3x3 {double} > {conv} {double}", pooled]


def reduction_factorized_nx1(c_in: int, c_out: int, pool: str) -> list[str]:
    """V3: strided 3x3, 1x7 and 7x1 before another, and the pool (TF-slim, split as mixed_7a)"""
    pooled, rest, conv = _beside(c_in, c_out, pool)
    (n,) = split(rest, 3 / 8)
    return [f"1x1 {n} > {conv} {rest - n}", f"1x1 {n} > 1x7 {n} > 7x1 {n} > {conv} {n}", pooled]


def reduction_residual(c_in: int, c_out: int, pool: str) -> list[str]:
    """V4: Reduction-B of the residual networks (1602.07261, Figure 12)"""
    pooled, rest, conv = _beside(c_in, c_out, pool)
    (n,) = split(rest, 2 / 7)
    return [f"1x1 {n} > {conv} {rest - 2 * n}", f"1x1 {n} > {conv} {n}", f"1x1 {n} > 3x3 {n} > {conv} {n}", pooled]


def _beside(c_in: int, c_out: int, pool: str) -> tuple[str, int, str]:
    """Return the pool's row, the channels left for the convolutions, and the token of their strided 3x3.

    The papers' pools pass all channels on. Where that would leave less than a quarter of the output to the convolutions,
    a 1x1 projects the pool to half of the output.
    """
    conv = "3x3/2v" if pool.endswith("v") else "3x3/2"
    if c_in <= c_out * 3 / 4:
        return pool, c_out - c_in, conv
    (pooled,) = split(c_out, 1 / 2)
    return f"{pool} > 1x1 {pooled}", c_out - pooled, conv


_ALL = (reduction_pool, reduction_parallel_bn, reduction_expanded, reduction_factorized_nx1, reduction_residual)
REDUCTIONS: dict[str, Reduction] = {f.__name__: f for f in _ALL}
