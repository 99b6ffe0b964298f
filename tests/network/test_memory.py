"""`model.memory` and the CPU kernels: equal loss and gradients with less activation memory."""

import copy
from collections import OrderedDict
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from inception_zoo import ZooError, create_model
from inception_zoo.architecture.choices import MEMORY
from inception_zoo.bench.memory import saved_bytes
from inception_zoo.network import kernels
from inception_zoo.network.autograd.pools import windows
from inception_zoo.network.autograd.recipes import recipe_of
from inception_zoo.network.autograd.segments import segments
from inception_zoo.network.autograd.units import FEW, NARROW, convolution_backward
from inception_zoo.network.blocks import MaxPool

CHANNELS_LAST = {"memory_format": torch.channels_last}
needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler here")


def maps(*shape, dtype=torch.float32, shift=0.0):
    return (torch.randn(shape) * 2 + shift).to(dtype).contiguous(**CHANNELS_LAST)


def gradients(model, images, labels, dtype=None):
    model.train()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        outputs = model.outputs(images)
        loss = sum(F.cross_entropy(logits, labels) for logits in (outputs.logits, *outputs.aux.values()))
    loss.backward()
    found = {name: weights.grad.clone() for name, weights in model.named_parameters()}
    model.zero_grad()
    return loss.item(), found


def built(name, memory="plain", seed=0, **choices):
    """Build a network with the same weights in every mode and with non-trivial BatchNorm parameters."""
    torch.manual_seed(seed)
    model = create_model(name, choices.pop("num_classes", 10), memory=memory, **{"dropout": 0.0, **choices}).to(**CHANNELS_LAST)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model


@pytest.fixture
def by_pytorch(monkeypatch):
    """Return a function that disables the CPU kernels."""
    return lambda: monkeypatch.setattr(kernels, "library", lambda: None)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 16, 40, 64])
