"""Decoding of image files to tensors, whole or in part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from inception_zoo.data.pictures import checked, is_plain_jpeg, open_picture, reduce_jpeg, upright, upright_size
from inception_zoo.errors import ZooError

MODES = {1: "L", 3: "RGB"}  # PIL's names, by number of channels


@dataclass(frozen=True)
class Part:
    """A part of an image: a box in pixels that is resized to `size` (height, width)."""

    top: int
    left: int
    height: int
    width: int
    size: Sequence[int]
    interpolation: InterpolationMode = InterpolationMode.BILINEAR
    antialias: bool = True

    def of(self, image: Tensor) -> Tensor:
        """Crop and resize an image.

        Args:
            image: uint8 (C, H, W).

        Returns:
            uint8 (C, *size).
        """
        box = self.top, self.left, self.height, self.width
        return T.resized_crop(image, *box, list(self.size), self.interpolation, self.antialias)

    def of_reduced(self, picture: Image.Image, scale: int) -> Image.Image:
        """Crop and resize an image that was decoded at a reduced scale.

        The mean difference to the pixels of `of` is 1 to 2 grey levels of 255 (parts of 48 to 150 px of scikit-learn's two
        photographs, bilinear and bicubic; 4 in the worst part). The brightness differs by 0.0.

        Args:
            picture: the image at 1/`scale` of the size that the box refers to.
            scale: 1, 2, 4 or 8.

        Returns:
            The part, with `size` pixels.
        """
        box = self.left, self.top, self.left + self.width, self.top + self.height
        left, top, right, bottom = (side / scale for side in box)
        return picture.resize(
            (self.size[1], self.size[0]), Image.Resampling[self.interpolation.name], (left, top, right, bottom)
        )

    @property
    def reduction(self) -> float:
        """Largest reduction in decoding that leaves at least `size` pixels in the box; 1 without antialiasing."""
        smooth = self.antialias and self.interpolation != InterpolationMode.NEAREST
        return min(self.height / self.size[0], self.width / self.size[1]) if smooth else 1


Draw = Callable[[int, int], Part]  # height and width of an image → the part to read
Read = Callable[..., Tensor]  # () → the image, uint8 (C, H, W); (draw) → the part that `draw` returns


def part_of(image: Tensor, draw: Draw | None = None) -> Tensor:
    """Read an image in memory in the same way as a file.

    Args:
        image: uint8 (C, H, W).
        draw: returns the part to read; None: the whole image.

    Returns:
        uint8 (C, H, W), or (C, *size) for a part.
    """
    return draw(*image.shape[-2:]).of(image) if draw else image


def read_image(path: Path, channels: int, draw: Draw | None = None) -> Tensor:
    """Decode an image file upright. Grey, palette, CMYK, alpha and 16 bits are converted.

    Args:
        path: of the file.
        channels: 1 (grey) or 3 (RGB).
        draw: returns the part to read; None: the whole image.

    Returns:
        uint8 (channels, H, W), or (channels, *size) for a part.

    Raises:
        ZooError: not an image, a corrupt one, or more than PIL's limit of about 89 million pixels.
    """
    return decode_image(path, channels, str(path), draw)


def decode_image(file: Path | BytesIO, channels: int, name: str, draw: Draw | None = None) -> Tensor:
    """Decode an image from a file or from bytes, as `read_image` does.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the part to read still has `size` pixels then.

    Args:
        file: path or bytes of the file.
        channels: 1 (grey) or 3 (RGB).
        name: of the image in error messages.
        draw: returns the part to read; None: the whole image.

    Returns:
        uint8 (channels, H, W), or (channels, *size) for a part.

    Raises:
        ZooError: see `read_image`.
    """
    if channels not in MODES:
        raise ZooError(f"the network reads {channels} channels; image files have 1 or 3")
    mode = MODES[channels]
    try:
        with checked(file) as image:
            part = draw(*upright_size(image)) if draw else None
            if part and (scale := reduce_jpeg(image, part.reduction)) > 1:
                return pixels_of(part.of_reduced(upright(image, mode), scale), channels)
            if not is_plain_jpeg(image, mode) or (pixels := _jpeg(cast(IO[bytes], image.fp), channels)) is None:
                pixels = pixels_of(upright(image, mode), channels)
    except ZooError as error:
        raise ZooError(f"{name}: {error}") from None
    return part.of(pixels) if part else pixels


def pixels_of(picture: Image.Image, channels: int) -> Tensor:
    """Return a decoded image as uint8 (channels, H, W)."""
    return torch.from_numpy(np.array(picture)).view(picture.height, picture.width, channels).permute(2, 0, 1)


def _jpeg(file: IO[bytes], channels: int) -> Tensor | None:
    """Decode a JPEG to the same pixels as PIL, in two thirds of the time.

    Return None if PIL has to decode the file or report its error. torchvision plans to leave decoding to other packages.
    Without its decoder, PIL decodes all images, only slower.
    """
    try:
        decode = torch.ops.image.decode_jpeg
        file.seek(0)
        encoded = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
        return decode(encoded, channels, False)  # 1: grey, 3: RGB
    except (AttributeError, RuntimeError):
        return None


def fault(path: Path) -> str | None:
    """Return the reason why `read_image` would reject a file, or None."""
    try:
        open_picture(path, "RGB", small=True)
    except ZooError as error:
        return str(error)
    return None
