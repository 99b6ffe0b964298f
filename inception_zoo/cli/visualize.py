"""`inception-zoo visualize`: images that excite a channel most."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.cli.option_types import EMA, MEAN, SIZE, STD, TRANSFORM, TRUST, stated
from inception_zoo.system.terminal import tell

TARGET = "Channel inception_4c:25, of a branch inception_4c/1:3, at a position inception_4c:7@3,3, or a sheet: inception_4c."


def visualize_features(
    network: Annotated[str, typer.Argument(metavar="WEIGHTS", help="Checkpoint, run folder, .safetensors, .pth or .h5.")],
    target: Annotated[str, typer.Argument(help=TARGET)],
    output: Annotated[Path, typer.Option(help="Picture to write: .png, .jpg, .svg or .pdf.")] = Path("visualize.png"),
    dataset: Annotated[str | None, typer.Option(help="Folder of images; those that excite the target most are added.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Images of the folder for each target. Default: 5.")] = None,
    channels: Annotated[int | None, typer.Option(min=1, help="Channels of each branch on a sheet. Default: 12.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of gradient ascent.")] = 256,
    rate: Annotated[float, typer.Option(min=0.0, help="Learning rate of the ascent.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first image and of the random views.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that are optimized at a time.")] = 16,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    ema: EMA = None,
    transform_input: TRANSFORM = None,
    trust: TRUST = False,
) -> None:
    """Find images that excite a channel, a neuron, a branch's channel or a direction most (feature visualization)."""
    from inception_zoo.interpret.visualization import Ascent
    from inception_zoo.serving.visualize import visualize_file

    ascent = Ascent(steps, rate, seed, batch_size)
    known = stated(mean, std, image_size, ema, transform_input)
    for line in visualize_file(network, target, output, ascent, dataset, top, channels, trust, known):
        tell(line, stdout=True)