@pytest.mark.parametrize("relu", [True, False])
def test_batch_norm(dtype, channels, relu):
    """Feature maps with a mean far from zero, as views into larger tensors, as in a concatenation."""
    torch.manual_seed(0)
    whole, gradient = maps(3, channels + 24, 13, 11, dtype=dtype, shift=9.0), maps(3, channels + 24, 13, 11, dtype=dtype)
    x, g = (t[:, 8 : 8 + channels] for t in (whole, gradient))
    ours, theirs = (nn.BatchNorm2d(channels, eps=1e-3) for _ in range(2))
    for norm in (ours, theirs):
        torch.manual_seed(1)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    theirs.double()
    exact = x.double().requires_grad_()
    due = F.relu(theirs(exact)) if relu else theirs(exact)
    due.backward(g.double())

    y, affine = kernels.batch_norm(x, ours, relu)
    gx = torch.zeros_like(whole)[:, 8 : 8 + channels]
    gweight, gbias = kernels.batch_norm_backward(g, x, affine, relu, gx)
    close = partial(torch.testing.assert_close, check_dtype=False)
    close(y, due, **({"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}))
    close(gx, exact.grad, **({"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-2}))
    close(gweight, theirs.weight.grad, rtol=1e-4, atol=2e-3)
    close(gbias, theirs.bias.grad, rtol=1e-4, atol=2e-3)
    close(ours.running_mean, theirs.running_mean)
    close(ours.running_var, theirs.running_var, rtol=1e-4, atol=1e-5)
    assert ours.num_batches_tracked == 1
    again = torch.zeros_like(whole)
    kernels.normalize(x, affine, relu, out=again[:, 8 : 8 + channels])
    assert torch.equal(again[:, 8 : 8 + channels], y) and not again[:, :8].any() and not again[:, 8 + channels :].any()


@needs_kernels
def test_batch_norm_of_one_value_and_of_nan():
    x = torch.full((2, 16, 3, 3), 7.0).contiguous(**CHANNELS_LAST)
    y, affine = kernels.batch_norm(x, nn.BatchNorm2d(16), True)
    assert torch.isfinite(affine).all() and not y.any()
    x[0, 3, 1, 1] = torch.nan
    y, _ = kernels.batch_norm(x, nn.BatchNorm2d(16), True)
    assert y[:, 3].isnan().all() and y.isnan().sum() == 18


@needs_kernels
def test_batch_norm_refuses_a_single_value_per_channel():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        kernels.batch_norm(torch.zeros(1, 16, 1, 1), nn.BatchNorm2d(16), True)


@needs_kernels
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_numbers_of_channels_are_fp32_whatever_the_default_is(default):
    """Lightning's bf16-true changes the default dtype during a step."""
    torch.manual_seed(0)
    x, norm = maps(2, 16, 3, 3), nn.BatchNorm2d(16)
    due = kernels.batch_norm(x, norm, True)
    torch.set_default_dtype(default)
    try:
        found = kernels.batch_norm(x, norm, True)
        gradients = kernels.batch_norm_backward(x, x, found[1], True, torch.empty_like(x))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, due)) and all(g.dtype == torch.float32 for g in gradients)


@needs_kernels
@pytest.mark.parametrize("momentum", [0, 1])
def test_momentum_may_be_a_whole_number(momentum):
    x, ours, theirs = maps(2, 16, 3, 3), *(nn.BatchNorm2d(16, momentum=momentum) for _ in range(2))
    kernels.batch_norm(x, ours, True)
    theirs(x)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


POOLS = [(3, 2, 0, True), (3, 1, 1, False), (2, 2, 0, True), (3, 2, 1, False)]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [8, 16, 40, 64])
@pytest.mark.parametrize(("kernel", "stride", "pad", "ceil"), POOLS)
@pytest.mark.parametrize("size", [(13, 10), (2, 3)], ids=["usual", "smallest"])  # in ceil mode, a window of 3x3 fits into 2x3
def test_pools(size, dtype, channels, kernel, stride, pad, ceil):
    torch.manual_seed(0)
    x = maps(3, channels, *size, dtype=dtype).round()  # many ties: the first one is the maximum
    pools = [nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil)]
    pools += [nn.AvgPool2d(kernel, stride, pad, ceil, count) for count in (True, False)]
    for pool in pools:
        exact = x.double().requires_grad_()
        due = pool(exact)
        g = maps(*due.shape, dtype=dtype)
        due.backward(g.double())
        axes = [(n, o, *w) for n, o, w in zip(x.shape[2:], due.shape[2:], windows(pool), strict=True)]
        if isinstance(pool, nn.MaxPool2d):
            y, which = kernels.max_pool(x, *axes)
            gx = kernels.max_pool_backward(g, which, *axes)
        else:
            y = kernels.average_pool(x, *axes, pool.count_include_pad)
            gx = kernels.average_pool_backward(g, *axes, pool.count_include_pad)
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
        torch.testing.assert_close(y, due.to(dtype), **tolerance)
        torch.testing.assert_close(gx, exact.grad.to(dtype), **tolerance)


CONVOLUTIONS = [  # input channels, output channels, kernel, stride, padding
    (16, 8, 1, 1, 0),
    (1040, 8, 1, 1, 0),
    (49, 21, 3, 1, 1),
    (48, 24, (1, 7), 1, (0, 3)),
    (40, 72, (7, 1), 1, (3, 0)),
    (3, 9, 5, 1, (1, 2)),
    (16, 8, 1, 1, (1, 0)),
    (16, 24, 3, 2, 0),
    (8, 16, 1, 2, 0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(3, 13, 10), (2, 47, 48)], ids=["few", "many"])  # few positions: matrix product; many: oneDNN
@pytest.mark.parametrize(("inputs", "outputs", "kernel", "stride", "padding"), CONVOLUTIONS)
def test_gradients_of_a_convolution(size, dtype, inputs, outputs, kernel, stride, padding):
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding).to(dtype).to(**CHANNELS_LAST)
    n, *grid = size
    x = maps(n, inputs, *grid, dtype=dtype)
    exact, leaf = copy.deepcopy(conv).double(), x.double().requires_grad_()
    y = exact(leaf)
    assert (y[:, 0].numel() <= FEW) == (grid[0] < 30) and (inputs > NARROW) == (inputs == 1040)
    g = maps(*y.shape, dtype=dtype)
    y.backward(g.double())
    due = leaf.grad, exact.weight.grad, exact.bias.grad
    for each, right in zip(convolution_backward(g, x, conv.weight, conv, (True, True, True)), due, strict=True):
        within = 2e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(each.double(), right, rtol=within, atol=within * right.abs().max().item())


@pytest.mark.parametrize("name", ["googlenet_bn", "inception_resnet_v2_slim"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_gradients_lie_as_their_weights_do(name, dtype):
    """Gradients have the memory layout of their weights; otherwise DDP and foreach optimizers copy them."""
    model = built(name, aux=False)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        loss = model(maps(2, 3, 96, 96)).float().square().mean()
    parameters = list(model.parameters())
    for weights, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        assert (gradient.stride(), gradient.dtype) == (weights.stride(), weights.dtype)


BLOCKS = [
    ("googlenet_bn", {}, "inception_3a", 192),
    ("inception_v3", {}, "mixed_5b", 192),
    ("inception_v3", {}, "mixed_6a", 288),
    ("inception_v3", {}, "mixed_7b", 1280),
    ("inception_resnet_v1", {}, "block35_1", None),
    ("inception_v4", {"norm": "group", "activation": "gelu"}, "mixed_5b", 384),
    ("googlenet", {"norm": "none"}, "inception_3a", 192),
    ("xception", {}, "block2", None),
    ("googlenet_bn", {"blocks": {"inception_3a": ["3x3g8 256 > 3x3d2 256"]}}, "inception_3a", 192),
]


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_kernels), False], ids=["kernels", "pytorch"])
@pytest.mark.parametrize("lean", [False, True], ids=["plain", "lean"])
@pytest.mark.parametrize(("name", "choices", "block", "channels"), BLOCKS)
def test_gradients_of_a_block(name, choices, block, channels, lean, kernel, monkeypatch):
    """Compared with the same modules in float64, which use PyTorch's own operators."""
    if not kernel:
        monkeypatch.setattr(kernels, "library", lambda: None)
    model = built(name, "lean" if lean else "plain", width=0.25, **choices)
    place = next(b for b in model.plan.blocks if b.name == block)
    part = model.get_submodule(block).train()
    torch.manual_seed(1)
    x = maps(4, place.c_in, 9, 9)
    found = []
    for dtype in (torch.float32, torch.float64):
        part.to(dtype).zero_grad()
        images = x.detach().clone().to(dtype).requires_grad_()
        y = part(images)
        torch.manual_seed(2)
        y.backward(torch.randn(y.shape, dtype=torch.float64).to(dtype))
        found.append([y, images.grad, *(p.grad.clone() for p in part.parameters())])
    for ours, exact in zip(*found, strict=True):
        assert (ours - exact).norm() <= 2e-4 * max(exact.norm(), 1e-3), (ours - exact).norm() / exact.norm()


