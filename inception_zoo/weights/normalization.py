"""Fold the normalization of images into the first convolution."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.errors import ZooError
from inception_zoo.network.inception import Inception

Tensors = dict[str, Tensor]


def fold_normalization(model: Inception, mean: Sequence[float], std: Sequence[float]) -> None:
    """Change the first convolution so that images normalized with `mean` and `std` give what `model.preprocessing` gave.

    A change of scale is exact always; one of the mean only where the convolution pads nothing, since the padded zeros come
    after the normalization.

    Raises:
        ZooError: the convolution pads and the mean would change, or `model.preprocessing` is not known.
    """
    old = model.preprocessing
    if old is None:
        raise ZooError("it is not known what this network's images are normalized with; set model.preprocessing first")
    if pads(model) and list(mean) != list(old.mean):
        raise ZooError(
            f"{model.plan.net.name}'s first convolution pads with zeros, and the mean {list(old.mean)} cannot be {list(mean)}"
        )
    state = model.state_dict()
    for key, value in renormalized(state, first_conv(model), old, mean, std).items():
        state[key].copy_(value)
    model.preprocessing = replace(old, mean=tuple(mean), std=tuple(std))


def renormalized(state: Tensors, conv: str, old: Preprocessing, mean: Sequence[float], std: Sequence[float]) -> Tensors:
    """The tensors of the first convolution unit that change, for images normalized with `mean` and `std`."""
    shift = torch.tensor([(new - was) / s for new, was, s in zip(mean, old.mean, old.std, strict=True)], dtype=torch.float64)
    scale = torch.tensor([new / was for new, was in zip(std, old.std, strict=True)], dtype=torch.float64)
    weight = state[f"{conv}.weight"].double()
    changed = {f"{conv}.weight": (weight * scale.view(1, -1, 1, 1)).float()}
    constant = (weight * shift.view(1, -1, 1, 1)).sum((1, 2, 3))  # added to the output by the new mean
    bias, running_mean = f"{conv}.bias", f"{conv.removesuffix('conv')}norm.running_mean"
    if bias in state:
        changed[bias] = (state[bias].double() + constant).float()
    elif running_mean in state:
        changed[running_mean] = (state[running_mean].double() - constant).float()
    elif shift.any():
        raise ZooError(f"{conv} has neither bias nor BatchNorm to take up another mean")
    return changed


def adapted(state: Tensors, conv: str, channels: int, old: Preprocessing | None) -> tuple[Tensors, Preprocessing | None]:
    """The first convolution for another number of input channels, and what its images are normalized with then.

    For one channel the weights are added up, which is what a grey image in every channel gives. For more they are repeated
    in turn, each divided by how often it stands there, so that their sum stays; for two the third is left out.
    """
    changed: Tensors = {}
    if old:  # all channels alike first, so that one mean can stand for them
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
    """The convolution that reads the images."""
    return f"{model.plan.blocks[0].name}.0.0.conv"


def pads(model: Inception) -> bool:
    return any(model.get_submodule(first_conv(model)).padding)  # type: ignore[arg-type]
