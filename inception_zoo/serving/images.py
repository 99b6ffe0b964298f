"""Images from files to what a network reads."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from inception_zoo.data.pixels import normalize
from inception_zoo.errors import ZooError
from inception_zoo.preprocessing import Preprocessing

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
MODES = {1: "L", 3: "RGB"}  # PIL's names, by number of channels
OBLONG = 100  # longer over shorter side; beyond it, resizing the shorter side would fill the memory

warnings.simplefilter("error", Image.DecompressionBombWarning)  # once: threads must not change the filters under each other


def find_images(words: Sequence[str]) -> list[Path]:
    """The files that words name: a file, a folder with all images below it, a glob; `-` reads paths from standard input.

    Raises:
        ZooError: names the word that matches nothing.
    """
    found = [path for word in words for path in _expand(word)]
    if not found:
        raise ZooError("no image was given")
    return found


def _expand(word: str) -> list[Path]:
    if word == "-":
        return [Path(line.strip()) for line in sys.stdin if line.strip()]
    path = Path(word)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(_below(path))
        if not found:
            raise ZooError(f"{word}: there is no image in this folder; known are {', '.join(sorted(SUFFIXES))}")
        return found
    start = Path(path.anchor or ".")
    if found := sorted(file for file in start.glob(str(path.relative_to(start))) if file.is_file()):
        return found
    raise ZooError(f"{word}: no such file, folder or pattern")


def _below(folder: Path) -> Iterator[Path]:
    """Every image below a folder; what begins with a dot is left out."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            yield path


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


def prepare(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """One image, uint8 (C, H, W) → (C, S, S) as the network reads it: resized, cropped at the centre, normalized."""
    size = [preprocessing.image_size] * 2
    return normalize(T.center_crop(resize_shorter(image, preprocessing.resize, preprocessing), size), preprocessing)


def resize_shorter(image: Tensor, size: int, preprocessing: Preprocessing) -> Tensor:
    """The shorter side at `size` pixels, the longer in proportion."""
    if min(image.shape[-2:]) == size:
        return image
    return T.resize(image, [size], InterpolationMode(preprocessing.interpolation), antialias=True)
