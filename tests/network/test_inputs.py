"""Images that a network cannot read: one line that names what is expected, and no refusal of what PyTorch can compute."""

import pytest
import torch
from torch import nn

from inception_zoo import ZooError, create_model
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.plan import make_plan


@pytest.fixture(scope="module")
def small():
    return {name: create_model(name, 5, width=0.125).eval() for name in ("bn_inception", "inception_v3")}


GAP = (
    "images of 100x110 px do not fit (bn_inception, grid14 inception_3c: the rows give different sizes and cannot be "
    "joined: '1x1 16 > 3x3/2 16' gives 6x7, '1x1 8 > 3x3 16 > 3x3/2 16' gives 6x7, 'max/2c' gives 6x6); heights and "
    "widths that fit: 31 to 38, 63 to 70, … px (every 32 px); the nearest is 100x102"
)
LOW = "stem pool_5a: the 1x28 grid is smaller than the kernel of 'max/2v'); heights and widths that fit: 75 px or more"
MISTAKES = {
    "gap": ("bn_inception", torch.zeros(2, 3, 100, 110), GAP),
    "small": ("inception_v3", torch.zeros(2, 3, 20, 128), LOW),
    "no pixels": ("inception_v3", torch.zeros(2, 3, 0, 0), "images of 0x0 px do not fit"),
    "channels": (
        "inception_v3",
        torch.zeros(2, 1, 96, 96),
        "x.shape=(2, 1, 96, 96): inception_v3 reads images (N, 3, height, width)",
    ),
    "channels last": ("inception_v3", torch.zeros(2, 96, 96, 3), "; use x.permute(0, 3, 1, 2)"),
    "one image": ("inception_v3", torch.zeros(3, 96, 96), "; add the first dimension: x[None]"),
    "vector": ("inception_v3", torch.zeros(96), "x.shape=(96,): inception_v3 reads images (N, 3, height, width)"),
    "integers": (
        "inception_v3",
        torch.zeros(2, 3, 96, 96, dtype=torch.uint8),
        "x.dtype=torch.uint8: the weights are torch.float32",
    ),
    "float64": ("inception_v3", torch.zeros(2, 3, 96, 96, dtype=torch.float64), "; use x.to(torch.float32)"),
    "bfloat16": ("inception_v3", torch.zeros(2, 3, 96, 96, dtype=torch.bfloat16), "; use x.to(torch.float32)"),
    "device": (
        "inception_v3",
        torch.zeros(2, 3, 96, 96, device="meta"),
        "x.device=meta: the weights are on cpu; use x.to('cpu')",
    ),
    "array": ("inception_v3", torch.zeros(2, 3, 96, 96).numpy(), "x is of type ndarray: inception_v3 reads images"),
}


@pytest.mark.parametrize("mode", ["evaluation", "plain", "lean", "minimal"])
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(case, mode, small):
    name, x, message = MISTAKES[case]
    model = small[name].train(mode != "evaluation")
    model.remember(mode if mode != "evaluation" else "plain")
    for call in (model, model.outputs, model.endpoints)[: 2 if case == "bfloat16" else 3]:
        with pytest.raises(ZooError) as error:
            call(x)
        assert message in str(error.value) and "\n" not in str(error.value)
    model.eval().remember("plain")


def test_one_value_per_channel_in_training():
    model = create_model("inception_v3", 5, width=0.125)
    with pytest.raises(ZooError, match=r"x.shape=\(1, 3, 75, 75\): one value per channel is too few.*use 2 or more images"):
        model(torch.zeros(1, 3, 75, 75))
    assert model(torch.zeros(2, 3, 75, 75)).shape == model.eval()(torch.zeros(2, 3, 75, 75)).shape


@pytest.mark.parametrize("memory", ["plain", "lean", "minimal"])
def test_one_value_per_channel_in_an_auxiliary_head(memory):
    model = create_model("inception_v3", 5, width=0.125, memory=memory)
    with pytest.raises(ZooError, match=r"x.shape=\(1, 3, 139, 139\): one value per channel is too few"):
        model.outputs(torch.zeros(1, 3, 139, 139))
    assert model(torch.zeros(1, 3, 139, 139)).shape == (1, 5)


