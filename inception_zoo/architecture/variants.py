"""Interchangeable Inception blocks of each generation: (channels in, channels out, level) → rows.

At the paper's channels, each function returns the paper's block. At other channels, it splits them in the same shares;
"split as 3a" names the block that has these shares. `level` is 0, 1 or 2: the first, second or third grid (28, 14, 7 or
35, 17, 8). To use a function of your own with these arguments, give its import path, such as `my_blocks.squeeze`. It may
return a `torch.nn.Module` too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from inception_zoo.architecture.geometry import split
from inception_zoo.architecture.modules import is_module, on_meta
from inception_zoo.architecture.nets.table import Residual
from inception_zoo.architecture.notation import Module, Pool, Window, parse
from inception_zoo.architecture.reductions import REDUCTIONS
from inception_zoo.errors import ZooError, did_you_mean, imported, one_line, shown

Variant = Callable[[int, int, Any], Sequence[str] | Residual]


def parallel(c_in: int, c_out: int, level: int) -> list[str]:
    """V1: 1x1, 3x3, 5x5 and pool in parallel (1409.4842, Figure 2b; split as 3a in Table 1)."""
    ones, reduce3, reduce5, fives, pool = split(c_out, 1 / 4, 3 / 8, 1 / 16, 1 / 8, 1 / 8)
    threes = c_out - ones - fives - pool
    return [f"1x1 {ones}", f"1x1 {reduce3} > 3x3 {threes}", f"1x1 {reduce5} > 5x5 {fives}", f"max > 1x1 {pool}"]


def parallel_bn(c_in: int, c_out: int, level: int) -> list[str]:
    """V2: two 3x3 instead of the 5x5, average pool (1502.03167, Figure 5; split as 3a)."""
    ones, reduce, threes, pool = split(c_out, 1 / 4, 1 / 4, 1 / 4, 1 / 8)
    double = c_out - ones - threes - pool
    chain = f"1x1 {reduce} > 3x3 {double} > 3x3 {double}"
    return [f"1x1 {ones}", f"1x1 {reduce} > 3x3 {threes}", chain, f"avg > 1x1 {pool}"]


def factorized_nx1(c_in: int, c_out: int, level: int) -> list[str]:
    """V3: 1x7 and 7x1 instead of a 7x7 (1512.00567, Figure 6; split as mixed_6e)."""
    (n,) = split(c_out, 1 / 4)
    chain = f"1x1 {n} > 7x1 {n} > 1x7 {n} > 7x1 {n} > 1x7 {n}"
    return [f"1x1 {c_out - 3 * n}", f"1x1 {n} > 1x7 {n} > 7x1 {n}", chain, f"avg > 1x1 {n}"]


def expanded(c_in: int, c_out: int, level: int) -> list[str]:
    """V3: 1x3 and 3x1 in parallel, the expanded filter bank (1512.00567, Figure 7; split as mixed_7c)."""
    n, reduce, pool = split(c_out, 3 / 16, 7 / 32, 3 / 32)
    fork = f"1x3 {n} | 3x1 {n}"
    return [f"1x1 {c_out - 4 * n - pool}", f"1x1 {n} > {fork}", f"1x1 {reduce} > 3x3 {n} > {fork}", f"avg > 1x1 {pool}"]


def residual(c_in: int, c_out: int, level: int) -> Residual:
    """V4's residual block: A, B, C at the first, second, third grid (1602.07261, Figures 10, 11, 13)."""
    (n,) = split(c_out, (1 / 8, 1 / 7, 3 / 28)[level])
    spatial = ("3x3 {n} > 3x3 {n}", "1x7 {n} > 7x1 {n}", "1x3 {n} > 3x1 {n}")[level].format(n=n)
    rows = [f"1x1 {n}", *([f"1x1 {n} > 3x3 {n}"] if level == 0 else []), f"1x1 {n} > {spatial}"]
    return _residual(rows, c_in, c_out, level)


def separable(c_in: int, c_out: int, level: int) -> Residual:
    """Xception: three depthwise separable convolutions and a residual sum (1610.02357, Figure 5)."""
    row = f"act > 3x3g > 1x1 {c_out} > 3x3g > 1x1 {c_out} > 3x3g > 1x1l {c_out}"
    return Residual([row], scale=1.0, relu=False, shortcut=c_in != c_out, project=False)


