"""Adapt the first convolution to another normalization, or another number of channels, of the images."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from inception_zoo.architecture.geometry import padding
from inception_zoo.architecture.notation import Conv, Depthwise
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.errors import ZooError
from inception_zoo.network.inception import Inception

Tensors = dict[str, Tensor]


def fold_normalization(model: Inception, mean: Sequence[float], std: Sequence[float]) -> None:
    """Change the first convolution in place, for images normalized with `mean` and `std` instead of as before.

    The network's outputs stay the same. A change of `std` is always exact. A change of `mean` is exact only if the
    convolution has no padding, because zeros are padded after the normalization.

    Args:
        model: the network, whose `preprocessing` is updated.
        mean: per channel, of pixels from 0 to 1.
        std: per channel, of pixels from 0 to 1.

    Raises:
        ZooError: the convolution pads and the mean would change, or `model.preprocessing` is None.
    """
    old = model.preprocessing
    if old is None:
        raise ZooError("the normalization of this network's images is unknown; set model.preprocessing first")
    if pads(model) and list(mean) != list(old.mean):
        why = f"{model.plan.net.name}'s first convolution pads with zeros"
        raise ZooError(f"{why}, so the mean {list(old.mean)} cannot be replaced by {list(mean)}")
    state = model.state_dict()
    for key, value in renormalized(state, first_conv(model), old, mean, std).items():
        state[key].copy_(value)
    model.preprocessing = replace(old, mean=tuple(mean), std=tuple(std))


def renormalized(state: Tensors, conv: str, old: Preprocessing, mean: Sequence[float], std: Sequence[float]) -> Tensors:
    """Return the changed tensors of the first convolution unit, for images normalized with `mean` and `std`.

    Args:
        state: a state dict, with the weight (out, C, kH, kW) of the first convolution. To shift the mean, also its bias
            (out,) or the `running_mean` (out,) of its BatchNorm.
        conv: name of the first convolution.
        old: preprocessing that the tensors in `state` expect.
        mean: per channel, of pixels from 0 to 1.
        std: per channel, of pixels from 0 to 1.

    Returns:
        Tensors by key, of the same shapes, float32 or float64 as in `state`.

    Raises:
        ZooError: the mean changes, and the convolution has neither a bias nor a BatchNorm; or it has groups.
    """
    shift = torch.tensor([(new - was) / s for new, was, s in zip(mean, old.mean, old.std, strict=True)], dtype=torch.float64)
    scale = torch.tensor([new / was for new, was in zip(std, old.std, strict=True)], dtype=torch.float64)
    weight = state[f"{conv}.weight"].double()
    if weight.shape[1] != len(shift):
        raise ZooError(f"{conv} has groups, so the normalization of its images cannot be changed")
    dtype = torch.promote_types(state[f"{conv}.weight"].dtype, torch.float32)
    changed = {f"{conv}.weight": (weight * scale.view(1, -1, 1, 1)).to(dtype)}
    constant = (weight * shift.view(1, -1, 1, 1)).sum((1, 2, 3))  # added to the output by the new mean
    bias, running_mean = f"{conv}.bias", f"{conv.removesuffix('conv')}norm.running_mean"
    if bias in state:
        changed[bias] = (state[bias].double() + constant).to(dtype)
    elif running_mean in state:
        changed[running_mean] = (state[running_mean].double() - constant).to(dtype)
    elif shift.any():
        raise ZooError(f"{conv} has neither a bias nor a BatchNorm, so its mean cannot be changed")
    return changed


def adapted(state: Tensors, conv: str, channels: int, old: Preprocessing | None) -> tuple[Tensors, Preprocessing | None]:
    """Return the first convolution and the preprocessing for another number of input channels.

    For one channel, the weights are summed over the input channels. This equals a grey image in every channel. For more
    channels, the input channels are repeated in order, and each is divided by its number of copies, which keeps their sum.
    For two channels, the third one is dropped.

    Args:
        state: a state dict, with the weight (out, C, kH, kW) of the first convolution and its bias or BatchNorm.
        conv: name of the first convolution.
        channels: the new number of input channels.
        old: preprocessing that the tensors in `state` expect, or None if unknown.

    Returns:
        The changed tensors by key, the weight as (out, channels, kH, kW); and the new preprocessing.
    """
    changed: Tensors = {}
    if old:  # first fold in one mean and std for all channels
        had = len(old.mean)
        alike = replace(old, mean=(sum(old.mean) / had,) * had, std=(sum(old.std) / had,) * had)
        changed = renormalized(state, conv, old, alike.mean, alike.std)
        old = replace(old, mean=alike.mean[:1] * channels, std=alike.std[:1] * channels)
    weight = (state | changed)[f"{conv}.weight"]
    if channels == 1:
        weight = weight.sum(1, keepdim=True)
    else:
        index = torch.arange(channels) % weight.shape[1]
        weight = weight[:, index] / index.bincount(minlength=weight.shape[1])[index].view(-1, 1, 1)
    return changed | {f"{conv}.weight": weight}, old


def first_conv(model: Inception) -> str:
    """Return the name of the convolution that reads the images."""
    return next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def pads(model: Inception) -> bool:
    """Return True if the first convolution pads its input."""
    return any(
        isinstance(op, Conv | Depthwise) and (op.edge == "s" or any(padding(op))) for op in model.plan.blocks[0].rows[0][0]
    )