NETWORKS = [
    ("inception_v3", {}),
    ("inception_v4", {}),
    ("inception_resnet_v2_slim", {}),
    ("googlenet", {"norm": "none", "aux": True}),
    ("bn_inception", {"norm": "group", "activation": "silu"}),
    ("xception", {}),
]


@pytest.mark.parametrize(("name", "choices"), NETWORKS, ids=[name for name, _ in NETWORKS])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_modes_agree(name, choices, dtype):
    """Losses and gradients agree up to rounding; BatchNorm statistics are bit-equal."""
    torch.manual_seed(3)
    images, labels = maps(4, 3, 112, 112), torch.randint(0, 10, (4,))
    found, statistics = {}, {}
    for memory in MEMORY:
        model = built(name, memory, width=0.125, stem="medium", **{"aux": False, **choices})
        loss = gradients(model, images, labels, dtype)
        found[memory], statistics[memory] = loss, dict(model.named_buffers())
    for memory in MEMORY[1:]:
        assert found[memory][0] == pytest.approx(found["plain"][0], rel=1e-6 if dtype is None else 1e-3)
        for key, gradient in found["plain"][1].items():
            difference = (found[memory][1][key] - gradient).norm()
            assert difference <= (1e-3 if dtype is None else 3e-2) * max(gradient.norm(), 1e-4), (memory, key)
        for key, buffer in statistics["plain"].items():
            assert torch.equal(buffer, statistics[memory][key]), (memory, key)


