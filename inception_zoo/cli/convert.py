"""`inception-zoo convert`: convert weights from one layout to another."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.cli.option_types import EMA, MEAN, SIZE, STD, TRANSFORM, TRUST, stated


def convert_weights(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Weight file, run folder, or a name such as timm:inception_v4.tf_in1k.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .safetensors, .pth, or .weights.h5 for Keras.")],
    to: Annotated[str, typer.Option(help="Layout of OUT: native, torchvision, timm, cadene, keras, fid or lucid.")] = "native",
    name: Annotated[str | None, typer.Option("--model", help="Network of the weights. Default: as IN says.")] = None,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    ema: EMA = None,
    transform_input: TRANSFORM = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    trust: TRUST = False,
) -> None:
    """Convert weights to another layout. Native .safetensors also store the network, its classes and its preprocessing."""
    from inception_zoo.serving.convert import check_target, convert

    check_target(target, to, overwrite)
    typer.echo(convert(source, target, to, name, stated(mean, std, image_size, ema, transform_input), trust))
