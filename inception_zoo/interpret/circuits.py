"""Channels, neurons, branches and directions of feature maps: how to name them, and how to change them in a network."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inception_zoo.architecture.choices import ALIKE
from inception_zoo.architecture.geometry import out_channels
from inception_zoo.architecture.notation import show
from inception_zoo.architecture.plan import Block, Plan
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.network.inception import Inception
from inception_zoo.system.regular_files import opened

FORM = "ENDPOINT:CHANNEL, ENDPOINT/BRANCH:CHANNEL or ENDPOINT:FILE.npy, with @ROW,COLUMN for one position"
_TARGET = re.compile(r"([^:/@]+)(?:/(\d+))?(?::([^@]+))?(?:@(\d+),(\d+))?", re.ASCII)


@dataclass(frozen=True, eq=False)
class Target:
    """A direction in the channels of an endpoint, over the grid or at one position.

    Attributes:
        label: As the user writes it.
        endpoint: Whose feature maps are read.
        direction: Weight of each channel, float (C,).
        position: Row and column in the grid; None: the mean over the grid.
    """

    label: str
    endpoint: str
    direction: Tensor
    position: tuple[int, int] | None = None

    def value(self, maps: Tensor) -> Tensor:
        """Return the activation (N,) in feature maps (N, C, H, W) of the endpoint.

        Raises:
            ZooError: The position is outside of the grid.
        """
        along = torch.einsum("nchw,c->nhw", maps, self.direction.to(maps))
        if self.position is None:
            return along.mean((1, 2))
        row, column = self.position
        if row >= maps.shape[2] or column >= maps.shape[3]:
            raise ZooError(f"{self.label}: the grid of {self.endpoint} is only {maps.shape[2]}x{maps.shape[3]} here")
        return along[:, row, column]


def branches(plan: Plan, endpoint: str) -> dict[str, range]:
    """Return the channels of each branch of an endpoint, by the text of its row; one entry if there are no branches.

    Raises:
        ZooError: The endpoint is unknown.
    """
    block = _block(plan, endpoint)
    if not block.has_branches or block.residual or len(block.rows) == 1:  # a residual block mixes its branches
        return {"all channels": range(block.c_out)}
    found, start = {}, 0
    for index, row in enumerate(block.rows):
        stop = start + out_channels(row, block.c_in)
        found[f"branch {index}: {show(row)}"] = range(start, stop)
        start = stop
    return found


def read_target(plan: Plan, text: str) -> Target | None:
    """Read the name of a channel, of a neuron, of a branch's channel, or of a direction; None: the name of a whole endpoint.

    Raises:
        ZooError: The text is not a target, or its endpoint, branch, channel or file does not exist.
    """
    match = _TARGET.fullmatch(text)
    if match is None:
        raise ZooError(f"{text}: not a target; write {FORM}")
    endpoint, branch, what, row, column = match.groups()
    channels = range(_block(plan, endpoint).c_out)
    if branch is not None:
        every = list(branches(plan, endpoint).values())
        if len(every) == 1:
            raise ZooError(f"{text}: {endpoint} has no branches with channels of their own; leave /{branch} out")
        if int(branch) >= len(every):
            raise ZooError(f"{text}: {endpoint} has branches 0 to {len(every) - 1}")
        channels = every[int(branch)]
    if what is None:
        if branch is None and row is None:
            return None
        raise ZooError(f"{text}: the channel is missing; write {FORM}")
    size = _block(plan, endpoint).c_out
    position = (int(row), int(column)) if row else None
    if what.endswith(".npy"):
        return Target(text, endpoint, _direction(text, Path(what), channels, size), position)
    if not what.isdecimal() or int(what) >= len(channels):
        raise ZooError(f"{text}: {what} is not a channel; there are 0 to {len(channels) - 1}, or a file that ends in .npy")
    return Target(text, endpoint, one_channel(size, channels[int(what)]), position)


def one_channel(size: int, channel: int) -> Tensor:
    """Return the direction (size,) of one channel."""
    direction = torch.zeros(size)
    direction[channel] = 1
    return direction


def _direction(text: str, path: Path, channels: Sequence[int], size: int) -> Tensor:
    try:
        with opened(path) as file:
            values = torch.from_numpy(np.asarray(np.load(file, allow_pickle=False), np.float32))
    except FileNotFoundError:
        raise ZooError(f"{text}: {path} does not exist") from None
    except ZooError:
        raise
    except Exception as error:  # numpy raises many types
        raise ZooError(f"{text}: {path} is not a readable .npy file ({type(error).__name__})") from None
    if values.shape != (len(channels),) or not values.isfinite().all() or not values.any():
        raise ZooError(
            f"{text}: {path} must have {len(channels)} finite numbers, not all 0; its shape is {tuple(values.shape)}"
        )
    direction = torch.zeros(size)
    direction[list(channels)] = values / values.norm()
    return direction


def _block(plan: Plan, endpoint: str) -> Block:
    every = {block.name: block for block in plan.blocks}
    with suppress(KeyError):
        return every[endpoint]
    raise ZooError(f"{plan.net.name}: '{endpoint}' is not an endpoint; {did_you_mean(endpoint, every, ALIKE)}")


@contextmanager
def patched(model: Inception, changes: Mapping[str, Mapping[int, float | Tensor]]) -> Iterator[Inception]:
    """Replace channels of feature maps while the block of the `with` statement runs.

    Args:
        model: The network; everything that calls it sees the changes.
        changes: endpoint → channel → the new value: a number, or a map that can be expanded to (N, H, W), such as a channel of
            `model.endpoints` for another image.

    Raises:
        ZooError: An endpoint or a channel does not exist, or the network is compiled.

    Example:
        >>> with patched(model, {"inception_4c": {25: 0.0}}):
        ...     logits = model(images)
    """
    if model._compiled_call_impl is not None:  # its code does not call hooks that are added later
        raise ZooError(f"{model.plan.net.name} is compiled, which would ignore the changes; use it without compile=True")
    for endpoint, channels in changes.items():
        size = _block(model.plan, endpoint).c_out
        if wrong := [channel for channel in channels if not 0 <= channel < size]:
            raise ZooError(f"{endpoint} has no channel {wrong[0]}; there are 0 to {size - 1}")
    hooks = [
        model.get_submodule(endpoint).register_forward_hook(_replacing(channels)) for endpoint, channels in changes.items()
    ]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def ablated(model: Inception, endpoint: str, channels: Sequence[int]) -> Iterator[Inception]:
    """Set channels of an endpoint to zero while the block of the `with` statement runs; see `patched`."""
    with patched(model, {endpoint: dict.fromkeys(channels, 0.0)}):
        yield model


def _replacing(channels: Mapping[int, float | Tensor]) -> Any:
    def replace(module: nn.Module, inputs: Any, maps: Tensor) -> Tensor:
        maps = maps.clone()
        for channel, value in channels.items():
            maps[:, channel] = value
        return maps

    return replace
