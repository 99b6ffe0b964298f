"""Image files to pixels."""

import warnings
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
    if channels not in MODES:
        raise ZooError(f"the network reads {channels} channels; image files have 1 or 3")
    try:
        with Image.open(path) as image:
            if max(image.size) > OBLONG * min(image.size):
                raise ZooError(f"one side is more than {OBLONG} times the other")
            upright = _eight_bits(ImageOps.exif_transpose(image)).convert(MODES[channels])
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ZooError(f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except FileNotFoundError:
        raise ZooError(f"{path}: no such file") from None
    except Exception as error:  # PIL's decoders raise many kinds
        reason = "is empty" if path.is_file() and not path.stat().st_size else "damaged, or no image"
        raise ZooError(f"{path}: {reason} ({type(error).__name__})") from None
    return torch.from_numpy(np.array(upright)).view(upright.height, upright.width, channels).permute(2, 0, 1)


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
