"""`inception-zoo convert`: weights from one layout to another."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.cli.option_types import MEAN, SIZE, STD, TRUST, stated


def convert_weights(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="a file of weights, a run folder, or a name as timm:inception_v4.tf_in1k")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help=".safetensors, .pth, or .weights.h5 for Keras")],
    to: Annotated[str, typer.Option(help="native, torchvision, timm, cadene or keras")] = "native",
    name: Annotated[str | None, typer.Option("--model", help="the network, where the weights do not say it")] = None,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT if it is there")] = False,
    trust: TRUST = False,
) -> None:
    """Weights from one layout to another; native .safetensors carry the network, its classes and its preprocessing."""
    from inception_zoo.serving.convert import check_target, convert

    check_target(target, to, overwrite)
    print(convert(source, target, to, name, stated(mean, std, image_size), trust))
