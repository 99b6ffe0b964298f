"""Transforms, and changes between forward and backward: the gradients equal those of PyTorch, or the change is refused."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, functional
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointError, checkpoint

from inception_zoo import ZooError, create_model
from inception_zoo.architecture.choices import MEMORY
from inception_zoo.architecture.nets import ZOO
from inception_zoo.network import kernels
from inception_zoo.network.autograd import run_segments

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler here")
RECOMPUTING = MEMORY[1:]
PATHS = {"kernels": torch.float32, "pytorch": torch.float32, "float64": torch.float64}  # of the training step


@pytest.fixture(params=[pytest.param("kernels", marks=needs_kernels), "pytorch", "float64"])
def dtype(request, monkeypatch):
    """Return the dtype of a training step with the CPU kernels or without them."""
    if request.param != "kernels":
        monkeypatch.setattr(kernels, "library", lambda: None)
    return PATHS[request.param]


def built(memory="plain", dtype=torch.float64, name="googlenet_bn", **choices):
    torch.manual_seed(0)
    model = create_model(name, 10, memory=memory, **{"width": 0.125, "stem": "small", "dropout": 0.0, **choices})
    return model.to(dtype).to(memory_format=torch.channels_last).train()


def images(dtype, size=32, count=4):
    x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def loss_of(model, x):
    torch.manual_seed(5)  # for dropout
    outputs = model.outputs(x)
    return sum(F.cross_entropy(logits, torch.arange(len(x))) for logits in (outputs.logits, *outputs.aux.values()))


def take(model):
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_equal(found, due, within=0.0):
    """Check gradients by name; `within` is relative to the norm of each, with a floor for those that are zero."""
    assert found.keys() == due.keys()
    for name, gradient in due.items():
        assert (found[name] - gradient).norm() <= within * (gradient.norm() + 1e-3), name


def gradients(model, x):
    loss_of(model, x).backward()
    return take(model)


@pytest.mark.parametrize("memory", MEMORY)
def test_a_second_backward_pass(memory, dtype):
    model, x = built(memory, dtype), images(dtype)
    due, running = gradients(built("plain", dtype), x), None
    loss = loss_of(model, x)
    for _ in range(3):
        loss.backward(retain_graph=True)
        assert_equal(take(model), due, 1e-12 if dtype == torch.float64 else 1e-3)
        statistics = [buffer.clone() for buffer in model.buffers()]
        assert running is None or all(map(torch.equal, statistics, running))
        running = statistics
    assert model.inception_3a[0][0].norm.num_batches_tracked == 1


@pytest.mark.parametrize("memory", MEMORY)
def test_gradients_of_each_loss_in_turn(memory):
    """Each auxiliary loss alone, and then the main loss: their sum is the gradient of the total."""
    model, x, labels = built(memory), images(torch.float64), torch.arange(4)
    torch.manual_seed(5)
    outputs = model.outputs(x)
    assert len(outputs.aux) == 2
    for logits in (*outputs.aux.values(), outputs.logits):
        F.cross_entropy(logits, labels).backward(retain_graph=True)
    assert_equal(take(model), gradients(built(), x), 1e-12)


@pytest.mark.parametrize("name", ["googlenet_bn", "inception_resnet_v2_slim"])
@pytest.mark.parametrize("memory", MEMORY)
def test_functional_call(name, memory, dtype):
    """The gradients are those of the weights of the call, although the module's own are frozen and others."""
    model, x = built(memory, dtype, name, aux=False), images(dtype)
    due = gradients(model, x)
    model = built(memory, dtype, name, aux=False)
    weights = {key: p.detach().clone().requires_grad_() for key, p in model.named_parameters()}
    statistics = {key: buffer.clone() for key, buffer in model.named_buffers()}
    for p in model.requires_grad_(False).parameters():
        p.mul_(1.5)
    logits = torch.func.functional_call(model, (weights, statistics), (x,))
    found = torch.autograd.grad(F.cross_entropy(logits, torch.arange(len(x))), list(weights.values()))
    assert_equal(dict(zip(weights, found, strict=True)), due)
    assert all(buffer == 1 for key, buffer in statistics.items() if key.endswith("tracked"))
    assert all(norm.num_batches_tracked == 0 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))


