"""Option types that several commands share, and the preprocessing that the user states with them."""

from typing import Annotated

import typer

from inception_zoo.architecture.preprocessing import Stated
from inception_zoo.errors import ZooError

MEAN = Annotated[str | None, typer.Option(help="of the pixels from 0 to 1, as 0.5,0.5,0.5, where the file does not say it")]
STD = Annotated[str | None, typer.Option(help="likewise")]
SIZE = Annotated[int | None, typer.Option(min=1, help="pixels; the file's, or the network's usual input, when left out")]
TRUST = Annotated[bool, typer.Option("--trust", help="import the block function of your own that the file names: it runs code")]
JSON = Annotated[bool, typer.Option("--json", help="machine-readable, every figure exact")]


def stated(mean: str | None, std: str | None, image_size: int | None) -> Stated:
    """Return the preprocessing given by --mean, --std and --image-size."""
    return Stated(_numbers("--mean", mean), _numbers("--std", std), image_size)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ZooError(f"{option}={text} must be numbers with commas between, such as 0.485,0.456,0.406") from None
