"""Every network learns real Fashion-MNIST, and so does every block variant at every stage."""

import pytest
import torch
from torch.nn import functional as F

from inception_zoo import create_model
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.plan import make_plan
from inception_zoo.architecture.reductions import REDUCTIONS
from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.data.fashion_mnist import fashion_mnist

STEPS, BATCH = 24, 32


@pytest.fixture(scope="module")
def batches():
    from conftest import ROOT

    images = fashion_mnist(str(ROOT / "data")).train
    x = F.pad((images.images[: 4 * BATCH].float() / 255 - 0.286) / 0.353, (2, 2, 2, 2))
    return [(x[i : i + BATCH], images.labels[i : i + BATCH].long()) for i in range(0, 4 * BATCH, BATCH)]


def losses(name, batches, **choices):
    """Train a quarter-width network with the small stem at 32 px on four repeated batches; return the losses."""
    torch.manual_seed(1)
    model = create_model(name, 10, 1, stem="small", width=0.25, norm="batch", dropout=0.0, **choices)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for step in range(STEPS):
        x, labels = batches[step % len(batches)]
        outputs = model.train().outputs(x)
        weights = {tap: head.weight for tap, head in model.plan.aux.items()}
        loss = F.cross_entropy(outputs.logits, labels)
        total = loss + sum(weights[tap] * F.cross_entropy(logits, labels) for tap, logits in outputs.aux.items())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def assert_falls(history):
    first, last = sum(history[:4]) / 4, sum(history[-4:]) / 4
    # Most losses fall by half. Without residual sums in the twenty blocks of `_slim`'s second grid they fall by 8 to 20 %.
    assert last < 0.95 * first, [round(loss, 2) for loss in history]


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_network_learns(name, batches):
    assert_falls(losses(name, batches))


@pytest.mark.slow
@pytest.mark.parametrize("variant", BLOCKS)
@pytest.mark.parametrize(("name", "stage"), [(name, stage) for name, net in ZOO.items() for stage in make_plan(net).swappable])
def test_every_block_learns_at_every_stage(name, stage, variant, batches):
    assert_falls(losses(name, batches, blocks={stage: variant}))


@pytest.mark.slow
@pytest.mark.parametrize("variant", REDUCTIONS)
@pytest.mark.parametrize("name", ZOO)
def test_every_reduction_learns(name, variant, batches):
    assert_falls(losses(name, batches, blocks={"all": variant}))