@needs_kernels
def test_weights_of_norms_need_not_be_contiguous():
    model, x = built(dtype=torch.float32, aux=False), images(torch.float32)
    due = gradients(model, x)
    for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
        norm.weight = nn.Parameter(torch.stack([norm.weight.detach(), norm.weight.detach() + 1], 1)[:, 0])
        norm.running_mean = torch.stack([norm.running_mean, norm.running_mean + 1], 1)[:, 0]
    assert_equal(gradients(model, x), due)
    twin = built(dtype=torch.float32, aux=False)
    twin(x)
    assert all(torch.equal(buffer, twin.get_buffer(key)) for key, buffer in model.named_buffers() if "mean" in key)


def _step(model):
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if not name.startswith(("fc", "aux"))], 0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    model.zero_grad()


@pytest.mark.parametrize("memory", MEMORY)
def test_weights_changed_in_place_are_an_error(memory, dtype):
    """In every mode; the recomputing mode names the weight. The classifiers, whose errors are PyTorch's, stay unchanged."""
    model = built(memory, dtype)
    loss = loss_of(model, images(dtype))
    _step(model)
    message = "' was changed between the forward and the backward pass|modified by an inplace operation"
    with pytest.raises((ZooError, RuntimeError), match=message) as error:
        loss.backward()
    assert memory != "minimal" or (error.type is ZooError and "'inception_" in str(error.value))


@pytest.mark.parametrize("memory", MEMORY)
def test_statistics_changed_in_place_are_an_error(memory, dtype):
    """Those of a frozen BatchNorm, which the forward pass reads."""
    model = built(memory, dtype, aux=False)
    model.inception_3a[1].eval()
    loss = loss_of(model, images(dtype))
    model.inception_3a[1][0].norm.running_var.mul_(4)
    with pytest.raises((ZooError, RuntimeError), match=r"running_var.*changed between|modified by an inplace operation"):
        loss.backward()


def _nothing(model, x):
    pass


def _evaluate(model, x):
    with torch.no_grad():
        model.eval()(x * 2)


def _train_on(model, x):
    model(x * 2)


def _freeze(model, x):
    model.inception_3a.requires_grad_(False)


def _hook(model, x):
    model.inception_3a[0][0].register_forward_hook(lambda module, args, y: y * 0)


def _replace(model, x):
    model.inception_3a[0][0].conv = nn.Conv2d(1, 1, 1)


EVENTS = {  # between the forward and the backward pass
    "evaluation": _evaluate,
    "another forward pass": _train_on,
    "weights frozen": _freeze,
    "a hook": _hook,
    "a layer replaced": _replace,
    "another memory mode": lambda model, x: model.remember("lean" if model.memory == "plain" else "plain"),
    "random numbers": lambda model, x: torch.rand(5),
}


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("event", EVENTS)
def test_what_happens_between_forward_and_backward(event, memory, dtype):
    found = []
    for happens in (_nothing, EVENTS[event]):
        model, x = built(memory, dtype, dropout=0.5, activation="elu" if event == "evaluation" else "relu"), images(dtype)
        parameters = dict(model.named_parameters())
        loss = loss_of(model, x)
        happens(model, x)
        loss.backward()
        found.append({name: p.grad for name, p in parameters.items() if p.requires_grad})
    assert_equal(found[1], {name: found[0][name] for name in found[1]})  # PyTorch drops the gradients of frozen weights


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("forward", [False, True], ids=["bf16 backward", "bf16 forward"])
def test_autocast_in_one_pass_only(memory, forward):
    """The backward pass of the blocks computes in the dtypes of the forward pass; PyTorch's linear layers do not."""
    found = []
    for backward in (forward, not forward):
        model = built(memory, torch.float32, aux=False)
        with torch.autocast("cpu", torch.bfloat16, enabled=forward):
            *_, (_, y) = run_segments(model, images(torch.float32))
        with torch.autocast("cpu", torch.bfloat16, enabled=backward):
            y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype))
        found.append(take(model))
    assert_equal(found[1], found[0])


@pytest.mark.parametrize("memory", RECOMPUTING)
def test_recomputation_leaves_the_modules_as_they_are(memory, dtype):
    model, x, calls = built(memory, dtype), images(dtype), []
    handle = model.inception_3a[0].register_forward_hook(lambda *_: calls.append(1))
    before = [dict(vars(module)) for module in model.modules()]
    loss_of(model, x).backward()
    after = [vars(module) for module in model.modules()]
    assert all(own[key] is value for known, own in zip(before, after, strict=True) for key, value in known.items())
    handle.remove()
    count = len(calls)
    model(x)
    assert len(calls) == count > 0


