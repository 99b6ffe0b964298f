"""Images to score: how each library resizes them for FID's network, and where they come from."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data.pictures import checked
from inception_zoo.data.pixels import prepare
from inception_zoo.data.reading import pixels_of, read_image
from inception_zoo.data.source import Files, Images
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.serving.images import find_images

SIZE = 299  # side of the input of FID's network, pixels


def pytorch_fid(image: Tensor) -> Tensor:
    """Resize with `torch.nn.functional.interpolate` (bilinear, no antialiasing), then scale by ``2x - 1``."""
    return 2 * F.interpolate(image[None] / 255, (SIZE, SIZE), mode="bilinear", align_corners=False)[0] - 1


def torch_fidelity(image: Tensor) -> Tensor:
    """Resize as TensorFlow 1 does (bilinear, pixels at their corners, no antialiasing), then scale by ``(x - 128) / 128``."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return (interpolate_bilinear_2d_like_tensorflow1x(image[None].float(), (SIZE, SIZE), align_corners=False)[0] - 128) / 128


def clean_fid(image: Tensor) -> Tensor:
    """Resize with PIL (bicubic, antialiased, in float and not rounded), then scale by ``(x - 128) / 128``."""
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in image]
    resized = [np.asarray(channel.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for channel in channels]
    return (torch.from_numpy(np.stack(resized).clip(0, 255)) - 128) / 128


# uint8 (3, H, W) → float32 (3, 299, 299), the input of FID's network
LIKE: dict[str, Callable[[Tensor], Tensor]] = {
    "pytorch-fid": pytorch_fid,
    "torch-fidelity": torch_fidelity,
    "clean-fid": clean_fid,
}


@dataclass(frozen=True)
class Pictures:
    """Images that are read when they are needed."""

    number: int
    read: Callable[[int], Tensor]  # index → float32 (C, S, S), the input of the network

    def __len__(self) -> int:
        return self.number


@dataclass(frozen=True)
class Reader:
    """The way in which a network reads images.

    Attributes:
        name: Name of the mode.
        channels: Number of image channels of the network.
        decode: Image file → uint8 (channels, H, W).
        prepare: uint8 (channels, H, W) → float32 (channels, S, S), the input of the network.
        preprocessing: The network's own, if it is used.
    """

    name: str
    channels: int
    decode: Callable[[Path], Tensor]
    prepare: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing | None = None

    def pictures(self, source: str | Path | Tensor) -> Pictures:
        """Return the images of a folder, of a data set (see `score`), or of a tensor, uint8 (N, C, H, W).

        Raises:
            ZooError: There are none, or they do not fit the network.
        """
        if isinstance(source, Tensor):
            return self._in_memory(source)
        if any(word.startswith("data=") for word in str(source).split(" ")):
            split = _split_of(str(source))
            if isinstance(split, Images):
                return self._in_memory(split.images)
            paths = [split.root / str(path) for path in split.paths]
        else:
            paths = find_images([str(source)])
        return Pictures(len(paths), lambda row: self.prepare(self.decode(paths[row])))

    def _in_memory(self, images: Tensor) -> Pictures:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, self.channels):
            given = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
            grey = ", or grey ones (N, 1, H, W)" if self.channels != 1 else ""
            raise ZooError(f"images are {given}; the network reads uint8 (N, {self.channels}, H, W){grey}")
        return Pictures(len(images), lambda row: self.prepare(images[row].expand(self.channels, -1, -1)))


def reader_like(library: str) -> Reader:
    """Return the reader of a library of `LIKE`, for FID's network."""
    return Reader(library, 3, _decode, LIKE[library])


def own_reader(channels: int, preprocessing: Preprocessing) -> Reader:
    """Return the reader of a network with its own preprocessing."""
    own = f"own preprocessing ({preprocessing.image_size} px)"
    return Reader(
        own, channels, lambda path: read_image(path, channels), lambda image: prepare(image, preprocessing), preprocessing
    )


def _decode(path: Path) -> Tensor:
    """Decode an image file as the libraries do: with PIL, without its EXIF orientation, alpha left out."""
    try:
        with checked(path) as image:
            return pixels_of(image.convert("RGB"), 3)
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from None


def _split_of(text: str) -> Images | Files:
    """Return a split of a data set; `text` has overrides, and the split as ``split=val`` (default: test)."""
    from inception_zoo.config.check import check_data
    from inception_zoo.config.composed import composed
    from inception_zoo.training.components import build_data

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ZooError(f"{text}: {error}") from None
    name = ([word.removeprefix("split=") for word in words if word.startswith("split=")] or ["test"])[-1]
    with composed([word for word in words if not word.startswith("split=")]) as cfg:
        check_data(cfg["data"])
        data = build_data(cfg)
    data.batch_size = 1  # any number of training images passes the check
    data.setup()
    if name not in data.splits:
        raise ZooError(f"{text}: split={name} is unknown; {did_you_mean(name, data.splits)}")
    split = data.splits[name]
    if not isinstance(split, Images | Files):
        raise ZooError(f"{text}: a stream can be read in its own order only; give the folder of its images")
    return split
