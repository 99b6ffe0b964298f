"""Circuits: names of channels, changed channels, and images that excite them."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from inception_zoo import ZooError, create_model, save_model
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.plan import make_plan
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.cli.main import main
from inception_zoo.interpret.circuits import ablated, branches, patched, read_target
from inception_zoo.interpret.visualization import Ascent, activations, most_exciting, visualize

GOOGLENET = make_plan(ZOO["googlenet"])
KNOWN = Preprocessing(32, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 32)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = create_model("googlenet", 10, 3, width=0.25, norm="batch", aux=False, stem="small")
    for module in model.modules():  # biases, as in a network that was trained
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.3)
    model.preprocessing = KNOWN
    return model.eval()


# Names


def test_branches_divide_the_channels_of_a_block():
    found = branches(GOOGLENET, "inception_4c")
    assert list(found) == [
        "branch 0: 1x1 128",
        "branch 1: 1x1 128 > 3x3 256",
        "branch 2: 1x1 24 > 5x5 64",
        "branch 3: max > 1x1 64",
    ]
    assert list(found.values()) == [range(128), range(128, 384), range(384, 448), range(448, 512)]
    assert branches(GOOGLENET, "conv3") == {"all channels": range(192)}
    assert branches(make_plan(ZOO["inception_resnet_v2"]), "block35_1") == {"all channels": range(384)}


def test_a_target_is_a_channel_a_neuron_a_branchs_channel_or_a_direction(tmp_path):
    maps = torch.randn(2, 512, 4, 5)
    for text, value in {
        "inception_4c:25": maps[:, 25].mean((1, 2)),
        "inception_4c/1:3": maps[:, 131].mean((1, 2)),
        "inception_4c:25@3,4": maps[:, 25, 3, 4],
    }.items():
        torch.testing.assert_close(read_target(GOOGLENET, text).value(maps), value)
    direction = torch.randn(64)
    np.save(tmp_path / "d.npy", direction.numpy())
    found = read_target(GOOGLENET, f"inception_4c/2:{tmp_path}/d.npy")
    along = torch.einsum("nchw,c->nhw", maps[:, 384:448], direction / direction.norm())
    torch.testing.assert_close(found.value(maps), along.mean((1, 2)))
    assert read_target(GOOGLENET, "inception_4c") is None
    with pytest.raises(ZooError, match="inception_4c:25@4,0: the grid of inception_4c is only 4x5 here"):
        read_target(GOOGLENET, "inception_4c:25@4,0").value(maps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inception_4f:1", "'inception_4f' is not an endpoint; did you mean"),
        ("inception_4c:512", "512 is not a channel; there are 0 to 511"),
        ("inception_4c/1:256", "256 is not a channel; there are 0 to 255"),
        ("inception_4c/4:0", "inception_4c has branches 0 to 3"),
        ("conv3/0:1", "conv3 has no branches with channels of their own; leave /0 out"),
        ("inception_4c:x", "x is not a channel"),
        ("inception_4c:none.npy", "none.npy does not exist"),
        ("inception_4c/1", "the channel is missing"),
        ("inception_4c@1,1", "the channel is missing"),
        ("inception_4c:1@2", "not a target; write ENDPOINT:CHANNEL"),
        ("", "not a target"),
    ],
)
def test_a_wrong_target_says_what_is_there(text, message):
    with pytest.raises(ZooError, match=message):
        read_target(GOOGLENET, text)


@pytest.mark.parametrize("values", [np.zeros(512), np.full(512, np.nan), np.ones(511), np.ones((512, 1))])
def test_a_wrong_direction_is_refused(values, tmp_path):
    np.save(tmp_path / "d.npy", values)
    with pytest.raises(ZooError, match="must have 512 finite numbers, not all 0"):
        read_target(GOOGLENET, f"inception_4c:{tmp_path}/d.npy")


# Changed channels


def test_channels_are_replaced_inside_of_the_block_only(model):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before, maps = model(images), model.endpoints(images)
        other = model.endpoints(torch.randn(1, 3, 32, 32))["inception_4a"][0, 7]
        with patched(model, {"inception_4a": {3: 1.5, 7: other}, "inception_5a": {0: 0.0}}):
            inside = model.endpoints(images)
            assert not torch.equal(model(images), before)
        with ablated(model, "inception_4a", [3, 4]):
            zeroed = model.endpoints(images)["inception_4a"]
        assert torch.equal(model(images), before)
    assert (inside["inception_4a"][:, 3] == 1.5).all() and torch.equal(inside["inception_4a"][1, 7], other)
    assert torch.equal(inside["inception_4a"][:, 8:], maps["inception_4a"][:, 8:])
    assert (inside["inception_5a"][:, 0] == 0).all()
    assert (zeroed[:, 3:5] == 0).all() and torch.equal(zeroed[:, 5:], maps["inception_4a"][:, 5:])


def test_a_channel_that_is_not_there_is_refused(model):
    with (
        pytest.raises(ZooError, match="inception_4a has no channel 128; there are 0 to 127"),
        ablated(model, "inception_4a", [128]),
    ):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_a_compiled_network_would_ignore_the_changes(model):
    compiled = deepcopy(model)
    compiled.compile(backend="eager")
    with pytest.raises(ZooError, match="is compiled, which would ignore the changes"), ablated(compiled, "inception_4a", [0]):
        pass


# Feature visualization


def test_an_image_excites_its_target_more_than_random_ones(model):
    targets = [read_target(model.plan, text) for text in ("inception_4c:25", "inception_4c/1:3", "inception_4c:25@0,1")]
    images, values = visualize(model, KNOWN, targets, Ascent(steps=100))
    assert images.shape == (3, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    noise = torch.rand(1000, 3, 32, 32)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (KNOWN.mean, KNOWN.std))
    best = most_exciting(model, targets, ((noise - mean) / std).split(100), 2)
    assert (values > 1.5 * torch.tensor([found[0][0] for found in best])).all() and values.min() > 0
    for found, each in zip(best, targets, strict=True):
        again = activations(model, KNOWN, [each] * 2, noise[[row for _, row in found]])
        torch.testing.assert_close(again, torch.tensor([value for value, _ in found]))


def test_targets_may_be_of_several_endpoints(model):
    targets = [read_target(model.plan, text) for text in ("inception_4b:0", "inception_4c:25")]
    model.train()
    _, together = visualize(model, KNOWN, targets, Ascent(steps=2))
    alone = [visualize(model, KNOWN, [target], Ascent(steps=2))[1] for target in targets]
    assert model.training  # not changed
    model.eval()
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-5)
    images = torch.randn(3, 3, 32, 32)
    best = most_exciting(model, targets, [images], 1)
    with torch.no_grad():
        maps = model.endpoints(images)
    assert [found[0][0] for found in best] == [
        pytest.approx(target.value(maps[target.endpoint]).max().item()) for target in targets
    ]


def test_a_seed_gives_one_picture(model):
    targets = [read_target(model.plan, f"inception_4c:{channel}") for channel in range(3)]
    together, _ = visualize(model, KNOWN, targets, Ascent(steps=8))
    alone, _ = visualize(model, KNOWN, targets[1:2], Ascent(steps=8))
    other, _ = visualize(model, KNOWN, targets[1:2], Ascent(steps=8, seed=1))
    torch.testing.assert_close(together[1], alone[0], atol=1e-3, rtol=0)
    assert (other[0] - alone[0]).abs().mean() > 0.01


def test_a_channel_that_is_inactive_at_first_is_awakened(model):
    awake, norm = read_target(model.plan, "inception_4c:25"), model.get_submodule("inception_4c")[0][0].norm
    _, start = visualize(model, KNOWN, [awake], Ascent(steps=0))
    with torch.no_grad():
        norm.bias[25] -= 2 * start[0]
    _, asleep = visualize(model, KNOWN, [awake], Ascent(steps=0))
    _, found = visualize(model, KNOWN, [awake], Ascent(steps=100))
    with torch.no_grad():
        norm.bias[25] += 2 * start[0]
    assert start[0] > 0 == asleep[0] < found[0]


@pytest.fixture
def call(model, tmp_path, monkeypatch, capsys):
    save_model(model, tmp_path / "net.safetensors")
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"photos/{i}.png")

    def run(*words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["inception-zoo", "visualize", "net.safetensors", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_pictures_from_the_command_line(call, tmp_path):
    code, out, err = call("inception_4c:25", "--steps", 3, "--dataset", "photos", "--top", 2)
    assert code == 0, err
    assert out.splitlines()[-1] == "picture: visualize.png" and out.startswith("inception_4c:25: activation ")
    with Image.open(tmp_path / "visualize.png") as picture:
        one = picture.size
    code, out, _ = call("inception_4c", "--steps", 2, "--channels", 3, "--output", "sheet.png")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 13 and lines[3].startswith("inception_4c:32: ")  # first channel of branch 1
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size[1] > 2 * one[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inception_4c:25", "--output", "a.gif"], "--output a.gif: must end in one of .png, .jpg, .svg, .pdf"),
        (["inception_4c:1", "--top", "3"], "--top is the number of images of --dataset, which is not given"),
        (["inception_4c:1", "--channels", "3"], "--channels is for the sheet of an endpoint"),
        (["inception_4c:999"], "999 is not a channel"),
        (["inception_4c:1", "--dataset", "none"], "none: no such file, folder or pattern"),
    ],
)
def test_mistakes_end_the_command_before_it_starts(words, message, call, tmp_path):
    code, _, err = call(*words)
    assert code == 2 and message in err and not (tmp_path / "visualize.png").exists()
