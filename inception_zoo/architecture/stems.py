"""Stems for small images, derived from the table's stem: less stride at equal cost (arXiv 1512.00567, section 9, Table 2).

`medium`  removes the stride of the first reduction: 151 px in the paper, half the usual image size.
`small`   also removes the stride of the second reduction: 79 px, a quarter. A strided pool in the only row is removed.
"""

from dataclasses import replace

from inception_zoo.architecture.choices import VALID
from inception_zoo.architecture.geometry import has_stride
from inception_zoo.architecture.nets.table import Stage, rows_of, with_rows
from inception_zoo.architecture.notation import Pool, Row, Window, parse, show


def with_stem(stage: Stage, stem: str) -> Stage:
    """Return the endpoints of `stage` with less stride; an endpoint has no rows if all of its steps are removed."""
    rows = {name: [parse(text) for text in rows_of(block)] for name, block in stage.items()}
    reductions = [name for name in rows if any(map(has_stride, rows[name]))]
    for name in reductions[: VALID["stem"].index(stem)]:
        rows[name] = [_without_stride(row, drop_pools=len(rows[name]) == 1) for row in rows[name]]
    texts = {name: [show(row) for row in block if row] for name, block in rows.items()}
    return {name: with_rows(block, texts[name]) for name, block in stage.items()}


def _without_stride(row: Row, drop_pools: bool) -> Row:
    kept = [step for step in row if not (drop_pools and isinstance(step[0], Pool) and step[0].stride > 1)]
    return tuple(tuple(replace(op, stride=1) if isinstance(op, Window) else op for op in step) for step in kept)