@pytest.mark.parametrize("memory", MEMORY)
def test_backward_may_be_called_inside_of_autocast(memory):
    torch.manual_seed(3)
    images, labels = maps(4, 3, 112, 112), torch.randint(0, 10, (4,))
    model = built("xception", memory, width=0.125, stem="medium")
    expected = gradients(model, images, labels)[1]
    loss = F.cross_entropy(model(images), labels)
    with torch.autocast("cpu", torch.bfloat16):
        loss.backward()
    for name, weights in model.named_parameters():
        assert (weights.grad - expected[name]).norm() <= 3e-2 * max(expected[name].norm(), 1e-4), name


def test_random_layers_draw_the_same_again():
    torch.manual_seed(3)
    images, labels = maps(4, 3, 107, 107), torch.randint(0, 10, (4,))
    found = []
    for memory in ("lean", "minimal"):
        model = built("inception_resnet_v1", memory, width=0.125, stem="medium", drop_path=0.5, dropout=0.5)
        torch.manual_seed(4)
        found.append(gradients(model, images, labels))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][key], found[1][1][key]) for key in found[0][1])


@needs_kernels
def test_kernels_learn_as_pytorch_does(by_pytorch):
    torch.manual_seed(3)
    images, labels = maps(16, 1, 28, 28), torch.randint(0, 10, (16,))

    def losses():
        model = built("googlenet", in_channels=1, width=0.25, stem="medium", norm="batch", aux=False)
        optimizer = torch.optim.SGD(model.parameters(), 0.005)
        found = []
        for _ in range(6):
            optimizer.zero_grad()
            loss = F.cross_entropy(model.train()(images), labels)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    ours = losses()
    by_pytorch()
    assert ours == pytest.approx(losses(), rel=2e-2) and ours[-1] < ours[0]


def _hook(module):
    module.register_forward_hook(lambda module, args, y: y * 0)


def _convolve_otherwise(unit, **how):
    old = unit.conv
    unit.conv = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, bias=False, **how)


class Twice(nn.ReLU):
    def forward(self, x):
        return x * 2


CHANGES = {  # applied to mixed_5b of Inception-v3
    "hook on a unit": lambda block: _hook(block[0][0]),
    "hook on a convolution": lambda block: _hook(block[1][1].conv),
    "hook on a row": lambda block: _hook(block[0]),
    "hook on an average pool": lambda block: _hook(block[3][0]),
    "reflected padding": lambda block: _convolve_otherwise(block[1][1], padding=2, padding_mode="reflect"),
    "dilation": lambda block: _convolve_otherwise(block[2][1], padding=2, dilation=2),
    "padding by name": lambda block: _convolve_otherwise(block[2][1], padding="same"),
    "one more layer in a unit": lambda block: block[0][0].append(nn.Dropout2d(1.0)),
    "another row": lambda block: block.__setitem__(0, nn.Sequential(block[0][0], nn.Dropout2d(1.0))),
    "another unit": lambda block: block[3].__setitem__(1, nn.Sequential(OrderedDict(block[3][1].named_children()))),
    "another activation": lambda block: setattr(block[0][0], "act", Twice()),
}
RESIDUAL_CHANGES = {  # applied to block35_2 of Inception-ResNet-v2
    "hook on a projection": lambda block: _hook(block.project),
    "hook on the sum": lambda block: _hook(block.act),
    "another projection": lambda block: setattr(block, "project", nn.Conv2d(*block.project.weight.shape[1::-1], 3, padding=1)),
}
CHANGED = [("inception_v3", "mixed_5b", change) for change in CHANGES.items()]
CHANGED += [("inception_resnet_v2_slim", "block35_2", change) for change in RESIDUAL_CHANGES.items()]


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(("name", "block", "change"), CHANGED, ids=[change for *_, (change, _) in CHANGED])
def test_a_changed_module_runs_as_a_module(name, block, change, memory):
    """Equal to PyTorch's modules, which run without gradients. BatchNorm statistics are updated once, also if recomputed."""
    model = built(name, memory, width=0.25, aux=False, num_classes=2).train()
    model.fc.weight.data.mul_(10)
    change[1](model.get_submodule(block))
    images, twin = maps(8, 3, 128, 128), copy.deepcopy(model)
    with torch.no_grad():
        due = twin(images)
    found = model(images)
    assert (found - due).norm() <= 1e-2 * due.norm()
    found.sum().backward()
    for (key, buffer), expected in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=2e-2, atol=2e-2, msg=key)


