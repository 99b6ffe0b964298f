"""Conversion of pixels to the network's input, the same for training, prediction and calibration."""

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from inception_zoo.architecture.preprocessing import Preprocessing


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalize pixels on their device: ``(pixel / 255 - mean) / std``.

    Args:
        images: uint8 (…, C, H, W).
        preprocessing: has the mean and std per channel.

    Returns:
        Normalized float32 (…, C, H, W).
    """
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    scales, shifts = [1 / (255 * std) for _, std in pairs], [mean / std for mean, std in pairs]
    # Expand to a row of an image in its memory format: broadcasting three numbers at a time is slow with channels last.
    row = torch.empty_like(images[:1, ..., :1, :] if images.dim() > 3 else images[:, :1], dtype=torch.float32)
    scale, shift = (row.clone().copy_(torch.tensor(values).view(-1, 1, 1)) for values in (scales, shifts))
    return images.to(torch.float32, copy=True).mul_(scale).sub_(shift)


def denormalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Undo `normalize`.

    Args:
        images: normalized float (…, C, H, W).
        preprocessing: has the mean and std per channel.

    Returns:
        Pixels from 0 to 1, float (…, C, H, W).
    """
    mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (images * std + mean).clamp(0, 1)


def prepare(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize an image, crop its centre and normalize it, as for evaluation.

    Args:
        image: uint8 (C, H, W).
        preprocessing: what the network expects.

    Returns:
        Normalized float32 (C, S, S), where S is the network's image size.
    """
    return normalize(centre(image, preprocessing), preprocessing)


def centre(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize the shorter side of an image and crop the centre.

    Args:
        image: uint8 (…, C, H, W).
        preprocessing: has the two sizes and the interpolation.

    Returns:
        uint8 (…, C, S, S), where S is the network's image size.
    """
    if image.shape[-2:] == (preprocessing.image_size,) * 2 and preprocessing.resize == preprocessing.image_size:
        return image
    return T.center_crop(resize_shorter(image, preprocessing.resize, preprocessing), [preprocessing.image_size] * 2)


def resize_shorter(image: Tensor, size: int, preprocessing: Preprocessing) -> Tensor:
    """Resize an image in proportion.

    Args:
        image: uint8 (…, C, H, W).
        size: of the shorter side, in pixels.
        preprocessing: has the interpolation.

    Returns:
        uint8 (…, C, H', W'), where `size` is the smaller of H' and W'.
    """
    if min(image.shape[-2:]) == size:
        return image
    return T.resize(image, [size], InterpolationMode(preprocessing.interpolation), antialias=True)


def as_pictures(images: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """Convert normalized images to pixels for display.

    Args:
        images: normalized float (N, C, H, W).
        preprocessing: undone here. With None, `images` must have pixels from 0 to 1.

    Returns:
        uint8 on the CPU: (N, H, W, 3) for three channels, otherwise the mean over channels, (N, H, W).
    """
    images = images.float()
    if preprocessing:
        images = denormalize(images, preprocessing)
    pixels = images.permute(0, 2, 3, 1) if images.shape[1] == 3 else images.mean(1)
    return (pixels.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
