"""Interchangeable grid reductions, one or more per generation: (channels in, channels out, pool) → rows.

At the paper's channels, each function returns the paper's block. At other channels, it splits them in the same shares;
"split as 3c" names the block that has these shares. `pool` is the token of the pool in the table's reduction, such as `max/2v`.
"""

from collections.abc import Callable

from inception_zoo.architecture.geometry import split

Reduction = Callable[[int, int, str], list[str]]


def reduction_pool(c_in: int, c_out: int, pool: str) -> list[str]:
    """V1: a pool, then a 1x1 if the channels change (1512.00567, Figure 9, left)."""
    return [pool if c_in == c_out else f"{pool} > 1x1 {c_out}"]


def reduction_parallel_bn(c_in: int, c_out: int, pool: str) -> list[str]:
    """V2: strided 3x3, double 3x3 and pool in parallel (1502.03167, Figure 5; split as 3c)."""
    pooled, rest, conv = _beside(c_in, c_out, pool)
    reduce3, threes, reduce = split(rest, 1 / 2, 5 / 8, 1 / 4)
    double = rest - threes
    return [f"1x1 {reduce3} > {conv} {threes}", f"1x1 {reduce} > 3x3 {double} > {conv} {double}", pooled]


def reduction_expanded(c_in: int, c_out: int, pool: str) -> list[str]:
    """V3: strided 3x3 without a 1x1 before it, double 3x3 and pool (1512.00567, Figure 10; split as mixed_6a)."""
    pooled, rest, conv = _beside(c_in, c_out, pool)
    reduce, double = split(rest, 2 / 15, 1 / 5)
    return [f"{conv} {rest - double}", f"1x1 {reduce} > 3x3 {double} > {conv} {double}", pooled]


def reduction_factorized_nx1(c_in: int, c_out: int, pool: str) -> list[str]:
    """V3: strided 3x3; 1x7, 7x1 and strided 3x3; pool (TF-slim; split as mixed_7a)."""
    pooled, rest, conv = _beside(c_in, c_out, pool)
    (n,) = split(rest, 3 / 8)
    return [f"1x1 {n} > {conv} {rest - n}", f"1x1 {n} > 1x7 {n} > 7x1 {n} > {conv} {n}", pooled]


def reduction_residual(c_in: int, c_out: int, pool: str) -> list[str]:
    """V4: Reduction-B of the residual networks (1602.07261, Figure 12)."""
    pooled, rest, conv = _beside(c_in, c_out, pool)
    (n,) = split(rest, 2 / 7)
    return [f"1x1 {n} > {conv} {rest - 2 * n}", f"1x1 {n} > {conv} {n}", f"1x1 {n} > 3x3 {n} > {conv} {n}", pooled]


def _beside(c_in: int, c_out: int, pool: str) -> tuple[str, int, str]:
    """Return the pool's row, the channels left for the convolutions, and the token of their strided 3x3.

    In the papers, the pool keeps all input channels. If that leaves less than a quarter of the output channels for the
    convolutions, a 1x1 after the pool reduces it to half of the output channels.
    """
    conv = f"3x3/2{pool[-1]}" if pool[-1] in "vs" else "3x3/2"
    if c_in <= c_out * 3 / 4:
        return pool, c_out - c_in, conv
    (pooled,) = split(c_out, 1 / 2)
    return f"{pool} > 1x1 {pooled}", c_out - pooled, conv


_ALL = (reduction_pool, reduction_parallel_bn, reduction_expanded, reduction_factorized_nx1, reduction_residual)
REDUCTIONS: dict[str, Reduction] = {f.__name__: f for f in _ALL}
