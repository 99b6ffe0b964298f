"""`inception-zoo features`: write the features of images to a file."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.cli.option_types import EMA, MEAN, SIZE, STD, TRANSFORM, TRUST, stated
from inception_zoo.system.terminal import tell


def extract_features(
    network: Annotated[str, typer.Argument(metavar="WEIGHTS", help="Checkpoint, run folder, .safetensors, .pth or .h5.")],
    images: Annotated[list[str], typer.Argument(help="Files, folders, patterns or tables; - reads paths from standard input.")],
    output: Annotated[Path, typer.Option(help="File to write: .npy, .safetensors or .parquet.")],
    layer: Annotated[str, typer.Option(help="pool, embedding, or an endpoint: its maps, averaged over the grid.")] = "pool",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 32,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the images.")] = 1,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    ema: EMA = None,
    transform_input: TRANSFORM = None,
    trust: TRUST = False,
) -> None:
    """Write the features of images, one row for each, in the order of the input."""
    from inception_zoo.serving import features
    from inception_zoo.serving.images import find_images
    from inception_zoo.system.atomic_files import check_file

    features.check_output(output)
    check_file(f"--output {output}", output)
    preprocessing = stated(mean, std, image_size, ema, transform_input)
    paths = find_images(images)
    found = features.extract(network, paths, layer, batch_size, processes, trust, preprocessing)
    features.write(output, found, paths)
    tell(f"{output}: {len(found)} images, {found.shape[1]} features each, float32", stdout=True)
