"""`inception-zoo data`: show training images, and pack data sets for streaming."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.system.terminal import tell

app = typer.Typer(no_args_is_help=True, help="Show the images that training reads; pack a data set for streaming.")


@app.command("show")
def show_data(
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, as for `run.py`.")] = None,
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .jpg, .svg or .pdf.")] = Path("data.png"),
    images: Annotated[int, typer.Option(min=1, help="Number of images, one per row.")] = 8,
    draws: Annotated[int, typer.Option(min=1, help="Augmented versions of each image, one per column.")] = 7,
) -> None:
    """Draw training images and their augmented versions. Example: `data show data=cifar10 augmentation=randaugment`."""
    from inception_zoo.config.check import check_data
    from inception_zoo.config.composed import composed

    with composed(words or []) as cfg:
        check_data(cfg["data"])
        from inception_zoo.data.show import contact_sheet
        from inception_zoo.training.components import build_data

        contact_sheet(build_data(cfg), out, images, draws)
    tell(f"picture: {out}")


@app.command("optimize")
def optimize_data(
    folder: Annotated[Path, typer.Argument(help="Images in train/CLASS and val/CLASS (needed), or ImageNet's folders.")],
    out: Annotated[Path, typer.Argument(help="New or empty folder for the chunks; it may be copied to an object store.")],
    chunk_size: Annotated[str, typer.Option(help="Size of a chunk in KB, MB or GB.")] = "64MB",
    workers: Annotated[int, typer.Option(min=1, help="Threads that read files.")] = 8,
) -> None:
    """Pack a folder of images into chunks. `data=stream data.root=OUT` reads them in order, from a disk or object store."""
    from inception_zoo.data.imagefolder import imagefolder
    from inception_zoo.data.imagenet import imagenet, is_imagenet
    from inception_zoo.data.inspection import treat_bad
    from inception_zoo.data.optimize import optimize_folder

    source = (imagenet if is_imagenet(folder) else imagefolder)(str(folder))
    treat_bad(source, "error", str(folder))
    optimize_folder(source, out, chunk_size, workers)
    tell(f"chunks: {out}; train on them with: python run.py data=stream data.root={out}")
