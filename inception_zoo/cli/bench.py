"""`inception-zoo bench`: speed and memory on this machine."""

import signal
from pathlib import Path
from typing import Annotated

import typer


def bench_machine(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION | NETWORK]...", help="the usual sections, and all that have peers")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="timed turns of each contender, of which the median counts")] = 5,
    batch: Annotated[int | None, typer.Option(min=2, help="images; each network's own when left out")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="pixels; the usual input when left out")] = None,
    data_root: Annotated[Path, typer.Option(help="folder of Fashion-MNIST")] = Path("data"),
    keep: Annotated[Path | None, typer.Option("--json", help="keep the figures; those of these sections are replaced")] = None,
    compare: Annotated[Path | None, typer.Option(help="older figures, to show new over old")] = None,
    page: Annotated[bool, typer.Option("--page", help="README.md and pictures beside the figures")] = False,
    fit: Annotated[
        float | None, typer.Option(min=0.1, help="GiB: the largest batch of one network that trains in them")
    ] = None,
) -> None:
    """Speed and memory here, beside torchvision's, timm's and the tutorial's, in turns A B A B; and the project's targets.

    Sections: training, memory, choices, evaluation, framework, data, startup, scaling, roofline; and, where they are named,
    the times to an accuracy, a seed for each round: speedrun, speedrun_full, speedrun_937.
    """
    from inception_zoo.bench.sections import one_network, sorted_out

    if fit is not None:
        network = one_network(words or [], fit)
        from inception_zoo.bench.command import run_fit

        run_fit(network, fit, image_size, keep)
    else:
        sections, networks = sorted_out(words or [], sized=bool(batch or image_size))
        from inception_zoo.bench.command import run as run_bench
        from inception_zoo.bench.options import Options

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was measured is kept, no job goes on alone
        run_bench(sections, Options(rounds, tuple(networks), batch, image_size, data_root), keep, compare, page)
