"""Image files to pixels."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inception_zoo.errors import ZooError
from inception_zoo.pictures import checked, is_plain_jpeg, open_picture, upright

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
        with checked(file) as image:
            if is_plain_jpeg(image, MODES[channels]) and (pixels := _jpeg(file, channels)) is not None:
                return pixels
            picture = upright(image, MODES[channels])
    except ZooError as error:
        raise ZooError(f"{name}: {error}") from None
    return torch.from_numpy(np.array(picture)).view(picture.height, picture.width, channels).permute(2, 0, 1)


def _jpeg(file: Path | BytesIO, channels: int) -> Tensor | None:
    """The pixels that PIL gives, in two thirds of its time; None where PIL is to say what they are, or what is wrong.

    torchvision means to leave decoding to others. Without its decoder all is as it was, but slower.
    """
    try:
        decode = torch.ops.image.decode_jpeg
        encoded = BytesIO(file.read_bytes()) if isinstance(file, Path) else file
        return decode(torch.frombuffer(encoded.getbuffer(), dtype=torch.uint8), channels, False)  # 1: grey, 3: RGB
    except (AttributeError, RuntimeError):
        return None


def fault(path: Path) -> str | None:
    """Why `read_image` would refuse a file; None if it would not."""
    try:
        open_picture(path, "RGB", small=True)
    except ZooError as error:
        return str(error)
    return None
