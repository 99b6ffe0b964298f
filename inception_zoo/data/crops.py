"""Views of an image for averaged predictions, as in the papers' evaluations."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from inception_zoo.architecture.preprocessing import CROPS, Preprocessing
from inception_zoo.data.pixels import centre, resize_shorter
from inception_zoo.errors import ZooError

SCALES = (256, 288, 320, 352)  # shorter sides for crops of 224 pixels: GoogLeNet, arXiv 1409.4842, section 7


def check_crops(crops: int) -> None:
    """Raise ZooError unless `views` supports this number of views."""
    if crops not in CROPS:
        raise ZooError(f"crops={crops} must be one of {', '.join(map(str, CROPS))}")


def views(image: Tensor, preprocessing: Preprocessing, crops: int = 1, flip: bool = False) -> Tensor:
    """Return views of an image whose predictions can be averaged.

    Args:
        image: uint8 (…, C, H, W).
        preprocessing: the network's image size S, and how to resize.
        crops: number of views:

            * 1: the centre crop;
            * 2: the centre crop and its mirror image;
            * 10: the four corners, the centre, and their mirror images (AlexNet, section 4.1);
            * 144: at each of four scales the left, centre and right square (top, centre and bottom of a tall image); of each
              square the four corners, the centre, the resized square, and their mirror images.
        flip: add the mirror image of a single crop. More crops already include theirs.

    Returns:
        uint8 (V, …, C, S, S), where V is the number of views. They are not normalized.

    Raises:
        ZooError: another number of crops.
    """
    check_crops(crops)
    size = preprocessing.image_size
    if crops == 144:
        found = [crop for scale in SCALES for square in _squares(image, _scaled(scale, size), preprocessing) for crop in square]
    elif crops == 10:
        # Corners of an image that has only the network's input size would all be the same crop.
        shorter = preprocessing.resize if preprocessing.resize > size else _scaled(SCALES[0], size)
        found = list(T.five_crop(resize_shorter(image, shorter, preprocessing), [size, size]))
    else:
        found = [centre(image, preprocessing)]
    stack = torch.stack(found) if len(found) > 1 else found[0][None]
    return torch.cat([stack, stack.flip(-1)]) if flip or crops > 1 else stack


def _scaled(scale: int, size: int) -> int:
    return round(scale * size / 224)


def _squares(image: Tensor, shorter: int, preprocessing: Preprocessing) -> list[list[Tensor]]:
    """Return the four corners, the centre and the resized square, of each of three squares along the longer side."""
    size = preprocessing.image_size
    image = resize_shorter(image, shorter, preprocessing)
    height, width = image.shape[-2:]
    found = []
    for third in range(3):
        top, left = (height - shorter) * third // 2, (width - shorter) * third // 2
        square = T.crop(image, top, left, shorter, shorter)
        found.append([*T.five_crop(square, [size, size]), resize_shorter(square, size, preprocessing)])
    return found
