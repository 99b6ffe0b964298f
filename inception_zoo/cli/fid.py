"""`inception-zoo fid`: score images against other images."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.cli.option_types import EMA, JSON, MEAN, SIZE, STD, TRANSFORM, TRUST, stated
from inception_zoo.system.terminal import tell, tell_json

SETS = "Folder, .npz with statistics, or a data set as 'data=fashion_mnist split=test'."


def score_images(
    images: Annotated[str, typer.Argument(help=f"Images to score. {SETS}")],
    reference: Annotated[str | None, typer.Argument(help="Images to compare with, in the same forms.")] = None,
    weights: Annotated[str | None, typer.Option(help="File of FID's network, or a network of your own.")] = None,
    like: Annotated[
        str | None,
        typer.Option(help="Resize and scale as pytorch-fid (default), torch-fidelity or clean-fid; for FID's network."),
    ] = None,
    layer: Annotated[str, typer.Option(help="pool, or an endpoint: its feature maps, averaged over the grid.")] = "pool",
    metrics: Annotated[
        str | None,
        typer.Option(help="Any of fid, kid, is, precision and recall, with commas. Default: fid if REFERENCE is given."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write: the statistics of IMAGES, as .npz.")] = None,
    subsets: Annotated[int | None, typer.Option(min=1, help="Number of KID's subsets. Default: 100.")] = None,
    subset_size: Annotated[int | None, typer.Option(min=2, help="Images in each of KID's subsets. Default: 1000.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of kid and is. Default: 2020, torch-fidelity's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 32,
    as_json: JSON = False,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    ema: EMA = None,
    transform_input: TRANSFORM = None,
    trust: TRUST = False,
) -> None:
    """Compute FID, KID, Inception Score, precision and recall. Without REFERENCE: the Inception Score, or statistics."""
    from dataclasses import asdict

    from inception_zoo.serving.fid import Subsets, score

    given = {name: value for name, value in {"number": subsets, "size": subset_size}.items() if value is not None}
    found = score(
        images,
        reference,
        weights=weights,
        like=like,
        layer=layer,
        metrics=metrics.split(",") if metrics else None,
        output=output,
        subsets=Subsets(**given) if given else None,
        seed=seed,
        batch_size=batch_size,
        trust=trust,
        stated=stated(mean, std, image_size, ema, transform_input),
    )
    if output:
        tell(f"statistics: {output}")
    if as_json:
        tell_json(asdict(found))
    for line in [] if as_json else found.lines():
        tell(line, stdout=True)
