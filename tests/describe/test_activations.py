"""Bytes saved for backward: the count on the meta device equals a real run with PyTorch's kernels."""

import pytest
import torch

from inception_zoo import create_model
from inception_zoo.describe.saved_bytes import saved_activations
from inception_zoo.network import kernels


def kept(model, batch):
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.outputs(torch.randn(batch, model.plan.in_channels, 96, 96))
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("googlenet", {}),
        ("googlenet_bn", {"activation": "silu"}),
        ("inception_v3", {"norm": "group", "blocks": {"grid17": "residual_expanded"}}),
        ("inception_resnet_v1", {"drop_path": 0.2}),
    ],
)
def test_the_count_equals_a_real_run(name, choices, monkeypatch):
    monkeypatch.setattr(kernels, "library", lambda: None)
    model = create_model(name, 10, width=0.25, **choices).train()
    assert sum(saved_activations(model.plan, 96).values()) == kept(model, 3) - kept(model, 2)
