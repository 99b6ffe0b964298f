"""The peer that the project started from: GoogLeNet of the tutorial "Dive into Deep Learning", in plain PyTorch."""

import torch
from torch import Tensor, nn

# Channels per branch: 1x1; 1x1 and 3x3; 1x1 and 5x5; 1x1 after the pool. None: a max pool. Source: arXiv 1409.4842, Table 1.
BLOCKS = (
    (64, (96, 128), (16, 32), 32),
    (128, (128, 192), (32, 96), 64),
    None,
    (192, (96, 208), (16, 48), 64),
    (160, (112, 224), (24, 64), 64),
    (128, (128, 256), (24, 64), 64),
    (112, (144, 288), (32, 64), 64),
    (256, (160, 320), (32, 128), 128),
    None,
    (256, (160, 320), (32, 128), 128),
    (384, (192, 384), (48, 128), 128),
)


class Branches(nn.Module):
    """Four parallel branches, concatenated: (N, c_in, H, W) → (N, sum of the branches' channels, H, W).

    Args:
        c_in: input channels.
        ones: channels of the 1x1 branch.
        threes: channels of the 1x1 and of the 3x3 convolution.
        fives: channels of the 1x1 and of the 5x5 convolution.
        pooled: channels of the 1x1 convolution after the pool.
    """

    def __init__(self, c_in: int, ones: int, threes: tuple[int, int], fives: tuple[int, int], pooled: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _conv(c_in, ones, 1),
                nn.Sequential(_conv(c_in, threes[0], 1), _conv(*threes, 3)),
                nn.Sequential(_conv(c_in, fives[0], 1), _conv(*fives, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(c_in, pooled, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Tutorial(nn.Sequential):
    """GoogLeNet for Fashion-MNIST: images (N, 1, 96, 96) → logits (N, 10).

    It has 5,977,530 parameters, max pools padded by 1, and no normalization.
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = [_conv(1, 64, 7, 2), _pool(), _conv(64, 64, 1), _conv(64, 192, 3), _pool()]
        channels = 192
        for block in BLOCKS:
            if block is None:
                layers.append(_pool())
                continue
            layers.append(Branches(channels, *block))
            channels = block[0] + block[1][1] + block[2][1] + block[3]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2), nn.ReLU())


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, 1)
