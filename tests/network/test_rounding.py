"""Rounding in fp32: the training path is about as near to float64 as PyTorch's own operators."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from inception_zoo import create_model
from inception_zoo.network import kernels
from inception_zoo.network.autograd.units import convolution_backward

CHANNELS_LAST = {"memory_format": torch.channels_last}
PATHS = {"kernels": torch.float32, "pytorch": torch.float32, "float64": torch.float64}
needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler here")

# Rounding: the largest multiple of PyTorch's own error, and a floor, relative to the norm of the exact gradient in float64
TIMES, FLOOR = 8, 1e-6


def assert_as_near(ours, theirs, exact, name=""):
    """Check that fp32 numbers are about as near to the exact ones as those of PyTorch's own operators."""
    for key, due in exact.items():
        size = due.norm()
        error, usual = ((found[key].double() - due).norm() / size for found in (ours, theirs))
        assert error <= TIMES * usual + FLOOR, (name, key, error.item(), usual.item())


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("mean", [0, 1, 5])
@pytest.mark.parametrize("size", [(2, 2), (2, 8), (4, 8), (4, 17), (8, 28)])
def test_rounding_of_batch_norm(size, mean, relu):
    """The worst kernel: up to 256 positions, its variance is a sum in fp32 of squares from one value, not from the mean."""
    torch.manual_seed(0)
    count, side = size
    x, g = (torch.randn(count, 64, side, side).contiguous(**CHANNELS_LAST) for _ in range(2))
    x, norm = x + mean, nn.BatchNorm2d(64, eps=1e-3)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, std=0.2)

    def pytorch(dtype, g):
        own = nn.BatchNorm2d(64, eps=1e-3).to(dtype)
        own.load_state_dict(norm.state_dict())
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        y = F.relu(own(leaf)) if relu else own(leaf)
        y.backward(g.to(dtype))
        return {"y": y.detach(), "x": leaf.grad, "weight": own.weight.grad, "bias": own.bias.grad}

    if relu:  # near its kink, rounding decides whether the gradient passes
        g = g * (pytorch(torch.float64, g)["y"] > 1e-3)
    y, affine = kernels.batch_norm(x, norm, relu)
    gx = torch.empty_like(x)
    weight, bias = kernels.batch_norm_backward(g, x, affine, relu, gx)
    norm.running_mean.zero_()
    assert_as_near({"y": y, "x": gx, "weight": weight, "bias": bias}, pytorch(torch.float32, g), pytorch(torch.float64, g))


@pytest.mark.parametrize("side", [2, 9, 40])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1), ((1, 7), (0, 3))])
def test_rounding_of_a_convolution(kernel, padding, side):
    torch.manual_seed(0)
    conv = nn.Conv2d(48, 40, kernel, 1, padding).to(**CHANNELS_LAST)
    x = torch.randn(4, 48, side, side).contiguous(**CHANNELS_LAST)
    g = torch.randn(4, 40, side, side).contiguous(**CHANNELS_LAST)

    def pytorch(dtype):
        own, leaf = nn.Conv2d(48, 40, kernel, 1, padding).to(dtype), x.to(dtype, copy=True).requires_grad_()
        own.load_state_dict(conv.state_dict())
        own(leaf).backward(g.to(dtype))
        return {"x": leaf.grad, "weight": own.weight.grad, "bias": own.bias.grad}

    ours = dict(zip(("x", "weight", "bias"), convolution_backward(g, x, conv.weight.detach(), conv, (True,) * 3), strict=True))
    assert_as_near(ours, pytorch(torch.float32), pytorch(torch.float64))


BLOCKS = [
    ("googlenet_bn", "inception_3a", {}),
    ("inception_v2", "mixed_5b", {}),
    ("inception_v3", "mixed_5b", {}),
    ("inception_v3", "mixed_6a", {}),
    ("inception_v3", "mixed_6b", {}),
    ("inception_v3", "mixed_7b", {}),
    ("inception_v4", "mixed_5b", {}),
    ("inception_resnet_v1", "block35_1", {}),
    ("inception_resnet_v2_slim", "block17_1", {}),
    ("googlenet", "inception_3a", {"norm": "none"}),
    ("inception_v4", "mixed_5b", {"norm": "group"}),
]


@needs_kernels
@pytest.mark.parametrize("lean", [False, True], ids=["plain", "lean"])
@pytest.mark.parametrize(("name", "block", "choices"), BLOCKS)
def test_rounding_of_a_block(name, block, choices, lean, monkeypatch):
    """Without ReLU: at its kink, rounding decides whether a gradient passes, here as in PyTorch.

    BatchNorm has at least four values per channel: the gradient through that of two is the rest of a difference, so that the
    CPU's rounding of the convolutions decides the error.
    """
    for size in ((4, 3), (4, 9), (2, 17)):
        found = {}
        for path in ("kernels", "pytorch", "float64"):
            torch.manual_seed(0)
            memory = "lean" if lean and path == "kernels" else "plain"
            model = create_model(name, 10, memory=memory, width=0.125, aux=False, **choices).to(**CHANNELS_LAST).train()
            place = next(each for each in model.plan.blocks if each.name == block)
            part = model.get_submodule(block).to(PATHS[path])
            for unit in part.modules():
                if "act" in unit._modules and "norm" in unit._modules:
                    del unit.act
            count, side = size
            torch.manual_seed(2)
            x, g = torch.randn(count, place.c_in, side, side), torch.randn(count, place.c_out, side, side)
            kind = PATHS[path]
            with monkeypatch.context() as patch:
                if path != "kernels":
                    patch.setattr(kernels, "library", lambda: None)
                leaf = x.to(kind).contiguous(**CHANNELS_LAST).requires_grad_()
                y = part(leaf)
                y.backward(g[..., : y.shape[2], : y.shape[3]].to(kind))
            found[path] = {"y": y.detach(), "x": leaf.grad, **{key: p.grad for key, p in part.named_parameters()}}
        assert_as_near(found["kernels"], found["pytorch"], found["float64"], f"{name} {block} {size}")
