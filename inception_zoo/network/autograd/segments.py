"""Segments of a network that run once more for the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from inception_zoo.network.autograd.recipes import forget


class _Keep(torch.autograd.Function):
    """Keeps what a segment reads where autograd's hooks see it: `checkpoint` holds it out of their sight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def segment(run: nn.Module, x: Tensor) -> Tensor:
    """`run(x)`, of which nothing is kept but `x`."""
    y = checkpoint(run, _Keep.apply(x), use_reentrant=False, context_fn=lambda: (nullcontext(), learning_apart(run)))
    return forget(y)  # the recipe holds what is to be made again


@contextmanager
def learning_apart(run: nn.Module) -> Iterator[None]:
    """What running statistics learn here is thrown away: they have seen this batch before."""
    buffers = [(norm._buffers, dict(norm._buffers)) for norm in run.modules() if isinstance(norm, _BatchNorm)]
    for own, known in buffers:
        own.update({name: None if each is None else each.clone() for name, each in known.items()})
    try:
        yield
    finally:
        for own, known in buffers:
            own.update(known)
