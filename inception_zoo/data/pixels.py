"""Pixels to what a network reads: the one formula of training, prediction and calibration."""

import torch
from torch import Tensor

from inception_zoo.preprocessing import Preprocessing


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (…, C, H, W) → float, ``(pixel / 255 - mean) / std``, on the images' device."""
    mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return images.float().div(255).sub(mean).div(std)
