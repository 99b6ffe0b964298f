"""The `inception-zoo` command."""

import sys

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from inception_zoo.choices import VALID
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
    caption = (
        "error: published top-1 / top-5, ImageNet, single crop. Parameters for 1000 classes, without and with auxiliary "
        "heads. Multiply-adds at px, the usual input. min px: with stem=imagenet / medium / small."
    )
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", pad_edge=False)
    for column in ("network", "error, %", "params, M", "+ aux, M", "mult-adds, G", "px", "min px"):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for net in ZOO.values():
        cost, with_aux = plan_cost(make_plan(net, aux=False)), plan_cost(make_plan(net)).params
        table.add_row(
            net.name,
            net.error,
            f"{cost.params / 1e6:.2f}",
            f"{with_aux / 1e6:.2f}" if net.aux else "–",
            f"{cost.macs / 1e9:.2f}",
            str(net.image_size),
            "/".join(str(make_plan(net, stem=stem).min_image_size()) for stem in VALID["stem"]),
        )
    Console(width=max(Console().width, 100)).print(table)
