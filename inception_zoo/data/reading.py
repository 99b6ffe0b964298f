"""Image files to pixels."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inception_zoo.errors import ZooError
from inception_zoo.pictures import open_picture

MODES = {1: "L", 3: "RGB"}  # PIL's names, by number of channels


def read_image(path: Path, channels: int) -> Tensor:
    """Pixels as uint8 (channels, H, W), upright; grey, palette, CMYK, alpha and 16 bits are converted.

    Raises:
        ZooError: no image, a damaged one, or more than PIL's limit of about 89 million pixels.
    """
    return decode_image(path, channels, str(path))


def decode_image(file: Path | BytesIO, channels: int, name: str) -> Tensor:
    """As `read_image`, of a file or of its bytes; `name` is what a message calls it."""
    if channels not in MODES:
        raise ZooError(f"the network reads {channels} channels; image files have 1 or 3")
    try:
        picture = open_picture(file, MODES[channels])
    except ZooError as error:
        raise ZooError(f"{name}: {error}") from None
    return torch.from_numpy(np.array(picture)).view(picture.height, picture.width, channels).permute(2, 0, 1)


def fault(path: Path) -> str | None:
    """Why `read_image` would refuse a file; None if it would not."""
    try:
        open_picture(path, "RGB", small=True)
    except ZooError as error:
        return str(error)
    return None
