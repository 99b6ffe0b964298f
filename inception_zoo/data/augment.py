"""Augmentation of whole batches. torchvision's transforms draw once per call, so every image would get the same crop."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image of (N, C, H, W) left to right with probability 0.5."""
    flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flipped, images.flip(-1), images)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image of (N, C, H, W) by up to `pixels` in both directions; the edge is filled with zeros."""
    n, _, h, w = images.shape
    padded = F.pad(images, [pixels] * 4)
    y, x = (torch.randint(0, 2 * pixels + 1, (n, 1), device=images.device) for _ in "yx")
    rows = (y + torch.arange(h, device=images.device))[:, :, None]
    columns = (x + torch.arange(w, device=images.device))[:, None, :]
    image = torch.arange(n, device=images.device)[:, None, None]
    return padded[image, :, rows, columns].permute(0, 3, 1, 2)
