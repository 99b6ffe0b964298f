"""`inception-zoo data`: see what training sees, and pack data sets."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="See what training sees; pack a data set for streaming.")


@app.command("show")
def show_data(
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="keys as for `run.py`")] = None,
    out: Annotated[Path, typer.Option(help="the picture: .png, .jpg, .svg, .pdf")] = Path("data.png"),
    images: Annotated[int, typer.Option(min=1, help="rows, one for each image")] = 8,
    draws: Annotated[int, typer.Option(min=1, help="columns, one for each augmentation of it")] = 7,
) -> None:
    """Draw augmented training images beside their originals: `data show data=cifar10 augmentation=randaugment`."""
    from inception_zoo.config.check import check_data
    from inception_zoo.config.composed import composed

    with composed(words or []) as cfg:
        check_data(cfg["data"])
        from inception_zoo.data.show import contact_sheet
        from inception_zoo.training.job import build_data

        contact_sheet(build_data(cfg), out, images, draws)
    print(f"picture: {out}", file=sys.stderr)


@app.command("optimize")
def optimize_data(
    folder: Annotated[Path, typer.Argument(help="images: train/CLASS/*, val/CLASS/*; ImageNet's too")],
    out: Annotated[Path, typer.Argument(help="an empty or new folder for the chunks; copy it to an object store if you like")],
    chunk_size: Annotated[str, typer.Option(help="of each chunk, with KB, MB or GB")] = "64MB",
    workers: Annotated[int, typer.Option(min=1, help="threads that read files")] = 8,
) -> None:
    """Pack a folder of images into chunks that `data=stream data.root=OUT` reads in order, from a disk or an object store."""
    from inception_zoo.data.imagefolder import imagefolder
    from inception_zoo.data.imagenet import imagenet, is_imagenet
    from inception_zoo.data.optimize import optimize_folder

    source = imagenet if is_imagenet(folder) else imagefolder
    optimize_folder(source(str(folder)), out, chunk_size, workers)
    print(f"chunks: {out}; train on them with: python run.py data=stream data.root={out}", file=sys.stderr)
