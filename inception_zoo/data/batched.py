"""torchvision's transforms of a batch, with random parameters for each image.

When called on a batch, torchvision's transforms use the same random parameters for all images. Here, the transform draws
parameters for each image, and they are applied to all images at once. Transforms without a batched form are called once for
each image.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import rgb_to_grayscale


def apply_to_batch(transform: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a transform to a batch, with random parameters for each image.

    Args:
        transform: of one image, uint8 (C, H, W) → uint8 (C, H', W').
        images: uint8 (N, C, H, W).

    Returns:
        uint8 (N, C, H', W').
    """
    for kind, form in FORMS.items():
        if type(transform) is kind and (found := form(transform, images)) is not None:
            return found
    return torch.stack([transform(image) for image in images])


def _draws(transform: Any, images: Tensor) -> list[dict[str, Any]]:
    return [transform.make_params([image]) for image in images]


def _column(values: Any, images: Tensor) -> Tensor:
    """Return one value per image as (N, 1, 1, 1)."""
    return torch.as_tensor(values, device=images.device).view(-1, 1, 1, 1)


def _flip(transform: v2.RandomHorizontalFlip, images: Tensor) -> Tensor:
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < transform.p
    return torch.where(chosen, images.flip(-1), images)


def _resized_crop(transform: v2.RandomResizedCrop, images: Tensor) -> Tensor | None:
    if transform.interpolation != InterpolationMode.BILINEAR:
        return None
    draws = _draws(transform, images)
    top, left, height, width = (torch.tensor([float(d[k]) for d in draws]) for k in ("top", "left", "height", "width"))
    rows = _samples(top, height, transform.size[0], images.shape[-2])
    columns = _samples(left, width, transform.size[1], images.shape[-1])
    grid = torch.stack(
        [columns[:, None, :].expand(-1, rows.shape[1], -1), rows[:, :, None].expand(-1, -1, columns.shape[1])], -1
    )
    crops = F.grid_sample(images.float(), grid.to(images.device), padding_mode="border", align_corners=False)
    return crops.round().to(images.dtype)


def _samples(start: Tensor, length: Tensor, count: int, side: int) -> Tensor:
    """Return positions (N, count) of the pixels of a resized crop, from -1 to 1 along a side of the image."""
    centres = (torch.arange(count) + 0.5) / count * length[:, None]
    inside = torch.minimum(centres.clamp(min=0.5), length[:, None] - 0.5)  # no interpolation with pixels outside of the crop
    return 2 * (start[:, None] + inside) / side - 1


def _shift(transform: v2.RandomAffine, images: Tensor) -> Tensor | None:
    """Translate images; return None for other affine transforms, which have no batched form."""
    if transform.scale or transform.shear or any(transform.degrees) or not transform.translate or transform.fill:
        return None
    n, _, h, w = images.shape
    right, down = torch.tensor([draw["translate"] for draw in _draws(transform, images)]).unbind(1)
    pad = max(int(down.abs().max()), int(right.abs().max()))
    padded = F.pad(images, [pad] * 4)
    rows = (pad - down[:, None] + torch.arange(h))[:, :, None].to(images.device)
    columns = (pad - right[:, None] + torch.arange(w))[:, None, :].to(images.device)
    image = torch.arange(n, device=images.device)[:, None, None]
    return padded[image, :, rows, columns].permute(0, 3, 1, 2)


def _erase(transform: v2.RandomErasing, images: Tensor) -> Tensor | None:
    if transform.value is None:
        return None  # noise in boxes of different sizes has no batched form
    chosen = (torch.rand(len(images)) < transform.p).tolist()
    boxes = [_box(transform, image) if keep else (0, 0, 0, 0) for image, keep in zip(images, chosen, strict=True)]
    top, left, height, width = torch.tensor(boxes, device=images.device).view(-1, 4, 1, 1).unbind(1)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    inside = ((rows[:, None] >= top) & (rows[:, None] < top + height)) & ((columns >= left) & (columns < left + width))
    value = torch.tensor(transform.value, device=images.device).to(images.dtype).view(1, -1, 1, 1)
    return torch.where(inside[:, None], value, images)


def _box(transform: v2.RandomErasing, image: Tensor) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the box to erase, or zeros if no box of the drawn shape fits."""
    draw = transform.make_params([image])
    return (draw["i"], draw["j"], draw["h"], draw["w"]) if draw["v"] is not None else (0, 0, 0, 0)


def _jitter(transform: v2.ColorJitter, images: Tensor) -> Tensor | None:
    """Change brightness, contrast and saturation, in one order for the batch; return None with hue."""
    if transform.hue:
        return None
    draws = _draws(transform, images)
    x = images.float()
    for index in draws[0]["fn_idx"].tolist():
        name = ("brightness", "contrast", "saturation", "hue")[index]
        factors = [draw[f"{name}_factor"] for draw in draws]
        if factors[0] is None or (name == "saturation" and images.shape[1] == 1):
            continue
        factor = _column([float(f) for f in factors], images)
        grey = rgb_to_grayscale(x) if images.shape[1] == 3 else x
        base = {"brightness": torch.zeros_like(grey), "contrast": grey.mean((1, 2, 3), keepdim=True), "saturation": grey}[name]
        x = (base + factor * (x - base)).clamp(0, 255)
    return x.round().to(images.dtype)


FORMS: dict[type, Callable[[Any, Tensor], Tensor | None]] = {
    v2.RandomHorizontalFlip: _flip,
    v2.RandomResizedCrop: _resized_crop,
    v2.RandomAffine: _shift,
    v2.RandomErasing: _erase,
    v2.ColorJitter: _jitter,
}
