"""Image files to pixels."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from inception_zoo.errors import ZooError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
MODES = {1: "L", 3: "RGB"}  # PIL's names, by number of channels
OBLONG = 100  # longer over shorter side; beyond it, resizing the shorter side would fill the memory

warnings.simplefilter("error", Image.DecompressionBombWarning)  # once: threads must not change the filters under each other


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
        upright = _upright(file, MODES[channels])
    except ZooError as error:
        raise ZooError(f"{name}: {error}") from None
    return torch.from_numpy(np.array(upright)).view(upright.height, upright.width, channels).permute(2, 0, 1)


def fault(path: Path) -> str | None:
    """Why `read_image` would refuse a file; None if it would not."""
    try:
        _upright(path, "RGB", small=True)
    except ZooError as error:
        return str(error)
    return None


def _upright(file: Path | BytesIO, mode: str, small: bool = False) -> Image.Image:
    """The picture in `mode`. A small JPEG has an eighth of the sides: all of it is still read, in a third of the time."""
    try:
        with Image.open(file) as image:
            if max(image.size) > OBLONG * min(image.size):
                raise ZooError(f"one side is more than {OBLONG} times the other")
            if small:
                image.draft(None, (1, 1))
            return _eight_bits(ImageOps.exif_transpose(image)).convert(mode)
    except ZooError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ZooError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except FileNotFoundError:
        raise ZooError("no such file") from None
    except Exception as error:  # PIL's decoders raise many kinds
        reason = "is empty" if _is_empty(file) else "damaged, or no image"
        raise ZooError(f"{reason} ({type(error).__name__})") from None


def _is_empty(file: Path | BytesIO) -> bool:
    return not file.getbuffer().nbytes if isinstance(file, BytesIO) else file.is_file() and not file.stat().st_size


def _eight_bits(image: Image.Image) -> Image.Image:
    """16 bits scaled to 8, where PIL would cut them off; transparency over white, as a page shows it."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ZooError("floating-point pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        return page
    return image
