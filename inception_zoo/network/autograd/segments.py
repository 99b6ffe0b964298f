"""Segments of the network, which `memory=minimal` recomputes in the backward pass."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inception_zoo.architecture.cost import convolutions
from inception_zoo.architecture.geometry import Size
from inception_zoo.architecture.notation import Conv
from inception_zoo.architecture.plan import Plan
from inception_zoo.errors import ZooError
from inception_zoo.network.autograd.dispatch import recording
from inception_zoo.network.autograd.recipes import forget
from inception_zoo.network.autograd.snapshot import Snapshot


def run_segments(model: Any, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Run the blocks of an `Inception`; yield (endpoint, feature maps) per block, or per segment in `minimal` mode.

    Args:
        model: The network.
        x: Images (N, in_channels, H, W).

    Yields:
        The endpoint, and its feature maps (N, C, H', W').
    """
    if model.memory != "minimal" or not recording(model, x):
        yield from model.run_blocks(x)
        return
    try:
        groups = segments(model.plan, (x.shape[-2], x.shape[-1]))
    except ZooError:  # the plan's grids do not fit; those of layers that a user has replaced may
        groups = [[block.name] for block in model.plan.blocks]
    for names in groups:
        x = segment(nn.Sequential(OrderedDict((name, model.get_submodule(name)) for name in names)), x)
        yield names[-1], x


def segments(plan: Plan, size: Size) -> list[list[str]]:
    """Group the endpoints into segments; none needs more activation memory, while it is recomputed, than the first one.

    The first segment is the stem. Its feature maps are the largest, so it sets the peak memory for any division of the rest.
    An endpoint with an auxiliary head ends its segment.

    Args:
        plan: The network.
        size: Height and width of the images, in pixels.
    """
    shapes, groups, room = plan.shapes(size), [[]], 0  # type: ignore[var-annotated]
    stem, most, grid = plan.blocks[0].stage, 0, size
    for block, after in zip(plan.blocks, (*plan.blocks[1:], None), strict=True):
        convs = (conv for row in block.rows for conv in convolutions(row, block.c_in, grid))
        given = sum(op.width * after[0] * after[1] for _, op, _, after in convs if isinstance(op, Conv))
        if block.module and block.stage != stem:  # unknown: a segment of its own
            given = most + 1
        grid = shapes[block.name][1:]
        if block.residual:  # lean mode saves every other sum, and every one without projection
            given += block.c_out * grid[0] * grid[1] // (2 if block.residual.project else 1)
        if block.stage == stem:
            most += given
        elif not groups[-1] or given > room:
            groups, room = [*groups, []] if groups[-1] else groups, most
        groups[-1].append(block.name)
        room -= given
        if block.name in plan.aux or (block.stage == stem and after and after.stage != stem):
            groups.append([])
    return [group for group in groups if group]


class SaveInput(torch.autograd.Function):
    """``y = x``. Saves x with `save_for_backward`, so that saved-tensor hooks see it; `checkpoint` alone hides it from them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return a view of `x` (any shape)."""
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def segment(run: nn.Module, x: Tensor) -> Tensor:
    """Return ``run(x)``, feature maps (N, K, H', W'), for `x` (N, C, H, W); save only `x` and recompute the rest."""
    y = checkpoint(run, SaveInput.apply(x), use_reentrant=False, context_fn=lambda: (nullcontext(), Snapshot(run)))
    return forget(y)  # its recipe would keep tensors that are to be recomputed
