"""`inception-zoo convert`: convert weights from one layout to another, or for the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.cli.option_types import EMA, MEAN, SIZE, STD, TRANSFORM, TRUST, stated

LAYOUTS = "native, torchvision, timm, cadene, keras, fid, lucid or facenet; or hub: a folder for the Hugging Face Hub"


def convert_weights(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Weight file, run folder, or a name: timm:inception_v4.tf_in1k, hf:owner/name.")
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="File to write: .safetensors, .pth, or .weights.h5 for Keras; a folder for the Hub."
        ),
    ],
    to: Annotated[str, typer.Option(help=f"Layout of OUT: {LAYOUTS}.")] = "native",
    name: Annotated[str | None, typer.Option("--model", help="Network of the weights. Default: as IN says.")] = None,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    ema: EMA = None,
    transform_input: TRANSFORM = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights for the Hub, such as mit.")] = None,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload the folder to the Hub.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository of --push as private.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    trust: TRUST = False,
) -> None:
    """Convert weights to another layout. Native .safetensors also store the network, its classes and its preprocessing."""
    from inception_zoo.serving.convert import check_hub, check_target, convert

    check_hub(to, push, licence, private, overwrite)
    check_target(target, to, overwrite)
    preprocessing = stated(mean, std, image_size, ema, transform_input)
    typer.echo(convert(source, target, to, name, preprocessing, trust, licence, push))
    if push:
        from inception_zoo.weights.hub import push_folder

        typer.echo(push_folder(target, push, private))
