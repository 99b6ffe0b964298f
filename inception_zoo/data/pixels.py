"""Pixels to what a network reads: the one formula of training, prediction and calibration."""

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from inception_zoo.architecture.preprocessing import Preprocessing


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (…, C, H, W) → float, ``(pixel / 255 - mean) / std``, on the images' device."""
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    scales, shifts = [1 / (255 * std) for _, std in pairs], [mean / std for mean, std in pairs]
    # As a row of an image, in its order of channels: three numbers at a time would be slow where channels are last.
    row = torch.empty_like(images[:1, ..., :1, :] if images.dim() > 3 else images[:, :1], dtype=torch.float32)
    scale, shift = (row.clone().copy_(torch.tensor(values).view(-1, 1, 1)) for values in (scales, shifts))
    return images.to(torch.float32, copy=True).mul_(scale).sub_(shift)


def denormalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalized images (…, C, H, W) → pixels from 0 to 1."""
    mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (images * std + mean).clamp(0, 1)


def prepare(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """One image, uint8 (C, H, W) → (C, S, S) as the network reads it: resized, cropped at the centre, normalized."""
    return normalize(centre(image, preprocessing), preprocessing)


def centre(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (…, C, H, W) → (…, C, S, S): the shorter side resized, the centre cropped."""
    if image.shape[-2:] == (preprocessing.image_size,) * 2 and preprocessing.resize == preprocessing.image_size:
        return image
    return T.center_crop(resize_shorter(image, preprocessing.resize, preprocessing), [preprocessing.image_size] * 2)


def resize_shorter(image: Tensor, size: int, preprocessing: Preprocessing) -> Tensor:
    """The shorter side at `size` pixels, the longer in proportion."""
    if min(image.shape[-2:]) == size:
        return image
    return T.resize(image, [size], InterpolationMode(preprocessing.interpolation), antialias=True)


def as_pictures(images: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """Normalized images (N, C, H, W) → uint8 pixels (N, H, W, 3), or (N, H, W) unless there are three channels.

    Images that were not preprocessed have pixels from 0 to 1.
    """
    images = images.float()
    if preprocessing:
        images = denormalize(images, preprocessing)
    pixels = images.permute(0, 2, 3, 1) if images.shape[1] == 3 else images.mean(1)
    return (pixels.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