def test_what_a_hook_changes_is_what_is_learnt_from():
    images, labels = maps(2, 3, 75, 75), torch.tensor([0, 1])
    for memory in MEMORY:
        model = built("inception_v3", memory, width=0.25, aux=False)
        _hook(model.mixed_5b[0][0])
        _, found = gradients(model, images, labels)
        assert not found["mixed_5b.0.0.conv.weight"].any() and found["mixed_5b.1.0.conv.weight"].any()


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_kernels), False], ids=["kernels", "pytorch"])
def test_frozen_norms(memory, kernel, by_pytorch):
    """As in fine-tuning: BatchNorm in eval mode with parameters that do not require gradients."""
    if not kernel:
        by_pytorch()
    images, labels, found = maps(2, 3, 75, 75), torch.tensor([0, 1]), []
    for mode in ("plain", memory):
        model = built("inception_v3", mode, width=0.25, aux=False).train()
        for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            norm.eval().requires_grad_(False)
        F.cross_entropy(model(images), labels).backward()
        found.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, rtol=1e-3, atol=1e-5)


def test_a_branch_of_another_type_under_autocast():
    images, labels, found = maps(2, 3, 75, 75), torch.tensor([0, 1]), []
    for memory in MEMORY:
        model = built("inception_v3", memory, width=0.25, aux=False)
        model.mixed_5c[1].register_forward_hook(lambda module, args, y: y.float())
        found.append(gradients(model, images, labels, torch.bfloat16)[0])
    assert found == pytest.approx(found[:1] * 3, rel=1e-3)


@needs_kernels
def test_the_gradient_of_a_pool_over_more_than_a_byte_counts():
    x = maps(1, 8, 20, 20).requires_grad_()
    MaxPool(17, 17).train()(x).sum().backward()
    assert x.grad.sum() == 8


def test_maps_that_somebody_changed_are_kept():
    model = built("inception_v3", "lean", width=0.25, aux=False).train()
    x = model.get_submodule(model.plan.blocks[0].name)(maps(2, 3, 75, 75))
    assert recipe_of(x) is not None
    x.mul_(2)
    assert recipe_of(x) is None


def saved_per_image(model, size):
    """Return the MiB saved for backward for each image."""
    return saved_bytes(model.to(**CHANNELS_LAST).train(), maps(3, 3, size, size)) / 2**20


PEERS = [
    ("googlenet_bn", 224, lambda: torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False), 46.0),
    ("inception_v3", 299, lambda: torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False), 93.7),
    pytest.param("inception_v4", 299, lambda: timm.create_model("inception_v4"), 164.3, marks=pytest.mark.slow),
    pytest.param(
        "inception_resnet_v2_slim", 299, lambda: timm.create_model("inception_resnet_v2"), 175.8, marks=pytest.mark.slow
    ),
    pytest.param("xception_timm", 299, lambda: timm.create_model("legacy_xception"), 234.1, marks=pytest.mark.slow),
]


