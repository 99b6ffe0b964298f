"""The `inception-zoo` command."""

import sys
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from inception_zoo.choices import VALID
from inception_zoo.cost import plan_cost
from inception_zoo.errors import ZooError, fail
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


@app.command("bench")
def bench_networks(
    names: Annotated[list[str] | None, typer.Argument(help="networks; all that have a peer when left out")] = None,
    batch: Annotated[int, typer.Option(min=1)] = 8,
    image_size: Annotated[int | None, typer.Option(min=1, help="pixels; the usual input when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="timed turns of each contender")] = 5,
) -> None:
    """Images per second here, beside torchvision's and timm's: fp32, medians of turns taken A B A B."""
    import torch

    from inception_zoo.bench import PEERS, bench

    Console().print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, fp32, batch {batch}, {rounds} rounds")
    for name in names or PEERS:
        results = list(bench(name, batch, image_size, rounds))
        ours = {result.phase: result.median for result in results if result.contender == "inception_zoo"}
        table = Table(box=box.SIMPLE_HEAD, title=name, title_justify="left", pad_edge=False)
        for column in ("phase", "contender", "images/s", "spread", "ours is times as fast"):
            table.add_column(column, justify="left" if column in ("phase", "contender") else "right", no_wrap=True)
        for result in results:
            spread = f"{min(result.rates):.1f}–{max(result.rates):.1f}"
            ratio = f"{ours[result.phase] / result.median:.2f}"
            table.add_row(result.phase, result.contender, f"{result.median:.1f}", spread, ratio)
        Console().print(table)


def main() -> None:
    """The console script: a user's mistake ends in one line and exit status 2."""
    try:
        app()
    except ZooError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
