"""Convolutions in half precision on narrow grids: right on every CPU, since the calls that oneDNN gets wrong are not made.

The convolutions are compared with fp32. On a CPU with AMX, the cases with one column of outputs and a stride above 1 fail
without the rule of `network.autograd.narrow`. `AsOnAmx` gives every other CPU that fault.
"""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from inception_zoo import create_model
from inception_zoo.architecture.choices import VALID
from inception_zoo.architecture.cost import convolutions
from inception_zoo.architecture.geometry import padding
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.notation import Conv, parse
from inception_zoo.architecture.plan import make_plan
from inception_zoo.architecture.reductions import REDUCTIONS
from inception_zoo.network import autograd, kernels
from inception_zoo.network.autograd.units import Unit, convolution_backward, run_units
from inception_zoo.network.blocks import ConvUnit, build_row
from inception_zoo.serving.folding import OneCall, fuse

HALF = torch.bfloat16


def calls():
    """Return (kernel, stride, padding, input channels, output channels) of each convolution in a row of the family."""
    plans = [make_plan(net, stem=stem) for net in ZOO.values() for stem in VALID["stem"]]
    plans += [make_plan(net, blocks={"all": reduction}) for net in ZOO.values() for reduction in REDUCTIONS]
    found = {
        (op.kernel, op.stride, padding(op), channels, op.width)
        for plan in plans
        for block in plan.blocks
        for row in block.rows
        for channels, op, _, _ in convolutions(row, block.c_in, (9999, 9999))
        if isinstance(op, Conv)
    }
    return sorted(found)


STRIDED = [call for call in calls() if call[1] > 1]
FEW = sorted({(kernel, stride, pad, min(c_in, 64), min(c_out, 96)) for kernel, stride, pad, c_in, c_out in calls()})


class AsOnAmx(TorchDispatchMode):
    """Return NaN where oneDNN 3.12 returns garbage on CPUs with AMX, and count the convolutions."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.convolution.default, torch.ops.mkldnn._convolution_pointwise.default):
            x, weight = args[:2]
            stride = args[3] if func is torch.ops.aten.convolution.default else args[4]
            self.seen += x.dtype == HALF
            if x.dtype == HALF and found.shape[-1] == 1 and stride[1] > 1 and weight.shape[-1] > 1:
                found = torch.full_like(found, torch.nan)
        return found


def ways(conv, x):
    """Yield the output of `conv` for `x`, computed in each way in which the package calls a convolution."""
    unit = ConvUnit.__new__(ConvUnit)
    nn.Module.__init__(unit)
    unit.conv = conv
    yield "module", unit.eval()(x)
    yield "training", run_units(x, [Unit(conv)], lean=False)[0]
    if kernels.in_one_call(x.dtype):
        with torch.no_grad():
            yield "one call", OneCall(conv, relu=False)(x)


def check(call, height, width, layout):
    kernel, stride, pad, c_in, c_out = call
    if min(height + 2 * pad[0] - kernel[0], width + 2 * pad[1] - kernel[1]) < 0:
        return
    conv = nn.Conv2d(c_in, c_out, kernel, stride, pad).to(HALF)
    x = torch.randn(1, c_in, height, width).to(HALF).contiguous(memory_format=layout)
    expected = F.conv2d(x.float(), conv.weight.float(), conv.bias.float(), stride, pad)
    for way, y in ways(conv, x):
        assert y.shape == expected.shape and y.dtype == HALF
        torch.testing.assert_close(y.float(), expected, rtol=2**-7, atol=2**-7, msg=lambda text: f"{way}: {text}")  # noqa: B023
    g = torch.randn_like(expected).to(HALF)
    args = conv.stride, conv.padding, conv.dilation, False, [0, 0], 1
    expected = torch.ops.aten.convolution_backward(g.float(), x.float(), conv.weight.float(), [c_out], *args, [True] * 3)
    for found, due in zip(convolution_backward(g, x, conv.weight.detach(), conv, [True] * 3), expected, strict=True):
        torch.testing.assert_close(found.float(), due, rtol=2**-6, atol=2**-6 * due.std(correction=0).item())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_convolutions_of_the_family(width, layout):
    for call in FEW:
        check(call, 11, width, layout)


def test_strided_convolutions_of_the_family_with_all_channels():
    for call in STRIDED:
        check(call, 11, 3, torch.channels_last)


@pytest.mark.parametrize("row", ["3x3/3g", "5x5/2g", "7x7/2g", "5x5/2g4 32"])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_depthwise_and_grouped_convolutions(row, width):
    torch.manual_seed(0)
    plan = create_model("googlenet", norm="none").plan
    layer = build_row(plan, parse(row), 16)[0]
    x = torch.randn(2, 16, 12, width).contiguous(memory_format=torch.channels_last)
    found = []
    for dtype in (torch.float32, HALF):
        layer.to(dtype).zero_grad()
        images = x.detach().to(dtype, copy=True).requires_grad_()
        with AsOnAmx():
            y = layer(images)
        y.float().square().sum().backward()
        found.append([y.float(), images.grad.float(), layer.get_parameter(next(iter(layer.state_dict()))).grad.clone().float()])
    for right, half in zip(*found, strict=True):
        torch.testing.assert_close(half, right, rtol=0.1, atol=0.1 * right.abs().max().item())


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("memory", ["plain", "lean", "minimal"])
@pytest.mark.parametrize("by", ["autocast", "weights", "kernels off"])
def test_a_network_on_narrow_images(by, memory, training, monkeypatch):
    """Inception-v3 at 288x96 reaches `mixed_7a` with a grid of 16x4, and gives 7x1."""
    if by == "kernels off":
        monkeypatch.setattr(kernels, "library", lambda: None)
    model = create_model("inception_v3", 5, width=0.125).train(training)
    model.remember(memory)
    x = torch.randn(2, 3, 288, 96)
    if by == "weights":
        model, x = model.to(HALF), x.to(HALF)
    on_amx = AsOnAmx()
    with on_amx, torch.autocast("cpu", HALF, enabled=by != "weights"):
        outputs = model.outputs(x)
        loss = outputs.logits.float().square().sum() + sum(each.float().square().sum() for each in outputs.aux.values())
    if training:
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
    assert loss.isfinite() and on_amx.seen > 50
    assert model.endpoints(x.to(next(model.parameters()).dtype))["mixed_7a"].shape[2:] == (7, 1)


@pytest.mark.skipif(not kernels.in_one_call(HALF), reason="oneDNN does not compute bf16 on this CPU")
def test_a_served_network_on_narrow_images():
    model = create_model("inception_v3", 5, width=0.125).eval()
    x = torch.randn(2, 3, 288, 96).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        served, on_amx = fuse(model, HALF), AsOnAmx()
        with on_amx:
            found = served(x.to(HALF))
        assert on_amx.seen > 50
        torch.testing.assert_close(found.float(), model(x), rtol=0.1, atol=0.1 * model(x).std().item())


def test_the_fault_would_be_seen():
    """`AsOnAmx` gives NaN for PyTorch's own call, in one column of outputs only."""
    conv, x = nn.Conv2d(64, 96, 3, 2).to(HALF), torch.randn(4, 64, 11, 5).to(HALF)
    with AsOnAmx(), torch.no_grad():
        assert [conv(x[..., :width]).isnan().any().item() for width in (3, 4, 5)] == [True, True, False]


