"""`inception-zoo parity`: compare our networks numerically with other libraries' networks."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from inception_zoo.cli.option_types import JSON
from inception_zoo.system.terminal import console, tell_json


def prove_parity(
    names: Annotated[list[str] | None, typer.Argument(help="Pairs, such as 'timm inception_v4'. Default: all.")] = None,
    as_json: JSON = False,
) -> None:
    """Compare our networks with those of other libraries in float64, endpoint by endpoint, with the same weights."""
    from inception_zoo.bench.parity import PAIRS, prove

    proofs = {}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="largest difference of any endpoint, relative to its maximum")
    for column in ("pair", "ours", "round trip", "evaluation", "training", "exported"):
        table.add_column(column, no_wrap=True)
    for name in names or PAIRS:
        proofs[name] = proof = prove(name)
        worst = (f"{max(d.values()):.1e}" if d else "–" for d in (proof.evaluation, proof.training, proof.back))
        back = "exact" if proof.round_trip else "differs"
        table.add_row(name, PAIRS[name].net, back, *worst, style="bold red" * (not proof.round_trip))
    if as_json:
        tell_json({name: asdict(proof) for name, proof in proofs.items()})
    else:
        console(128).print(table)
