"""`plan_cost` counts what PyTorch's own counter finds in a forward pass."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from inception_zoo import create_model
from inception_zoo.architecture.cost import head_cost, plan_cost
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.reductions import REDUCTIONS
from inception_zoo.architecture.variants import BLOCKS


def check(name, size, training=False, **choices):
    """Compare multiply-adds, which are two operations each, with auxiliary heads; and the parameters."""
    with torch.device("meta"):
        model = create_model(name, **choices).train(training)
    plan = model.plan
    shapes, cost = plan.shapes(size), plan_cost(plan, size)
    heads = sum(head_cost(plan, head, shapes[tap][0]).macs for tap, head in plan.aux.items())
    with FlopCounterMode(display=False) as counter:
        model.outputs(torch.empty(2, plan.in_channels, *size, device="meta"))
    assert counter.get_total_flops() == 2 * 2 * (cost.macs + heads)
    assert cost.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ZOO)
def test_every_network_at_its_usual_size(name):
    check(name, (ZOO[name].image_size, ZOO[name].image_size))


@pytest.mark.parametrize("name", ZOO)
def test_other_sizes_stems_and_widths(name):
    check(name, (64, 49), training=True, stem="small", width=0.25, in_channels=1, num_classes=7)


@pytest.mark.parametrize("variant", BLOCKS | REDUCTIONS)
def test_swapped_blocks(variant):
    check("inception_v3", (107, 139), blocks={"all": variant}, width=0.5)


ROWS = {
    "rows": ["1x1 64 > 1x3 32 | 3x1 32 > max", "5x5 64", "avg > 1x1 8"],
    "residual": {"rows": ["1x1 64", "3x3 64 > 1x7 32"], "scale": 0.1},
    "shortcut": {"rows": ["1x1 64", "max > 3x3 64"], "scale": 1, "shortcut": True},
    "ceil mode": ["max1x1/2c > 1x1 8", "1x1/2 8"],  # the last window must start on the grid
}


@pytest.mark.parametrize("spec", ROWS)
def test_rows_written_by_hand(spec):
    check("inception_v3", (198, 230), blocks={"mixed_6b": ROWS[spec]}, norm="none")
