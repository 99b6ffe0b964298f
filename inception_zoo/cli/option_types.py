"""Options that several commands share, and the preprocessing that they give."""

from typing import Annotated

import typer

from inception_zoo.architecture.preprocessing import Stated
from inception_zoo.errors import ZooError

MEAN = Annotated[str | None, typer.Option(help="Mean of pixels from 0 to 1, as 0.5,0.5,0.5. Default: the file's.")]
STD = Annotated[str | None, typer.Option(help="Standard deviation, as --mean. Default: the file's.")]
SIZE = Annotated[int | None, typer.Option(min=1, help="Pixels. Default: the file's, else the network's usual input.")]
EMA = Annotated[
    bool | None, typer.Option("--ema/--no-ema", help="Averaged or raw weights of a file with both. Default: the file decides.")
]
TRANSFORM = Annotated[
    bool | None,
    typer.Option(
        "--transform-input/--no-transform-input",
        help="Was the torchvision network of the file built with transform_input? Default: the file decides.",
    ),
]
TRUST = Annotated[bool, typer.Option("--trust", help="Import the block function that the file names; this runs its code.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON with exact figures instead of tables.")]


def stated(mean: str | None, std: str | None, image_size: int | None, ema: bool | None, transform_input: bool | None) -> Stated:
    """Return what the user states about a file."""
    return Stated(_numbers("--mean", mean), _numbers("--std", std), image_size, ema, transform_input)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ZooError(f"{option}={text} must be numbers separated by commas, such as 0.485,0.456,0.406") from None