def residual_over(variant: Variant) -> Variant:
    """Return a residual block with the rows of `variant`; their channels are reduced to those that `residual` concatenates."""

    def over(c_in: int, c_out: int, level: int) -> Residual:
        (joined,) = split(c_out, (3 / 8, 2 / 7, 3 / 14)[level])
        rows = variant(c_in, joined, level)
        assert not isinstance(rows, Residual)
        return _residual(rows, c_in, c_out, level)

    over.__name__ = f"residual_{variant.__name__}"
    over.__doc__ = f"Residual block with the rows of {variant.__name__}."
    return over


def _residual(rows: Sequence[str], c_in: int, c_out: int, level: int) -> Residual:
    """Return a residual block with the scale of the authors' release, and a 1x1 shortcut if the channels change."""
    return Residual(rows, scale=(0.17, 0.10, 0.20)[level], shortcut=c_in != c_out)


_PLAIN: tuple[Variant, ...] = (parallel, parallel_bn, factorized_nx1, expanded)
_ALL: tuple[Variant, ...] = (*_PLAIN, residual, separable, *map(residual_over, _PLAIN))
BLOCKS: dict[str, Variant] = {f.__name__: f for f in _ALL}


def variant_name(choice: Any) -> str:
    """Return the name of the variant that was chosen for a block; `rows` if its rows were given."""
    return choice if isinstance(choice, str) else getattr(choice, "__name__", "rows")


def is_rows(value: Any) -> bool:
    """Return True for a non-empty list; `notation.parse` checks its items."""
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0


def find_variant(name: str) -> Variant:
    """Return a block or reduction by name, or a user's function by import path.

    Raises:
        ZooError: The name is unknown (the message has valid names), or the path does not lead to a function.
    """
    known = BLOCKS | REDUCTIONS
    if name in known:
        return known[name]
    if "." not in name:
        raise ZooError(f"variant '{name}' is unknown; {did_you_mean(name, known)}")
    try:
        return imported(name)
    except ZooError as error:
        raise ZooError(f"variant '{name}' cannot be imported: {error}") from None


def call_variant(choice: Any, own: Any, level: int) -> Sequence[str] | Residual | Module:
    """Call a variant with the arguments for `own`, the `Block` that it replaces.

    Raises:
        ZooError: The variant does not fit the block, or the user's function fails or returns something else.
    """
    name = variant_name(choice)
    if own.kind == "valid":
        raise ZooError(f"'{name}' cannot replace {own.name}, whose unpadded rows only trim the grid; give a list of rows")
    valid, other = (list(REDUCTIONS), BLOCKS) if own.kind == "reduction" else (list(BLOCKS), REDUCTIONS)
    if isinstance(choice, str) and choice in other:
        does = "keeps the grid" if own.kind == "block" else "is a grid reduction"
        raise ZooError(f"'{choice}' cannot replace {own.name}, which {does}; valid: {', '.join(valid)}")
    variant = find_variant(choice) if isinstance(choice, str) else choice
    build = partial(variant, own.c_in, own.c_out, pool_of(own) if own.kind == "reduction" else max(level, 0))
    try:
        with on_meta():
            spec = build()
    except Exception as error:  # a user's function
        raise ZooError(f"'{name}' failed with {type(error).__name__}: {one_line(error)}") from error
    if is_module(spec):
        ((pool,),) = parse(pool_of(own) if own.kind == "reduction" else "max")  # with the grid of `own`
        place = f"{own.stage} {own.name}: '{name}'"
        return Module(**vars(pool), name=type(spec).__name__, width=own.c_out, place=place, build=build)
    if not isinstance(spec, Residual) and not is_rows(spec):
        found = f"the class {spec.__name__}: return {spec.__name__}(…)" if isinstance(spec, type) else shown(repr(spec))
        raise ZooError(f"'{name}' must return a list of rows, a Residual or a torch.nn.Module, not {found}")
    return spec


def pool_of(reduction: Any) -> str:
    """Return the token of the reduction's pool; if it has none, of a max pool with the stride of its convolution."""
    ops = [op for row in reduction.rows for step in row for op in step if isinstance(op, Window) and op.stride > 1]
    pool = next((op for op in ops if isinstance(op, Pool)), None)
    return str(pool) if pool else f"max/{ops[0].stride}{ops[0].edge}"
