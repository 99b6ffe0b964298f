"""`model.memory` and the CPU kernels: the same loss and gradients from less that is kept."""

from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from inception_zoo import ZooError, create_model, kernels
from inception_zoo.choices import MEMORY
from inception_zoo.cost import segments
from inception_zoo.memory.pools import windows
from inception_zoo.memory.recipes import recipe_of

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
    """The same weights whatever the mode, with BatchNorms that do something."""
    torch.manual_seed(seed)
    model = create_model(name, 10, memory=memory, **{"dropout": 0.0, **choices}).to(**CHANNELS_LAST)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model


@pytest.fixture
def by_pytorch(monkeypatch):
    """Switches the kernels off."""
    return lambda: monkeypatch.setattr(kernels, "library", lambda: None)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 16, 40, 64])
@pytest.mark.parametrize("relu", [True, False])
def test_batch_norm(dtype, channels, relu):
    """Maps far from zero, read from and written to the middle of larger ones, as in a concatenation."""
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

    y, affine = kernels.batch_norm(x, ours, relu, track=True)
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
    y, affine = kernels.batch_norm(x, nn.BatchNorm2d(16), True, track=False)
    assert torch.isfinite(affine).all() and not y.any()
    x[0, 3, 1, 1] = torch.nan
    y, _ = kernels.batch_norm(x, nn.BatchNorm2d(16), True, track=False)
    assert y[:, 3].isnan().all() and y.isnan().sum() == 18


POOLS = [(3, 2, 0, True), (3, 1, 1, False), (2, 2, 0, True), (3, 2, 1, False)]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [8, 16, 40, 64])
@pytest.mark.parametrize(("kernel", "stride", "pad", "ceil"), POOLS)
def test_pools(dtype, channels, kernel, stride, pad, ceil):
    torch.manual_seed(0)
    x = maps(3, channels, 13, 10, dtype=dtype).round()  # many equal values: the first of them is the maximum
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


BLOCKS = [
    ("googlenet_bn", {}, "inception_3a", 192),
    ("inception_v3", {}, "mixed_5b", 192),
    ("inception_v3", {}, "mixed_6a", 288),
    ("inception_v3", {}, "mixed_7b", 1280),
    ("inception_resnet_v1", {}, "block35_1", None),
    ("inception_v4", {"norm": "group", "activation": "gelu"}, "mixed_5b", 384),
    ("googlenet", {"norm": "none"}, "inception_3a", 192),
]


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_kernels), False], ids=["kernels", "pytorch"])
@pytest.mark.parametrize("lean", [False, True], ids=["plain", "lean"])
@pytest.mark.parametrize(("name", "choices", "block", "channels"), BLOCKS)
def test_gradients_of_a_block(name, choices, block, channels, lean, kernel, monkeypatch):
    """Against the same modules in double precision, whose arithmetic is PyTorch's own."""
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
]


@pytest.mark.parametrize(("name", "choices"), NETWORKS, ids=[name for name, _ in NETWORKS])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_modes_agree(name, choices, dtype):
    """To the last bit here: the same kernels see the same numbers, at once or again."""
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
        optimizer = torch.optim.SGD(model.parameters(), 0.02)
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


def test_a_changed_module_runs_as_a_module():
    """Hooks are called, and another convolution is; what they change is what is learnt from."""
    images, labels = maps(2, 3, 75, 75), torch.tensor([0, 1])
    for memory in MEMORY[:2]:
        model = built("inception_v3", memory, width=0.25, aux=False)
        model.mixed_5b[0][0].register_forward_hook(lambda module, args, y: y * 0)
        _, found = gradients(model, images, labels)
        assert not found["mixed_5b.0.0.conv.weight"].any() and found["mixed_5b.1.0.conv.weight"].any()


def test_maps_that_somebody_changed_are_kept():
    model = built("inception_v3", "lean", width=0.25, aux=False).train()
    maps_ = (
        model.conv_1a(maps(2, 3, 75, 75))
        if hasattr(model, "conv_1a")
        else model.get_submodule(model.plan.blocks[0].name)(maps(2, 3, 75, 75))
    )
    assert recipe_of(maps_) is not None
    maps_.mul_(2)
    assert recipe_of(maps_) is None


def saved(model, images):
    """Bytes that autograd keeps, each storage once."""
    seen = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        seen.setdefault(storage._cdata, (tensor, storage.nbytes()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    return sum(size for _, size in seen.values())


def saved_per_image(model, size):
    """What grows with the batch, in MiB."""
    one, two = (saved(model.to(**CHANNELS_LAST).train(), maps(n, 3, size, size)) for n in (1, 2))
    return (two - one) / 2**20


PEERS = [
    ("googlenet_bn", 224, lambda: torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False), 46.0),
    ("inception_v3", 299, lambda: torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False), 93.7),
    pytest.param("inception_v4", 299, lambda: timm.create_model("inception_v4"), 164.3, marks=pytest.mark.slow),
    pytest.param(
        "inception_resnet_v2_slim", 299, lambda: timm.create_model("inception_resnet_v2"), 175.8, marks=pytest.mark.slow
    ),
]


@needs_kernels
@pytest.mark.parametrize(("name", "size", "peer", "known"), PEERS)
def test_bytes_kept_beside_the_peers(name, size, peer, known):
    """The targets of `experiments/benchmarks`: half of what the public implementations keep, and 15 %."""
    theirs = saved_per_image(peer(), size)
    assert theirs == pytest.approx(known, rel=0.01)
    ours = {memory: saved_per_image(create_model(name, aux=False, memory=memory), size) for memory in MEMORY}
    assert ours["plain"] < theirs and ours["lean"] <= 0.5 * theirs and ours["minimal"] <= 0.15 * theirs


def test_nothing_is_kept_out_of_sight():
    """What is alive after the forward pass is what the hooks of autograd have seen."""
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode

    class Births(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.born = {}

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else (made,):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    self.born[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            return made

    for memory in MEMORY:
        model, images = built("inception_v3", memory, width=0.5, aux=False).train(), maps(2, 3, 107, 107)
        with Births() as births:
            logits = model(images)
        own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        alive = sum(size for key, (ref, size) in births.born.items() if not ref.expired() and key not in own)
        model.zero_grad()
        del logits
        kept = saved(model, images)
        assert alive <= 1.03 * kept + 2**16, (memory, alive, kept)


def test_segments():
    """The stem first; then as much at a time as the stem gives; cut where an auxiliary head is."""
    for name, aux in (("inception_v3", False), ("inception_v3", True), ("inception_v4", False)):
        plan = create_model(name, aux=aux or None if name == "inception_v3" else None).plan
        groups = segments(plan, (299, 299))
        assert [endpoint for group in groups for endpoint in group] == [block.name for block in plan.blocks]
        assert groups[0] == [block.name for block in plan.blocks if block.stage == plan.blocks[0].stage]
        assert len(groups) <= 4
        assert all(any(group[-1] == tap for group in groups) for tap in plan.aux)


def test_no_such_mode(zoo, mistake):
    with pytest.raises(ZooError, match="memory=leen is unknown; did you mean 'lean'"):
        create_model("inception_v3").remember("leen")
    result = mistake("model.memory=leen")
    assert result.returncode == 2 and "model.memory=leen" in result.stderr
    result = mistake("model.memory=lean", "model.compile=true")
    assert result.returncode == 2 and "memory=lean with compile=true" in result.stderr
