"""Several views of one image, whose predictions are averaged, as the papers evaluate."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from inception_zoo.architecture.preprocessing import CROPS, Preprocessing
from inception_zoo.data.pixels import centre, resize_shorter
from inception_zoo.errors import ZooError

SCALES = (256, 288, 320, 352)  # shorter sides for crops of 224 pixels: GoogLeNet, arXiv 1409.4842, section 7


def check_crops(crops: int) -> None:
    if crops not in CROPS:
        raise ZooError(f"crops={crops} must be one of {', '.join(map(str, CROPS))}")


def views(image: Tensor, preprocessing: Preprocessing, crops: int = 1, flip: bool = False) -> Tensor:
    """uint8 (…, C, H, W) → (V, …, C, S, S), not normalized yet.

    `crops` 1: the centre. 2: and its mirror. 10: the corners, the centre, and their mirrors (AlexNet, section 4.1). 144: at
    four scales the left, centre and right square (top, centre, bottom); of each the corners, the centre and the whole, and
    their mirrors.
    `flip` adds the mirror to a single crop; the others have theirs.
    """
    check_crops(crops)
    size = preprocessing.image_size
    if crops == 144:
        found = [crop for scale in SCALES for square in _squares(image, _scaled(scale, size), preprocessing) for crop in square]
    elif crops == 10:
        # An image of just the size of the network's input has no corners of its own.
        shorter = preprocessing.resize if preprocessing.resize > size else _scaled(SCALES[0], size)
        found = list(T.five_crop(resize_shorter(image, shorter, preprocessing), [size, size]))
    else:
        found = [centre(image, preprocessing)]
    stack = torch.stack(found) if len(found) > 1 else found[0][None]
    return torch.cat([stack, stack.flip(-1)]) if flip or crops > 1 else stack


def _scaled(scale: int, size: int) -> int:
    return round(scale * size / 224)


def _squares(image: Tensor, shorter: int, preprocessing: Preprocessing) -> list[list[Tensor]]:
    """Of each of three squares along the longer side: four corners, the centre, and the square itself, at the input's size."""
    size = preprocessing.image_size
    image = resize_shorter(image, shorter, preprocessing)
    height, width = image.shape[-2:]
    found = []
    for third in range(3):
        top, left = (height - shorter) * third // 2, (width - shorter) * third // 2
        square = T.crop(image, top, left, shorter, shorter)
        found.append([*T.five_crop(square, [size, size]), resize_shorter(square, size, preprocessing)])
    return found