@needs_kernels
@pytest.mark.parametrize(("name", "size", "peer", "known"), PEERS)
def test_bytes_kept_beside_the_peers(name, size, peer, known):
    """Targets of `experiments/benchmarks`: `lean` at most 50 %, `minimal` at most 15 % of the public implementations' bytes."""
    theirs = saved_per_image(peer(), size)
    assert theirs == pytest.approx(known, rel=0.01)
    ours = {memory: saved_per_image(create_model(name, aux=False, memory=memory), size) for memory in MEMORY}
    assert ours["plain"] < theirs and ours["lean"] <= 0.5 * theirs and ours["minimal"] <= 0.15 * theirs


class Births(TorchDispatchMode):
    """Records every storage that is allocated inside the context, with its bytes."""

    def __enter__(self):
        self.born = {}
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.born[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return made

    def alive(self):
        return sum(size for ref, size in self.born.values() if not ref.expired())


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2_slim", "xception"])
def test_nothing_is_kept_out_of_sight(name, memory):
    """The bytes of an image alive after the forward pass equal the bytes seen by autograd's saved-tensor hooks."""
    model = built(name, memory, width=0.25, aux=False).train()
    alive = []
    for count in (1, 2):
        with Births() as births:
            logits = model(maps(count, 3, 224, 224))
        alive.append(births.alive())
        del logits
    kept = saved_bytes(model, maps(3, 3, 224, 224))
    assert alive[1] - alive[0] <= 1.02 * kept + 2**12  # logits and per-image scalars


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lean_keeps_no_copy_of_the_weights(dtype):
    """1x1 convolutions with the same input share joined weights, and autocast casts all weights: both are recomputed."""
    model = built("inception_v3", "lean", aux=False).train()
    alive, own = [], {weights.untyped_storage()._cdata for weights in model.parameters()}
    for count in (2, 3):
        with Births() as births, torch.autocast("cpu", dtype, enabled=dtype != torch.float32, cache_enabled=False):
            logits = model(maps(count, 3, 107, 107))
        births.born = {key: each for key, each in births.born.items() if key not in own}
        alive.append(births.alive())
        del logits
    constant = 3 * alive[0] - 2 * alive[1]
    assert 0 < constant < 2**20 < 0.02 * sum(weights.nbytes for weights in model.parameters())


def test_what_is_read_no_more_is_let_go():
    model = built("inception_v3", width=0.25, aux=False).eval()
    images, alive = maps(1, 3, 224, 224), []
    with torch.no_grad(), Births() as births:
        model.mixed_7c.register_forward_hook(lambda module, args, y: alive.append(births.alive()))
        model(images)
    last_two = sum(each.numel() * 4 for each in list(model.endpoints(images).values())[-2:])
    assert alive[0] <= 1.5 * last_two  # plus the concatenated branches of a fork


def test_segments():
    """The stem is the first segment. Later segments are of about its size and end at auxiliary heads."""
    for name, aux in (("inception_v3", False), ("inception_v3", None), ("inception_v4", False), ("inception_resnet_v2", False)):
        plan = create_model(name, aux=aux).plan
        groups = segments(plan, (299, 299))
        assert [endpoint for group in groups for endpoint in group] == [block.name for block in plan.blocks]
        assert groups[0] == [block.name for block in plan.blocks if block.stage == plan.blocks[0].stage]
        assert len(groups) <= 4
        assert all(any(group[-1] == tap for group in groups) for tap in plan.aux)
        assert bool(plan.aux) == (aux is None)


def test_no_such_mode(zoo, mistake):
    with pytest.raises(ZooError, match="memory=leen is unknown; did you mean 'lean'"):
        create_model("inception_v3").remember("leen")
    result = mistake("model.memory=leen")
    assert result.returncode == 2 and "model.memory=leen" in result.stderr
    result = mistake("model.memory=lean", "model.compile=true")
    assert result.returncode == 2 and "memory=lean cannot be combined with compile=true" in result.stderr
