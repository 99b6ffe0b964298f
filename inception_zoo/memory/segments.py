"""Segments of a network that run once more for the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_running_again = False


def is_running_again() -> bool:
    """Whether this pass is one that has been before: it has no side effects."""
    return _running_again


class _Keep(torch.autograd.Function):
    """Keeps what a segment reads where autograd's hooks see it: `checkpoint` holds it out of their sight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def segment(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`run(x)`, of which nothing is kept but `x`."""
    return checkpoint(run, _Keep.apply(x), use_reentrant=False, context_fn=lambda: (nullcontext(), _again()))


@contextmanager
def _again() -> Iterator[None]:
    global _running_again
    _running_again = True
    try:
        yield
    finally:
        _running_again = False
