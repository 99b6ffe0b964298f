"""Feature visualization: images that excite a channel, a neuron or a direction most, found by gradient ascent.

Source:
    Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017: an image as a Fourier spectrum with decorrelated
    colours, made robust by small random shifts, scales and rotations.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import radians
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.interpret.circuits import Target
from inception_zoo.network.inception import Inception
from inception_zoo.system.atomic_files import whole_file

COLUMNS = 12  # of a sheet
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))  # square root of ImageNet's covariance of RGB (Lucid)
SHIFT, SCALES, DEGREES = 8, (0.9, 1.1), 5.0  # of the random views: pixels at 224 px, range, and largest angle
DEAD = 0.1  # share of the gradient that passes a ReLU where its input is negative


@dataclass(frozen=True)
class Tile:
    """An image of a sheet, float (C, S, S) from 0 to 1, and the text above it."""

    image: Tensor
    label: str


@dataclass(frozen=True)
class Ascent:
    """Options of the gradient ascent: steps, learning rate, seed, and the images that are optimized at a time."""

    steps: int = 256
    rate: float = 0.05
    seed: int = 0
    batch: int = 16


def visualize(
    model: Inception,
    preprocessing: Preprocessing,
    targets: Sequence[Target],
    ascent: Ascent,
    progress: Callable[[int], Any] = lambda done: None,
) -> tuple[Tensor, Tensor]:
    """Find an image for each target.

    Images start from the same noise and see the same random views, so that an image depends on the seed and its target alone,
    up to rounding.

    Args:
        model: The network; not changed. It is used in evaluation mode.
        preprocessing: Its normalization and image size.
        targets: What to excite.
        ascent: Options.
        progress: Called with the number of images after each batch.

    Returns:
        Images, float (N, C, S, S) with pixels from 0 to 1, and their activations, float (N,).
    """
    still = deepcopy(model).eval()
    flowing = _with_flowing_gradients(still)
    images, values = [], []
    for start in range(0, len(targets), ascent.batch):
        batch = targets[start : start + ascent.batch]
        images.append(_ascend(flowing, preprocessing, batch, ascent))
        values.append(activations(still, preprocessing, batch, images[-1]))
        progress(len(batch))
    return torch.cat(images), torch.cat(values)


def activations(model: Inception, preprocessing: Preprocessing, targets: Sequence[Target], images: Tensor) -> Tensor:
    """Return the activation (N,) of each target in its own image; images are float (N, C, S, S) from 0 to 1."""
    with torch.no_grad():
        return _values(model, targets, _normalized(images, preprocessing))


def _values(model: Inception, targets: Sequence[Target], images: Tensor) -> Tensor:
    """Return the activation (N,) of each target in its own image; images are normalized, float (N, C, S, S)."""
    maps = model.endpoints(images, {target.endpoint for target in targets})
    return torch.cat([target.value(maps[target.endpoint][row : row + 1]) for row, target in enumerate(targets)])


def most_exciting(
    model: Inception, targets: Sequence[Target], batches: Iterable[Tensor], top: int
) -> list[list[tuple[float, int]]]:
    """Return (activation, index) of the images that excite each target most, in descending order.

    Args:
        model: The network, in evaluation mode.
        targets: What is excited.
        batches: Normalized images, float (N, C, S, S).
        top: Number of images for each target.
    """
    endpoints = {target.endpoint for target in targets}
    best: list[list[tuple[float, int]]] = [[] for _ in targets]
    start = 0
    for images in batches:
        with torch.no_grad():
            maps = model.endpoints(images, endpoints)
        for found, target in zip(best, targets, strict=True):
            found += [(value, start + i) for i, value in enumerate(target.value(maps[target.endpoint]).tolist())]
            found[:] = sorted(found, reverse=True)[:top]
        start += len(images)
    return best


def _ascend(model: Inception, preprocessing: Preprocessing, targets: Sequence[Target], ascent: Ascent) -> Tensor:
    generator = torch.Generator().manual_seed(ascent.seed)
    channels, size = model.plan.in_channels, preprocessing.image_size
    noise = torch.randn(1, channels, size, size // 2 + 1, 2, generator=generator) * 0.01
    spectrum = noise.expand(len(targets), -1, -1, -1, -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([spectrum], lr=ascent.rate)
    for _ in range(ascent.steps):
        views = _view(_image(spectrum, size), generator)
        values = _values(model, targets, _normalized(views, preprocessing))
        optimizer.zero_grad()
        (-values.sum()).backward()
        optimizer.step()
    return _image(spectrum, size).detach()


def _image(spectrum: Tensor, size: int) -> Tensor:
    """Return images, float (N, C, size, size) from 0 to 1, of a spectrum (N, C, size, size // 2 + 1, 2)."""
    vertical, horizontal = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    scale = size / (vertical**2 + horizontal**2).sqrt().clamp(min=1 / size)  # natural images have less of high frequencies
    images = torch.fft.irfft2(torch.view_as_complex(spectrum) * scale, s=(size, size)) / 4
    if images.shape[1] == 3:
        colours = torch.tensor(COLOURS)
        images = torch.einsum("nchw,dc->ndhw", images, colours / colours.norm(dim=0).max())
    return images.sigmoid()


def _view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images shifted, scaled and rotated at random, all in the same way; they continue as in a mirror."""
    size = images.shape[-1]
    draws = torch.rand(4, generator=generator)
    angle = torch.tensor(radians(DEGREES)) * (2 * draws[0] - 1)
    scale = SCALES[0] + (SCALES[1] - SCALES[0]) * draws[1]
    shift = (2 * draws[2:] - 1) * 2 * SHIFT / 224  # in units of half the side
    turned = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]) / scale
    theta = torch.cat([turned, shift[:, None]], 1).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _normalized(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (images - mean) / std


class _Flowing(torch.autograd.Function):
    """ReLU whose gradient also flows, weaker, where its input is negative: else nothing would wake an inactive channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x < 0, DEAD * gradients[0], gradients[0])


