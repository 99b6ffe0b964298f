"""A block that is a module of the user: checked before anything runs, counted, and used as every other block."""

import sys
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from inception_zoo import ZooError, create_model, export_weights, load_model, load_weights, save_model
from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.image_size import check_image_size
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.plan import make_plan
from inception_zoo.describe.drawing import network_figure
from inception_zoo.describe.saved_bytes import saved_activations
from inception_zoo.describe.table import describe, diff_table, network_table
from inception_zoo.interpret.gradcam import check_endpoint, look
from inception_zoo.network import kernels
from inception_zoo.serving.export import export_onnx, export_program
from inception_zoo.serving.folding import fuse
from inception_zoo.training.optimizers import parameter_groups

V3, GRID17 = ZOO["inception_v3"], ("mixed_6b", "mixed_6c", "mixed_6d", "mixed_6e")


class SE(nn.Module):
    """Squeeze-and-excitation after a convolution. Its children are not in the order of its forward pass."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(c_out)
        self.gate = SqueezeExcitation(c_out, c_out // 8)

    def forward(self, x):
        return self.gate(self.relu(self.norm(self.conv(x))))


def se(c_in, c_out, level):
    return SE(c_in, c_out)


class Depthwise(nn.Module):
    """A ConvNeXt block, used as a class."""

    def __init__(self, c_in, c_out, level):
        super().__init__()
        self.depthwise = nn.Conv2d(c_in, c_in, 7, padding=3, groups=c_in)
        self.mlp = nn.Sequential(nn.GroupNorm(1, c_in), nn.Conv2d(c_in, 4 * c_in, 1), nn.GELU(), nn.Conv2d(4 * c_in, c_out, 1))
        self.scale = nn.Parameter(torch.full((c_out, 1, 1), 0.125))
        nn.init.constant_(self.depthwise.weight, 0.5)

    def forward(self, x):
        return x + self.scale * self.mlp(self.depthwise(x))


def small(block=se, **choices):
    torch.manual_seed(0)
    return create_model("inception_v3", 4, width=0.25, blocks={"grid17": block}, **choices)


def test_the_network_contains_the_modules_with_their_own_initialization():
    model, again = small(Depthwise, init="xavier"), small(Depthwise, init="xavier")
    blocks = [model.get_submodule(name) for name in GRID17]
    assert all(type(block) is Depthwise for block in blocks) and len({id(block.scale) for block in blocks}) == 4
    assert all((block.depthwise.weight == 0.5).all() and (block.scale == 0.125).all() for block in blocks)
    assert not torch.equal(blocks[0].mlp[1].weight, blocks[1].mlp[1].weight)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    maps = model.endpoints(torch.randn(2, 3, 80, 80))
    assert {name: tuple(each.shape[1:]) for name, each in maps.items()} == make_plan(V3, width=0.25).shapes(80)
    assert sum(p.numel() for p in model.parameters()) == plan_cost(model.plan).params


def test_a_plan_draws_no_random_numbers_and_says_its_cost():
    before = torch.get_rng_state()
    plan = make_plan(V3, aux=False, blocks={"mixed_6b": Depthwise})
    without = make_plan(V3, aux=False, blocks={"mixed_6b": ["1x1 768"]})
    assert torch.equal(torch.get_rng_state(), before)
    weights = 49 * 768 + 2 * 4 * 768 * 768
    assert plan_cost(plan, 299).macs - plan_cost(without, 299).macs == 17 * 17 * (weights - 768 * 768)
    biases_norms_and_scale = 768 + 4 * 768 + 768 + 2 * 768 + 768
    assert plan_cost(plan).params - plan_cost(without).params == weights + biases_norms_and_scale - 768 * 768 - 2 * 768


def test_a_grid_reduction_may_be_a_module():
    def strided(c_in, c_out, pool):
        assert pool == "max/2v"
        return nn.Conv2d(c_in, c_out, 3, 2)

    assert make_plan(V3, blocks={"mixed_6a": strided}).sizes() == "75 px or more"
    with pytest.raises(ZooError, match=r"mixed_7a: 'padded' gives \(1280, 9, 9\) per image instead of \(1280, 8, 8\)"):
        make_plan(V3, blocks={"mixed_7a": padded})


def padded(c_in, c_out, pool):
    return nn.Conv2d(c_in, c_out, 3, 2, 1)


ONE = SE(768, 768)


class Reads(SE):
    def forward(self, x):
        return super().forward(x) * x.mean().item()


class Pair(SE):
    def forward(self, x):
        return super().forward(x), x


WRONG = {
    "None": (lambda *_: None, "must return a list of rows, a Residual or a torch.nn.Module, not None"),
    "a class": (lambda *_: SE, "a Residual or a torch.nn.Module, not the class SE: return SE(…)"),
    "evaluation": (lambda i, o, _: SE(i, o).eval(), "returns SE in evaluation mode; remove eval()"),
    "an evaluated layer": (lambda i, o, _: nn.Sequential(SE(i, o), nn.BatchNorm2d(o).eval()), "returns BatchNorm2d in eval"),
    "one module": (lambda *_: ONE, "returns the same layer in every call; create the layers inside of the function"),
    "one layer": (lambda i, o, _: nn.Sequential(ONE.conv, nn.ReLU()), "returns the same layer in every call"),
    "channels": (lambda i, o, _: SE(i, 16), "gives (16, 17, 17) per image instead of (768, 17, 17) (channels, height, width)"),
    "grid": (padded, "gives (768, 9, 9) per image instead of (768, 17, 17)"),
    "flat": (lambda i, o, _: nn.Sequential(SE(i, o), nn.Flatten()), "gives (221952,) per image instead of (768, 17, 17)"),
    "a pair": (lambda i, o, _: Pair(i, o), "gives a tuple per image instead of (768, 17, 17)"),
    "values": (
        lambda i, o, _: Reads(i, o),
        "fails for (768, 17, 17) on the meta device: RuntimeError: Tensor.item() cannot",
    ),
    "wrong inputs": (
        lambda i, o, _: SE(3, o),
        "fails for (768, 17, 17) on the meta device: RuntimeError",
    ),
    "values when built": (lambda *_: torch.zeros(1).item(), "failed with RuntimeError: Tensor.item() cannot be called on meta"),
    "a module": (SE(768, 768), "must be a function or a class, which has an import path; write a function that returns it"),
    "partial": (partial(se), "must be a function or a class, which has an import path"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_function_must_not_return_is_one_line_with_the_endpoint(wrong):
    function, message = WRONG[wrong]
    with pytest.raises(ZooError) as error:
        make_plan(V3, blocks={"mixed_6c": function})
    assert message in str(error.value) and "mixed_6c" in str(error.value) and "\n" not in str(error.value)
    assert ONE.conv.weight.device.type == "cpu"  # nobody moved what belongs to the user


def test_a_module_for_one_grid_is_refused_for_the_jobs_image_size():
    def fixed(c_in, c_out, level):
        return nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.LayerNorm([c_out, 17, 17]))

    model = {"name": "inception_v3", "num_classes": 4, "in_channels": 3, "blocks": {"mixed_6b": fixed}}
    check_image_size(model, "data.image_size", 299)
    with pytest.raises(ZooError, match=r"grid17 mixed_6b: 'fixed' fails for \(768, 3, 3\) on the meta device"):
        check_image_size(model, "data.image_size", 80)
    with pytest.raises(ZooError, match=r"grid17 mixed_6b: 'fixed' fails for \(768, 3, 3\) on the meta device"):
        describe(make_plan(V3, blocks={"mixed_6b": fixed}), 80)


def test_describe_names_the_module_and_says_what_is_unknown(monkeypatch):
    model = small()
    network = describe(model.plan, 80)
    found = {endpoint["name"]: endpoint for endpoint in network["endpoints"]}
    assert found["mixed_6b"]["rows"] == ["SE"] and found["mixed_6b"]["saved"] > 0 < found["mixed_6b"]["macs"]
    assert found["mixed_6a"]["field"] == [159, 159] and found["mixed_6b"]["field"] is found["mixed_7c"]["field"] is None
    rows = list(network_table(network, 128).columns[6].cells)
    assert rows[list(found).index("mixed_6b")] == "?"
    other = describe(small(Depthwise).plan, 80)
    assert any("SE" in cell for cell in diff_table(network, other).columns[0].cells)
    texts = [text.get_text() for text in network_figure(model.plan, 80).axes[0].texts]
    assert "SE\n192" in texts and "mixed_6b · 6c · 6d · 6e   se" in texts

    monkeypatch.setattr(kernels, "library", lambda: None)
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def kept(images):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.outputs(torch.randn(images, 3, 80, 80))
        return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())

    assert sum(saved_activations(model.plan, 80).values()) == kept(3) - kept(2)


@pytest.mark.parametrize("memory", ["lean", "minimal"])
def test_memory_modes_train_the_same(memory):
    images, grads = torch.randn(2, 3, 80, 80, dtype=torch.float64), []
    for mode in ("plain", memory):
        model = small(dropout=0.0, memory=mode).double()
        outputs = model.outputs(images)
        sum(each.sum() for each in (outputs.logits, *outputs.aux.values())).backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*grads, strict=True))


def test_freeze_and_layer_decay_know_the_block():
    model = small(freeze="mixed_6b")
    assert not model.mixed_6b.norm.training and model.mixed_6c.norm.training
    assert not model.mixed_6b.conv.weight.requires_grad and model.mixed_6c.conv.weight.requires_grad
    rates = {group["name"]: group["lr"] for group in parameter_groups(model, 1.0, 0.5)}
    assert rates["mixed_6b"] == rates["mixed_6c"] / 2


def test_files_need_trust_and_weights_of_the_rest_load(tmp_path, monkeypatch):
    (tmp_path / "of_mine.py").write_text(
        "from torch import nn\ndef one(c_in, c_out, level):\n    return nn.Conv2d(c_in, c_out, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    model = create_model("inception_v3", 4, blocks={"grid17": "of_mine.one"}).eval()
    plain = create_model("inception_v3", 4)
    initial = model.mixed_6b.weight.clone()
    load_weights(model, export_weights(plain, "torchvision"), transform_input=False, adapt=["blocks"])
    assert torch.equal(model.mixed_7c[0][0].conv.weight, plain.mixed_7c[0][0].conv.weight)
    assert torch.equal(model.mixed_6b.weight, initial)
    save_model(model, tmp_path / "net.safetensors")
    with pytest.raises(ZooError, match=r"needs the function of_mine\.one, which would run code; .* --trust"):
        load_model(tmp_path / "net.safetensors")
    loaded, images = load_model(tmp_path / "net.safetensors", trust=True), torch.randn(1, 3, 80, 80)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    sys.modules.pop("of_mine")


def test_serving_leaves_the_module_as_it_is_and_grad_cam_explains_it():
    model, images = small().eval(), torch.randn(2, 3, 80, 80)
    for norm in (block.norm for block in map(model.get_submodule, GRID17)):
        norm.running_mean.uniform_(-1, 1), norm.bias.data.uniform_(-1, 1)
    with torch.no_grad():
        assert torch.allclose(fuse(model)(images), model(images), atol=1e-5)
    (whole,) = look(model, images[0], 1, check_endpoint(model, "mixed_6e"))
    assert whole.evidence.shape == (3, 3) and whole.share == 1


@pytest.mark.slow
@pytest.mark.parametrize(("export", "suffix"), [(export_onnx, "onnx"), (export_program, "pt2")])
def test_exported(export, suffix, tmp_path):
    from inception_zoo.architecture.preprocessing import Preprocessing

    for block in (se, Depthwise):
        model = small(block).eval()
        model.preprocessing = Preprocessing(80, (0.5,) * 3, (0.5,) * 3, resize=80)
        assert export(model, tmp_path / f"net.{suffix}") < 1e-4