@pytest.mark.parametrize("layer", [nn.RReLU, lambda: nn.Dropout(0.5)], ids=["RReLU", "Dropout"])
@pytest.mark.parametrize("memory", RECOMPUTING)
def test_a_random_activation(memory, layer, dtype):
    found = []
    for mode in ("plain", memory):
        model, x = built(mode, dtype, norm="none"), images(dtype)
        model.inception_3a[0][0].act = layer()
        found.append(gradients(model, x))
    assert_equal(found[1], found[0], 1e-12 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 40), ("googlenet", 31), ("googlenet_bn", 24), ("bn_inception", 31)])
def test_minimal_trains_on_small_images(name, size):
    """On every size on which PyTorch's pools in ceil mode give a grid."""
    model = built("minimal", name=name, stem="imagenet", aux=False)
    x = images(torch.float64, size)
    assert_equal(gradients(model, x), gradients(built(name=name, stem="imagenet", aux=False), x), 1e-10)


def penalty(model, x):
    """Return the gradients of a gradient penalty."""
    x = x.clone().requires_grad_()
    (gx,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    found = torch.autograd.grad(gx.square().sum(), list(model.parameters()), allow_unused=True)
    return {name: g for (name, _), g in zip(model.named_parameters(), found, strict=True) if g is not None}


@pytest.mark.parametrize("name", ZOO)
def test_gradient_penalty(name, monkeypatch):
    """Of the network and of its torch.fx trace, which consists of PyTorch's modules; without the kernels, in float64."""
    monkeypatch.setattr(kernels, "library", lambda: None)
    model, x = built(name=name, aux=False), images(torch.float64, 64, 2)
    found = penalty(model, x)
    assert any("conv" in key for key in found) and all(g.isfinite().all() for g in found.values())
    assert_equal(found, penalty(torch.fx.symbolic_trace(model), x), 1e-10)


def _penalized(step):
    """Return a function of a network and images: ``step(loss, parameters)`` for a loss with a gradient penalty."""

    def run(model, x):
        x = x.clone().requires_grad_()
        y, weights = model(x), list(model.parameters())
        (gx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return step(F.cross_entropy(y, torch.arange(len(x))) + gx.square().sum(), weights) or [p.grad for p in weights]

    return run


def _along(x):
    """Return a direction for images: not a constant, which a network with BatchNorm does not see."""
    return torch.linspace(-1, 1, x.numel()).sin().view_as(x).to(x)


def _of_loss(product):
    """Return a function of a network and images: the ``product`` of the Hessian of a loss and a direction of the images."""
    return lambda model, x: product(lambda x: model(x).square().sum(), x, _along(x))[1]


def _of_step(derivative, result=lambda y: y, **options):
    """Return a function of a network and images: the ``derivative`` by the length of a step along a direction."""
    return lambda model, x: derivative(lambda s: result(model(x + s * _along(x))), torch.zeros(1).to(x), **options)


BEYOND = {  # more than a first derivative of a loss; each returns tensors
    "grad": _penalized(lambda loss, weights: torch.autograd.grad(loss, weights)),
    "backward": _penalized(lambda loss, weights: loss.backward()),
    "backward of inputs": _penalized(lambda loss, weights: loss.backward(inputs=weights)),
    "hvp": _of_loss(functional.hvp),
    "vhp": _of_loss(functional.vhp),
    "jvp": lambda model, x: functional.jvp(model, x, _along(x))[1],
    "hessian": _of_step(functional.hessian, lambda y: y.square().sum()),
    "vectorize": _of_step(functional.jacobian, vectorize=True),
    "batched": lambda model, x: torch.autograd.grad(
        model(x)[0], [*model.parameters()], torch.eye(10).to(x), is_grads_batched=True
    ),
}
NETWORKS = "googlenet", "googlenet_bn", "inception_resnet_v1"


@pytest.mark.parametrize("way", BEYOND)
@pytest.mark.parametrize("name", ["googlenet_bn", *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS[::2])])
@pytest.mark.parametrize("dtype", [pytest.param("kernels", marks=needs_kernels), "float64"], indirect=True)
def test_more_than_a_first_derivative_is_right_or_refused(way, name, dtype):
    """Never silently zero. Without the kernels, `plain` gives that of PyTorch's own modules."""
    refused = r"^(create_graph|is_grads_batched)=True: .*; set INCEPTION_ZOO_KERNELS=0 and model\.memory=plain$"
    model = built("plain", dtype, name, aux=False)
    for memory in RECOMPUTING if dtype == torch.float64 else MEMORY:
        model.remember(memory)
        with pytest.raises(ZooError, match=refused):
            BEYOND[way](model, images(dtype))
        assert all(p.grad is None for p in model.parameters())
    if dtype == torch.float64:
        model.remember("plain")
        found, due = (
            BEYOND[way](each, images(dtype)) for each in (model, torch.fx.symbolic_trace(built(name=name, aux=False)))
        )
        torch.testing.assert_close(found, due, rtol=1e-9, atol=1e-9)
        assert max(each.abs().max() for each in found) > 1e-6


@pytest.mark.parametrize("memory", MEMORY)
def test_a_first_derivative_that_also_needs_the_graph_of_the_head(memory, dtype):
    """`create_graph=True` for the classifier only: the blocks still give first derivatives."""
    found = []
    for mode in ("plain", memory):
        model = built(mode, dtype, aux=False)
        (g,) = torch.autograd.grad(loss_of(model, images(dtype)), model.fc.weight, create_graph=True)
        g.square().sum().backward()
        found.append(take(model))
    assert len(found[0]) > 100
    assert_equal(found[1], found[0], 1e-12 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("memory", MEMORY)
def test_a_checkpoint_of_the_whole_network(memory, reentrant, dtype):
    """Its recomputation enables gradients inside the backward pass, which is still a first derivative."""
    found = []
    for checkpointed in (False, True):
        model, x = built(memory, dtype, aux=False), images(dtype).requires_grad_()
        y = checkpoint(model, x, use_reentrant=reentrant) if checkpointed else model(x)
        F.cross_entropy(y, torch.arange(4)).backward()
        found.append(take(model))
    assert_equal(found[1], found[0], 1e-12 if dtype == torch.float64 else 1e-3)


def test_evaluation_asks_for_no_transform(monkeypatch):
    model, x = built().eval(), images(torch.float64)
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: pytest.fail("asked"))
    assert model(x).requires_grad


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_mode(memory, name, dtype):
    """Forward-mode AD runs plain modules: tangents agree with the reverse mode. A tangent for a gradient is refused."""
    model, x = built(memory, dtype, name, aux=False), images(dtype)
    with forward_ad.dual_level():
        slope = forward_ad.unpack_dual(model(forward_ad.make_dual(x, _along(x)))).tangent
    x = x.clone().requires_grad_()
    y = model(x)
    (gx,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.testing.assert_close(slope.sum(), (gx * _along(x)).sum(), rtol=1e-9 if dtype == torch.float64 else 1e-2, atol=1e-3)
    if memory != "plain" or (dtype == torch.float32 and kernels.library()):
        with forward_ad.dual_level(), pytest.raises((ZooError, CheckpointError)):
            torch.autograd.grad(y, x, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))


@pytest.mark.parametrize(
    ("name", "memory"), [*((name, "plain") for name in ZOO), *(("inception_resnet_v1", m) for m in RECOMPUTING)]
)
def test_symbolic_trace_in_training(name, memory, dtype):
    """The trace consists of PyTorch's modules: equal to the network without gradients, in logits and running statistics."""
    model, twin, x = built(memory, dtype, name, aux=False), built(memory, dtype, name, aux=False), images(dtype, 64, 2)
    trace = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        due = twin(x)
    assert trace.training and torch.equal(trace(x), due)
    assert all(map(torch.equal, trace.buffers(), twin.buffers()))


@pytest.mark.parametrize("memory", MEMORY)
def test_torch_func_in_training(memory, dtype):
    """The transforms use plain modules. They need the running statistics as an argument, as all networks with BatchNorm do."""
    model, x, labels = built(memory, dtype, aux=False), images(dtype), torch.arange(4)
    due = gradients(built("plain", torch.float64, aux=False), x.double())
    weights = {key: p.detach() for key, p in model.named_parameters()}

    def loss(weights):
        statistics = {key: buffer.clone() for key, buffer in model.named_buffers()}
        return F.cross_entropy(torch.func.functional_call(model, (weights, statistics), (x,)), labels)

    found = torch.func.grad(loss)(weights)
    assert_equal({key: g.double() for key, g in found.items()}, due, 1e-12 if dtype == torch.float64 else 1e-2)
    _, slope = torch.func.jvp(loss, (weights,), ({key: torch.ones_like(p) for key, p in weights.items()},))
    assert slope.item() == pytest.approx(sum(g.sum().item() for g in due.values()), rel=1e-3)


@needs_kernels
@pytest.mark.parametrize("memory", MEMORY)
def test_vmap_over_images(memory):
    """In evaluation, and in training without BatchNorm."""
    for model in (built(memory, torch.float32).eval(), built(memory, torch.float32, norm="group")):
        x = images(torch.float32)
        found = torch.func.vmap(lambda image, model=model: model(image[None])[0])(x)
        torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-4)