class _FlowingReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Flowing.apply(x)


def _with_flowing_gradients(model: Inception) -> Inception:
    """Return a copy of the network in evaluation mode, frozen, with `_Flowing` for ReLU."""
    copied = deepcopy(model).eval().requires_grad_(False)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if type(child) is nn.ReLU:
                setattr(module, name, _FlowingReLU())
    return copied


def draw_sheet(groups: Mapping[str, Sequence[Tile]], title: str, target: Path, columns: int = COLUMNS) -> None:
    """Save a picture with a row of tiles, or several, for each group, such as the branches of a block.

    Args:
        groups: heading → tiles.
        title: Of the sheet.
        target: File to write: .png, .jpg, .svg or .pdf.
        columns: Tiles in a row.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(columns, max(map(len, groups.values())))
    lines = [
        (heading, tiles[start : start + columns])
        for heading, tiles in groups.items()
        for start in range(0, len(tiles), columns)
    ]
    figure = Figure(
        figsize=(1.25 * columns + 0.2, 1.55 * len(lines) + 0.4), layout=ConstrainedLayoutEngine(h_pad=0.12), dpi=120
    )
    figure.suptitle(title + "\n" * (len(groups) > 1), fontsize=11, fontweight="bold", x=0.01, ha="left", parse_math=False)
    seen = set()
    for axes, (heading, tiles) in zip(figure.subplots(len(lines), columns, squeeze=False), lines, strict=True):
        for each in axes:
            each.axis("off")
        for each, tile in zip(axes, tiles, strict=False):
            pixels = tile.image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy()
            each.imshow(pixels, interpolation="nearest" if len(pixels) < 96 else "antialiased")
            each.set_title(tile.label, fontsize=7, pad=2, parse_math=False)
        if heading not in seen and len(groups) > 1:
            seen.add(heading)
            text = axes[0].text(0, 1.17, heading, fontsize=8, fontweight="bold", transform=axes[0].transAxes, parse_math=False)
            text.set_in_layout(False)  # it would widen the first column
    with whole_file(target) as temporary:
        figure.savefig(temporary, bbox_inches="tight", pad_inches=0.1)
