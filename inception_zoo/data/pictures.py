"""Image files, which strangers may have made, to pictures in memory. Needs no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import ceil, inf
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from inception_zoo.errors import ZooError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # PIL has decoders of more, one of which starts Ghostscript
OBLONG = 100  # longer over shorter side; beyond it, resizing the shorter side would fill the memory
SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations that swap the sides
BYTES = 2**30  # of a file; twice what PIL's limit of pixels makes in 16 bits


def open_picture(file: Path | BytesIO, mode: str, small: bool = False) -> Image.Image:
    """The first picture of a file, upright, in PIL's `mode`; 16 bits are scaled to 8, transparency lies over white.

    Args:
        file: its path, or its bytes.
        mode: `L` or `RGB`.
        small: of a JPEG an eighth of the sides is enough: all of it is still read, in a third of the time.

    Raises:
        ZooError: why it cannot be read, without its name.
    """
    with checked(file) as image:
        if small:
            image.draft(None, (1, 1))
        return upright(image, mode)


@contextmanager
def checked(file: Path | BytesIO) -> Iterator[Image.Image]:
    """An image file whose header says nothing bad, to be decoded within; ZooError, as `open_picture`'s, if it cannot be."""
    try:
        if _bytes(file) > BYTES:
            raise ZooError(f"larger than {BYTES // 2**20:,} MiB")
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or inf):  # where PIL only warns
                raise Image.DecompressionBombError
            if max(image.size) > OBLONG * min(image.size):
                raise ZooError(f"one side is more than {OBLONG} times the other")
            yield image
    except ZooError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter under `python -W error`
        raise ZooError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except FileNotFoundError:
        raise ZooError("no such file") from None
    except Exception as error:  # PIL's decoders raise many kinds
        reason = "damaged, or no image" if _bytes(file) else "is empty"
        raise ZooError(f"{reason} ({type(error).__name__})") from None


def upright(image: Image.Image, mode: str) -> Image.Image:
    """Decode an open image, as the camera was held."""
    ImageOps.exif_transpose(image, in_place=True)
    image.load()
    pixels = _eight_bits(image)
    return pixels if pixels.mode == mode else pixels.convert(mode)  # which copies in any case


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width that `upright` will give an open image."""
    return image.size if _orientation(image) in SIDEWAYS else (image.height, image.width)


def is_plain_jpeg(image: Image.Image, mode: str) -> bool:
    """Return True if every JPEG decoder gives the same pixels as `upright`."""
    return image.format == "JPEG" and image.mode == mode and _orientation(image) == 1


def reduce_jpeg(image: Image.Image, times: float) -> int:
    """Have an open JPEG decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 that is at least 1/`times`; what is below the line."""
    width, height = image.size
    # The smaller picture's last pixels may be of fewer than the others; turned, it would begin with them.
    if times < 2 or (_orientation(image) != 1 and (width % 8 or height % 8)):
        return 1
    drafted = image.draft(None, (ceil(width / times), ceil(height / times)))  # None: no JPEG
    return round(width / drafted[1][2]) if drafted else 1


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _bytes(file: Path | BytesIO) -> int:
    """Return the number of bytes to read; 1 for anything that is not a file, such as a folder."""
    return file.getbuffer().nbytes if isinstance(file, BytesIO) else file.stat().st_size if file.is_file() else 1


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
