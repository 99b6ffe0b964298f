"""Image files to pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

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
    """A part of a picture: a box of its pixels, resized to `size` (height, width)."""

    top: int
    left: int
    height: int
    width: int
    size: Sequence[int]
    interpolation: InterpolationMode = InterpolationMode.BILINEAR
    antialias: bool = True

    def of(self, image: Tensor) -> Tensor:
        """uint8 (C, H, W) → (C, height, width) of `size`."""
        box = self.top, self.left, self.height, self.width
        return T.resized_crop(image, *box, list(self.size), self.interpolation, self.antialias)

    def of_reduced(self, picture: Image.Image, scale: int) -> Image.Image:
        """The same, of a picture that was decoded `scale` times smaller than the box is counted in.

        Pixels differ from `of`'s by 1 to 2 grey levels of 255 in the mean (parts of 48 to 150 px of scikit-learn's two
        photographs, bilinear and bicubic; 4 in the worst part), and by 0.0 in brightness.
        """
        box = self.left, self.top, self.left + self.width, self.top + self.height
        left, top, right, bottom = (side / scale for side in box)
        return picture.resize(
            (self.size[1], self.size[0]), Image.Resampling[self.interpolation.name], (left, top, right, bottom)
        )

    @property
    def reduction(self) -> float:
        """The factor by which the picture may be decoded smaller, so that the box still has `size` pixels."""
        smooth = self.antialias and self.interpolation != InterpolationMode.NEAREST
        return min(self.height / self.size[0], self.width / self.size[1]) if smooth else 1


Draw = Callable[[int, int], Part]  # of a picture's height and width
Read = Callable[..., Tensor]  # () → a picture, uint8 (C, H, W); (draw) → the part of it that is drawn


def part_of(image: Tensor, draw: Draw | None = None) -> Tensor:
    """A picture in memory, read as a file is: whole, or in part."""
    return draw(*image.shape[-2:]).of(image) if draw else image


def read_image(path: Path, channels: int, draw: Draw | None = None) -> Tensor:
    """Pixels as uint8 (channels, H, W), upright; grey, palette, CMYK, alpha and 16 bits are converted.

    Raises:
        ZooError: no image, a damaged one, or more than PIL's limit of about 89 million pixels.
    """
    return decode_image(path, channels, str(path), draw)


def decode_image(file: Path | BytesIO, channels: int, name: str, draw: Draw | None = None) -> Tensor:
    """As `read_image`, of a file or of its bytes; `name` is what a message calls it.

    A JPEG is decoded at 1/2, 1/4 or 1/8 where the part that is drawn is larger than its `size` by that much.
    """
    if channels not in MODES:
        raise ZooError(f"the network reads {channels} channels; image files have 1 or 3")
    mode = MODES[channels]
    try:
        with checked(file) as image:
            part = draw(*upright_size(image)) if draw else None
            if part and (scale := reduce_jpeg(image, part.reduction)) > 1:
                return _pixels(part.of_reduced(upright(image, mode), scale), channels)
            if not is_plain_jpeg(image, mode) or (pixels := _jpeg(file, channels)) is None:
                pixels = _pixels(upright(image, mode), channels)
    except ZooError as error:
        raise ZooError(f"{name}: {error}") from None
    return part.of(pixels) if part else pixels


def _pixels(picture: Image.Image, channels: int) -> Tensor:
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