def test_only_narrow_calls_change():
    """The usual calls run as they are; a convolution that pads with copies of the image is left alone."""
    conv = nn.Conv2d(8, 8, 3, 2, 1)
    for dtype, width, narrow in [(HALF, 2, True), (HALF, 1, True), (HALF, 3, False), (torch.float32, 2, False)]:
        assert autograd.narrow.is_narrow(torch.empty(1, 8, 9, width, dtype=dtype), *autograd.width_of(conv)) is narrow
    with torch.autocast("cpu", HALF):
        assert autograd.narrow.is_narrow(torch.empty(1, 8, 9, 2), *autograd.width_of(conv))
    assert not autograd.narrow.is_narrow(torch.empty(1, 8, 9, 2, dtype=HALF, device="meta"), *autograd.width_of(conv))
    circular = nn.Conv2d(8, 8, 3, 2, 1, padding_mode="circular")
    assert not autograd.narrow.is_narrow(torch.empty(1, 8, 9, 2, dtype=HALF), *autograd.width_of(circular))


class Same(nn.Conv2d):
    """A convolution that pads in its own `forward`, as timm's `Conv2dSame` does."""

    def forward(self, x):
        wanted = [
            max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(x.shape[2:], self.stride, self.kernel_size, strict=True)
        ]
        (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in wanted)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), self.weight, self.bias, self.stride)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("lean", [False, True], ids=["plain", "lean"])
def test_a_layer_that_pads_in_its_own_forward(lean, training):
    """Two columns of outputs for a grid of 16x4, where an ordinary convolution gives one."""
    unit = create_model("inception_v3", 5, width=0.125).mixed_7a[0][-1].train(training)
    unit.conv, unit.lean = Same(unit.conv.in_channels, unit.conv.out_channels, 3, 2, bias=False), lean
    x = torch.randn(2, unit.conv.in_channels, 16, 4)
    due, found = unit(x), unit.to(HALF)(x.to(HALF))
    assert found.shape == due.shape == (2, unit.conv.out_channels, 8, 2)
    torch.testing.assert_close(found.float(), due, rtol=0.1, atol=0.1)


def test_a_convolution_with_a_parametrization_is_narrow():
    unit = create_model("inception_v3", 5, width=0.125).mixed_7a[0][-1].eval()
    nn.utils.parametrizations.weight_norm(unit.conv)
    assert type(unit.conv) is not nn.Conv2d
    with AsOnAmx(), torch.no_grad():
        found = unit.to(HALF)(torch.randn(2, unit.conv.in_channels, 16, 4).to(HALF))
    assert found.shape[2:] == (7, 1) and found.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, HALF] if kernels.in_one_call(HALF) else [torch.float32])
def test_a_served_network_keeps_layers_of_ones_own(dtype):
    model = create_model("inception_resnet_v1", 5, width=0.125, stem="small").eval()
    units = [unit for unit in model.modules() if isinstance(unit, ConvUnit) and unit.conv.kernel_size == (3, 3)]
    layers = Same, partial(nn.Conv2d, padding="same"), partial(nn.Conv2d, padding=1, padding_mode="circular")
    for unit, layer in zip(units, layers, strict=False):
        unit.conv = layer(unit.conv.in_channels, unit.conv.out_channels, 3, bias=False)
    x = torch.randn(2, 3, 48, 48).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        found, due = fuse(model, dtype)(x.to(dtype)), model(x)
    torch.testing.assert_close(found.float(), due, rtol=0.1, atol=(0.1 if dtype == HALF else 1e-4) * due.std().item())
