"""Options that several commands share, and the preprocessing that they give."""

from typing import Annotated

import typer

from inception_zoo.architecture.preprocessing import Stated
from inception_zoo.errors import ZooError

MEAN = Annotated[str | None, typer.Option(help="Mean of pixels from 0 to 1, as 0.5,0.5,0.5. Default: the file's.")]
STD = Annotated[str | None, typer.Option(help="Standard deviation, as --mean. Default: the file's.")]
SIZE = Annotated[int | None, typer.Option(min=1, help="Pixels. Default: the file's, else the network's usual input.")]
TRUST = Annotated[bool, typer.Option("--trust", help="Import the block function that the file names; this runs its code.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON with exact figures instead of tables.")]


def stated(mean: str | None, std: str | None, image_size: int | None) -> Stated:
    """Return the preprocessing given by --mean, --std and --image-size."""
    return Stated(_numbers("--mean", mean), _numbers("--std", std), image_size)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ZooError(f"{option}={text} must be numbers separated by commas, such as 0.485,0.456,0.406") from None
