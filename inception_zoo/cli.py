"""The `inception-zoo` command."""

import sys

import typer
from rich.console import Console
from rich.table import Table

from inception_zoo.cost import plan_cost
from inception_zoo.nets import ZOO
from inception_zoo.plan import make_plan

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, compare and recombine the Inception family.")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train, test or sweep: what `python run.py` does in a checkout; `run --help` shows the keys.",
)
def run(context: typer.Context) -> None:
    from inception_zoo.app import main

    sys.argv = [sys.argv[0], *context.args]
    main()


@app.command("list")
def list_networks() -> None:
    """The zoo: what each network costs at its usual input, and the smallest input of its stems."""
    table = Table(title="1000 classes; multiply-adds at the usual input, without auxiliary heads")
    for column in ("network", "source", "top-1 / top-5 error", "parameters", "with aux", "multiply-adds", "px", "min px"):
        table.add_column(column, justify="left" if column in ("network", "source") else "right")
    for net in ZOO.values():
        bare = make_plan(net, aux=False)
        cost, with_aux = plan_cost(bare), plan_cost(make_plan(net)).params
        minimum = " / ".join(str(make_plan(net, stem=stem).min_image_size()) for stem in ("imagenet", "medium", "small"))
        table.add_row(
            net.name,
            net.source.split(";")[0],
            net.error,
            f"{cost.params:,}",
            f"{with_aux:,}" if net.aux else "–",
            f"{cost.macs / 1e9:.3f} G",
            str(net.image_size),
            minimum,
        )
    Console().print(table)