class Fail(nn.Module):
    """A layer of a user."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


def _four_channels(model):
    model.conv1[0][0].conv = nn.Conv2d(4, model.conv1[0][0].conv.out_channels, 7, 1, 3)


def _a_hook(model):
    model.inception_3a.register_forward_hook(
        lambda layer, args, y: Fail(ValueError("Expected more than 1 value per channel"))(y)
    )


OTHERS = {  # name: (change of the network, images, start of the error that stays as it is)
    "a layer of one's own": (lambda model: setattr(model, "pool", Fail(RuntimeError("mine"))), 2, "mine"),
    "one's own type": (lambda model: setattr(model, "pool", Fail(TypeError("mine"))), 2, "mine"),
    "a hook": (_a_hook, 1, "Expected more than 1 value per channel"),
    "memory": (lambda model: setattr(model, "pool", nn.AdaptiveAvgPool2d(2**24)), 2, ".*alloc"),
    "a classifier": (lambda model: setattr(model, "fc", nn.Linear(3, 5)), 2, "mat1 and mat2 shapes"),
    "group norm": (lambda model: None, 1, "Expected more than 1 value per channel"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_an_error_with_another_cause_stays_as_it_is(case):
    """The network reads four channels and half the size of the plan: the first layer was replaced."""
    change, count, message = OTHERS[case]
    model = create_model("bn_inception", 5, width=0.125, norm="group" if case == "group norm" else "batch")
    _four_channels(model)
    change(model)
    with pytest.raises((RuntimeError, ValueError, TypeError), match=message) as error:
        model(torch.zeros(count, 4, 16, 16))
    assert error.type is not ZooError


def test_the_channels_are_those_of_the_first_convolution(small):
    model = create_model("bn_inception", 5, width=0.125).eval()
    _four_channels(model)
    with pytest.raises(ZooError, match=r"reads images \(N, 4, height, width\); create the network with in_channels=3"):
        model(torch.zeros(2, 3, 32, 32))


def test_another_error_stays_as_it_is(small, monkeypatch):
    model = small["inception_v3"]
    monkeypatch.setattr(model.mixed_6b, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(torch.zeros(2, 3, 96, 96))


def test_no_images_and_other_dtypes_that_work(small):
    model = small["inception_v3"]
    assert model(torch.zeros(0, 3, 96, 96)).shape == (0, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.zeros(2, 3, 96, 96, dtype=torch.float16)).shape == (2, 5)
        with pytest.raises(
            ZooError, match=r"x.dtype=torch.float64: the weights are torch.float32"
        ):  # autocast leaves it as it is
            model(torch.zeros(2, 3, 96, 96, dtype=torch.float64))


@pytest.mark.parametrize("mode", ["evaluation", "plain", "lean", "minimal"])
def test_a_replaced_layer_decides_what_fits(mode):
    model = create_model("bn_inception", 5, width=0.125, memory=mode if mode != "evaluation" else "plain")
    _four_channels(model.train(mode != "evaluation"))
    for size in (16, 32):
        assert model(torch.zeros(2, 4, size, size)).shape == (2, 5)


@pytest.mark.parametrize("name", ["bn_inception", "googlenet_bn"])
def test_the_plan_accepts_exactly_the_sizes_that_pytorch_computes(name):
    with torch.device("meta"):
        model = create_model(name, 5, width=0.125).eval()
    for size in [(side, side) for side in range(13, 48)] + [(66, 200), (200, 66), (95, 102), (102, 94), (70, 71), (39, 63)]:
        if model.plan.fits(size):
            assert model(torch.empty(1, 3, *size, device="meta")).shape == (1, 5)
            continue
        with pytest.raises(ZooError, match=f"images of {size[0]}x{size[1]} px do not fit"):
            model(torch.empty(1, 3, *size, device="meta"))


def test_bn_inception_accepts_a_quarter_of_the_sizes():
    plan = make_plan(ZOO["bn_inception"])
    assert [size for size in range(1, 401) if plan.fits(size)] == [size for size in range(31, 401) if (size + 1) % 32 < 8]
    texts = [make_plan(ZOO["bn_inception"], stem=stem).sizes() for stem in ("medium", "small")]
    assert texts == ["16 to 19, 32 to 35, … px (every 16 px)", "8 to 9, 16 to 17, … px (every 8 px)"]
    assert {plan.nearest((side, 500)) for side in range(71, 82)} == {(70, 511)}
    assert plan.nearest((1, 83)) == (31, 95) and plan.nearest((64, 100)) == (64, 100)


@pytest.mark.parametrize("stem", ["imagenet", "medium", "small"])
@pytest.mark.parametrize("name", sorted(ZOO.keys() - {"bn_inception"}))
def test_every_other_network_accepts_all_sizes_from_its_minimum(name, stem):
    plan = make_plan(ZOO[name], stem=stem)
    least = plan.min_image_size()
    assert plan.sizes() == f"{least} px or more"
    assert all(plan.fits(size) for size in (*range(least, least + plan.stride), (least, 400), (400, least), 400))


def test_rows_of_ones_own_that_never_fit():
    plan = make_plan(ZOO["googlenet_bn"], blocks={"inception_4b": ["1x1 64", "3x3v 64"]})
    assert plan.sizes() == "none up to 1024 px" and plan.nearest((96, 96)) == (0, 0)
    with pytest.raises(ZooError, match=r"grid14 inception_4b: the rows give different sizes.*without 'v'$"):
        plan.shapes(96)


@pytest.mark.parametrize("way", ["compile", "export", "trace", "fx", "vmap", "functional"])
def test_a_traced_network_computes_the_same(way, small):
    model, x = small["bn_inception"], torch.randn(2, 3, 63, 64)
    ways = {
        "compile": lambda: torch.compile(model, backend="eager", fullgraph=True)(x),
        "export": lambda: torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()(x),
        "trace": lambda: torch.jit.trace(model, x)(x),
        "fx": lambda: torch.fx.symbolic_trace(model)(x),
        "vmap": lambda: torch.func.vmap(model)(x[None])[0],
        "functional": lambda: torch.func.functional_call(model, dict(model.named_parameters()), (x,)),
    }
    with torch.no_grad():
        torch.testing.assert_close(ways[way](), model(x))
