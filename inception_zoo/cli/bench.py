"""`inception-zoo bench`: speed and memory on this machine."""

from pathlib import Path
from typing import Annotated

import typer


def bench_machine(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION | NETWORK]...", help="Default: usual sections, networks with peers.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; each figure is their median.")] = 5,
    batch: Annotated[int | None, typer.Option(min=2, help="Images per batch. Default: each network's own.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Pixels. Default: each network's usual input.")] = None,
    data_root: Annotated[Path, typer.Option(help="Folder of Fashion-MNIST.")] = Path("data"),
    keep: Annotated[Path | None, typer.Option("--json", help="Results file to create or update. Default: none.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Older results file, or a folder of them: compare our ratios to the peers.")
    ] = None,
    fit: Annotated[
        float | None, typer.Option(min=0.1, help="Memory in GiB: only find one network's largest training batch.")
    ] = None,
) -> None:
    """Measure speed and memory on this machine, compare with torchvision, timm and the tutorial, and check the targets.

    Contenders are measured in interleaved rounds. Usual sections: training, memory, choices, evaluation, framework, data,
    startup, scaling, roofline. Sections that run only if named: profile, where a training step goes; serving, beside other
    runtimes; fid; and the time to an accuracy with one seed per round: speedrun, speedrun_full, speedrun_937.
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

        run_bench(sections, Options(rounds, tuple(networks), batch, image_size, data_root), keep, compare)
