"""Synthetic images that a network can learn: each class is a grating at its own angle, with random phase and noise."""

import math

import torch
from torch import Tensor

from inception_zoo.data.source import Images, Source


def synthetic(num_classes: int, in_channels: int, size: int, train: int, test: int, noise: float, seed: int) -> Source:
    """Generate a data set from a seed.

    Args:
        num_classes: number of angles.
        in_channels: number of channels. They show the same grating with different noise.
        size: side of the images in pixels.
        train: number of training images.
        test: number of test images.
        noise: standard deviation of the noise, relative to the grating's amplitude.
        seed: of phases and noise.

    Returns:
        The data set: images uint8 (N, in_channels, size, size), labels int64 (N,).
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Images:
        labels = torch.arange(count) % num_classes
        waves = torch.stack([_grating(angle, size, generator) for angle in labels * math.pi / num_classes])
        maps = waves[:, None] + noise * torch.randn(count, in_channels, size, size, generator=generator)
        return Images(((maps + 2) / 4).clamp(0, 1).mul(255).to(torch.uint8), labels)

    return Source("synthetic", draw(train), draw(test), [f"class {i}" for i in range(num_classes)])


def _grating(angle: Tensor, size: int, generator: torch.Generator) -> Tensor:
    y, x = torch.meshgrid(*[torch.arange(size) / size] * 2, indexing="ij")
    phase = torch.rand((), generator=generator)
    return torch.sin(2 * math.pi * (3 * (x * torch.cos(angle) + y * torch.sin(angle)) + phase))
