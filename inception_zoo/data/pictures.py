"""Decoding of image files, which may be untrusted. Does not import torch."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import SEEK_END, BytesIO
from math import ceil, inf
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from inception_zoo.errors import ZooError
from inception_zoo.system.regular_files import opened

# All of Pillow's formats for pictures, but not EPS, whose decoder starts Ghostscript, and not icons, which may contain an image
# of another size than their header says. Common ones come first; AVIF comes last, because Pillow before 11.3 does not know it.
COMMON = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
SIGNED = (*COMMON, "JPEG2000", "PSD", "DDS", "PCX", "SGI", "QOI", "SUN", "XBM", "XPM")
FORMATS = (*SIGNED, "DIB", "TGA", "AVIF")  # DIB and TGA have no signature: other files may look like them
USUAL = "jpg jpeg jpe jfif mpo png bmp dib gif webp tif tiff ppm pgm pbm pnm jp2 tga icb vda avif"
SUFFIXES = tuple(f".{suffix}" for suffix in USUAL.split())
OBLONG = 100  # largest ratio of the sides; beyond it, resizing the shorter side could fill the memory
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
BYTES = 2**30  # largest file: twice the bytes of an image with 16 bits at PIL's limit of pixels


def is_picture(path: str) -> bool:
    """Return True for an image file: one with a usual suffix, even if it is damaged, or otherwise one with such content.

    The suffix must be absent then, or be one of the format in the file. Copies (`a.jpg~`, `a.jpg.bak`), files of cameras that
    begin like a TIFF (`a.nef`) and texts that begin like a PPM are not images.

    A look at the content takes 0.1 ms for a file on a local disk: 20,000 files took 1.7 s, and 0.02 s with a suffix.
    """
    if path.lower().endswith(SUFFIXES):
        return True
    suffix = Path(path).suffix.lower()
    of_suffix = Image.registered_extensions().get(suffix)
    try:
        formats = [kind for kind in (*SIGNED, "AVIF") if not suffix or kind == of_suffix]
        with opened(path) as file, Image.open(file, formats=formats):
            return True
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except Exception:  # Pillow's parsers raise many types
        return False


def open_picture(file: Path | BytesIO, mode: str, small: bool = False) -> Image.Image:
    """Decode the first image of a file upright, in PIL's `mode`: the first frame of an animation, the first of several pages.

    16 bits are scaled to 8. Transparent images are placed on white.

    Args:
        file: path or bytes of the file.
        mode: `L` or `RGB`.
        small: decode a JPEG at an eighth of its sides. The whole file is still read, in a third of the time.

    Returns:
        The decoded image.

    Raises:
        ZooError: the file cannot be read. The message has the reason without the file's name.
    """
    with checked(file) as image:
        if small:
            image.draft(None, (1, 1))
        return upright(image, mode)


@contextmanager
def checked(file: Path | BytesIO) -> Iterator[ImageFile.ImageFile]:
    """Open an image file after checks of its header. Decode it inside of the `with` block.

    Args:
        file: path or bytes of the file.

    Yields:
        The open image, not decoded yet.

    Raises:
        ZooError: the checks or the decoding failed. The message has the reason without the file's name.
    """
    try:
        given = opened(file) if isinstance(file, Path) else nullcontext(file)
        with given as source, Image.open(_sized(source), formats=FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or inf):  # PIL itself only warns at this size
                raise Image.DecompressionBombError
            if max(image.size) > OBLONG * min(image.size):
                raise ZooError(f"one side is more than {OBLONG} times the other")
            yield image
    except ZooError as error:
        raise ZooError(str(error).removeprefix(f"{file} ")) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter under `python -W error`
        raise ZooError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except FileNotFoundError:
        raise ZooError("no such file") from None
    except Exception as error:  # PIL's decoders raise many types
        raise ZooError(f"not a valid image, or corrupt ({type(error).__name__})") from None


def upright(image: Image.Image, mode: str) -> Image.Image:
    """Decode an open image, and rotate it as its EXIF orientation requires."""
    ImageOps.exif_transpose(image, in_place=True)
    image.load()
    pixels = _eight_bits(image)
    return pixels if pixels.mode == mode else pixels.convert(mode)  # `convert` copies even if the mode is the same


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width that an open image has after `upright`."""
    return image.size if _orientation(image) in SIDEWAYS else (image.height, image.width)


def is_plain_jpeg(image: Image.Image, mode: str) -> bool:
    """Return True if every JPEG decoder gives the same pixels as `upright`."""
    return image.format == "JPEG" and image.mode == mode and _orientation(image) == 1


def reduce_jpeg(image: Image.Image, times: float) -> int:
    """Set the scale for decoding an open JPEG: the smallest of 1/1, 1/2, 1/4 and 1/8 that is at least 1/`times`.

    Args:
        image: an open image that is not decoded yet.
        times: the largest allowed reduction.

    Returns:
        The denominator of the scale. It is 1 for other formats, and where a reduction would shift the rotated image.
    """
    width, height = image.size
    # The last pixels of a reduced image may cover fewer pixels than the others. After a rotation they could come first.
    if times < 2 or (_orientation(image) != 1 and (width % 8 or height % 8)):
        return 1
    drafted = image.draft(None, (ceil(width / times), ceil(height / times)))  # None: not a JPEG
    return round(width / drafted[1][2]) if drafted else 1


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _sized(file: IO[bytes]) -> IO[bytes]:
    """Return a file unless it is empty or too large."""
    size = file.seek(0, SEEK_END)
    if not 0 < size <= BYTES:
        raise ZooError(f"larger than {BYTES // 2**20:,} MiB" if size else "is empty")
    file.seek(0)
    return file


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits to 8, which PIL would clip; place transparent images on white, like a web page."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ZooError("floating-point pixels have no known range; convert the image to 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        return page
    return image
