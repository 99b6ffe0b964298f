"""Golden figures of every network, counted on the meta device and compared with published figures."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from inception_zoo import ZooError, create_model
from inception_zoo.architecture.choices import VALID
from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.nets import ZOO, find_net
from inception_zoo.architecture.notation import Pool, parse
from inception_zoo.architecture.plan import make_plan
from inception_zoo.network.blocks import ACTIVATIONS, build_row

# name: parameters, parameters with auxiliary heads, multiply-adds in M; for 1000 classes at the default image size
GOLDEN = {
    "googlenet": (6_998_552, 13_378_280, 1582.67),
    "googlenet_bn": (6_624_904, 13_004_888, 1498.38),
    "inception_v1_lucid": (7_058_180, 7_058_180, 1584.87),
    "bn_inception": (11_295_240, 11_295_240, 2032.60),
    "inception_v2": (23_928_904, 28_330_288, 5767.79),
    "inception_v2_7x7": (23_909_672, 28_311_056, 5354.46),
    "inception_v3": (23_834_568, 27_161_264, 5713.22),
    "inception_v3_slim": (23_834_568, 27_161_264, 5713.22),
    "inception_v3_fid": (23_834_568, 23_834_568, 5713.22),
    "inception_v4": (42_679_816, 46_039_280, 12253.97),
    "inception_resnet_v1": (22_756_328, 22_756_328, 6206.36),
    "inception_resnet_v1_facenet": (23_995_624, 23_995_624, 1418.17),
    "inception_resnet_v2": (32_433_928, 35_809_776, 9257.95),
    "inception_resnet_v2_slim": (55_843_464, 59_211_120, 13155.79),
    "xception": (22_855_952, 22_855_952, 8357.40),
    "xception_timm": (22_855_952, 22_855_952, 8357.40),
}

# endpoint: (channels, side). Sources: Table 1 of each paper; TF-slim's endpoint tests (V3, V4, `_slim`); Figure 15 of
# arXiv 1602.07261
SHAPES = {
    "googlenet": {
        "conv1": (64, 112),
        "pool1": (64, 56),
        "conv3": (192, 56),
        "pool2": (192, 28),
        "inception_3a": (256, 28),
        "inception_3b": (480, 28),
        "pool3": (480, 14),
        "inception_4a": (512, 14),
        "inception_4b": (512, 14),
        "inception_4c": (512, 14),
        "inception_4d": (528, 14),
        "inception_4e": (832, 14),
        "pool4": (832, 7),
        "inception_5a": (832, 7),
        "inception_5b": (1024, 7),
    },
    "bn_inception": {
        "conv1": (64, 112),
        "conv3": (192, 56),
        "inception_3a": (256, 28),
        "inception_3b": (320, 28),
        "inception_3c": (576, 14),
        "inception_4a": (576, 14),
        "inception_4d": (608, 14),
        "inception_4e": (1056, 7),
        "inception_5a": (1024, 7),
        "inception_5b": (1024, 7),
    },
    "inception_v2": {
        "conv_1a": (32, 149),
        "conv_2a": (32, 147),
        "conv_2b": (64, 147),
        "pool_3a": (64, 73),
        "conv_3b": (80, 71),
        "conv_4a": (192, 35),
        "conv_4b": (288, 35),
        **{f"mixed_5{i}": (288, 35) for i in "bcd"},
        **{f"mixed_6{i}": (768, 17) for i in "abcdef"},
        "mixed_7a": (1280, 8),
        "mixed_7b": (2048, 8),
        "mixed_7c": (2048, 8),
    },
    "inception_v3": {
        "conv_1a": (32, 149),
        "conv_2a": (32, 147),
        "conv_2b": (64, 147),
        "pool_3a": (64, 73),
        "conv_3b": (80, 73),
        "conv_4a": (192, 71),
        "pool_5a": (192, 35),
        "mixed_5b": (256, 35),
        "mixed_5c": (288, 35),
        "mixed_5d": (288, 35),
        **{f"mixed_6{i}": (768, 17) for i in "abcde"},
        "mixed_7a": (1280, 8),
        "mixed_7b": (2048, 8),
        "mixed_7c": (2048, 8),
    },
    "inception_v4": {
        "conv_2b": (64, 147),
        "mixed_3a": (160, 73),
        "mixed_4a": (192, 71),
        **{f"mixed_5{i}": (384, 35) for i in "abcde"},
        **{f"mixed_6{i}": (1024, 17) for i in "abcdefgh"},
        **{f"mixed_7{i}": (1536, 8) for i in "abcd"},
    },
    "inception_resnet_v1": {
        "pool_3a": (64, 73),
        "conv_4a": (192, 71),
        "conv_4b": (256, 35),
        **{f"block35_{i}": (256, 35) for i in range(1, 6)},
        "mixed_6a": (896, 17),
        **{f"block17_{i}": (896, 17) for i in range(1, 11)},
        "mixed_7a": (1792, 8),
        **{f"block8_{i}": (1792, 8) for i in range(1, 6)},
    },
    "inception_resnet_v2": {
        "mixed_5a": (384, 35),
        **{f"block35_{i}": (384, 35) for i in range(1, 6)},
        "mixed_6a": (1152, 17),
        **{f"block17_{i}": (1152, 17) for i in range(1, 11)},
        "mixed_7a": (2144, 8),
        **{f"block8_{i}": (2144, 8) for i in range(1, 6)},
    },
    "inception_resnet_v2_slim": {
        "pool_5a": (192, 35),
        "mixed_5b": (320, 35),
        **{f"block35_{i}": (320, 35) for i in range(1, 11)},
        "mixed_6a": (1088, 17),
        **{f"block17_{i}": (1088, 17) for i in range(1, 21)},
        "mixed_7a": (2080, 8),
        **{f"block8_{i}": (2080, 8) for i in range(1, 11)},
        "conv_7b": (1536, 8),
    },
}
SHAPES["xception"] = {  # arXiv 1610.02357, Figure 5, and Keras
    "conv1": (32, 149),
    "conv2": (64, 147),
    "block1": (128, 74),
    "block2": (256, 37),
    **{f"block{i}": (728, 19) for i in range(3, 12)},
    "block12": (1024, 10),
    "conv3": (1536, 10),
    "conv4": (2048, 10),
}
SHAPES["xception_timm"] = SHAPES["xception"]
SHAPES["inception_v2_7x7"] = {**SHAPES["inception_v2"], "conv_1a": (64, 147)}
del SHAPES["inception_v2_7x7"]["conv_2a"], SHAPES["inception_v2_7x7"]["conv_2b"]
SHAPES["inception_v3_slim"] = SHAPES["inception_v3"]
SHAPES["inception_v3_fid"] = SHAPES["inception_v3"]
SHAPES["inception_v1_lucid"] = {  # of Lucid's model: channels of mixed4a
    "conv2d0": (64, 112),
    "maxpool0": (64, 56),
    "conv2d2": (192, 56),
    "mixed3a": (256, 28),
    "mixed3b": (480, 28),
    "mixed4a": (508, 14),
    "mixed4d": (528, 14),
    "mixed4e": (832, 14),
    "mixed5b": (1024, 7),
}
SHAPES["googlenet_bn"] = SHAPES["googlenet"]
SHAPES["inception_resnet_v1_facenet"] = {  # of facenet-pytorch at 160 px
    "pool_3a": (64, 38),
    "block35_5": (256, 17),
    "block17_10": (896, 8),
    "block8_6": (1792, 3),
}


def meta(name, **choices):
    with torch.device("meta"):
        return create_model(name, **choices)


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_the_golden_table_holds_the_whole_zoo():
    assert set(GOLDEN) == set(SHAPES) == set(ZOO)


@pytest.mark.parametrize("name", ZOO)
def test_parameters_and_multiply_adds(name):
    params, with_aux, macs = GOLDEN[name]
    net = ZOO[name]
    model = meta(name, aux=False)
    assert count(model) == plan_cost(model.plan).params == params
    assert count(meta(name)) == plan_cost(make_plan(net)).params == with_aux
    assert plan_cost(model.plan).macs / 1e6 == pytest.approx(macs, abs=0.01)


@pytest.mark.parametrize("name", ZOO)
def test_endpoint_shapes(name):
    model, size = meta(name).eval(), ZOO[name].image_size
    shapes = {k: tuple(v.shape[1:]) for k, v in model.endpoints(torch.empty(2, 3, size, size, device="meta")).items()}
    assert shapes == model.plan.shapes(size)
    assert {k: (c, h) for k, (c, h, w) in shapes.items() if k in SHAPES[name]} == SHAPES[name]
    assert all(h == w for _, h, w in shapes.values())


def test_the_tutorials_network_is_googlenet_with_choices():
    pools = {f"pool{i}": ["max/2"] for i in range(1, 5)}
    tutorial = meta("googlenet", num_classes=10, in_channels=1, norm="none", aux=False, init="xavier", blocks=pools)
    assert count(tutorial) == 5_977_530
    assert plan_cost(tutorial.plan, 96).macs / 1e9 == pytest.approx(0.276, abs=5e-4)
    pooled = [m for m in tutorial.modules() if isinstance(m, nn.MaxPool2d) and m.stride == 2]
    assert [(m.padding, m.ceil_mode) for m in pooled] == [((1, 1), False)] * 4
    assert not [m for m in tutorial.modules() if isinstance(m, nn.LocalResponseNorm | nn.BatchNorm2d)]


def test_the_first_block_of_googlenet():
    """About 0.16 M parameters and 128 M multiply-adds; a 3x3 convolution of the same channels has 0.44 M and 346 M."""
    block = meta("googlenet").inception_3a
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d))
    assert weights == 163_328 and weights * 28 * 28 / 1e6 == pytest.approx(128, abs=0.1)


@pytest.mark.parametrize("name", ZOO)
def test_calling_gives_logits_and_outputs_names_the_auxiliary_ones(name):
    model = meta(name, num_classes=7)
    x = torch.empty(2, 3, 128, 128, device="meta")
    for mode in (model.train(), model.eval()):
        assert mode(x).shape == (2, 7)
        outputs = mode.outputs(x)
        assert outputs.logits.shape == (2, 7)
        assert {tap: logits.shape for tap, logits in outputs.aux.items()} == dict.fromkeys(ZOO[name].aux, (2, 7))


def test_outputs_and_call_agree():
    model = create_model("inception_v3", 5, width=0.25).eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        maps = model.endpoints(x)
        assert torch.equal(model(x), model.outputs(x).logits)
        assert torch.allclose(model(x), model.fc(maps["mixed_7c"].mean((2, 3))), atol=1e-6)
        assert torch.equal(model.outputs(x).aux["mixed_6e"], model.aux["mixed_6e"](maps["mixed_6e"]))


@pytest.mark.parametrize("stem", VALID["stem"])
@pytest.mark.parametrize("name", ZOO)
def test_the_minimum_input_is_exact(name, stem):
    plan = make_plan(ZOO[name], stem=stem)
    smallest = plan.min_image_size()
    with torch.device("meta"):
        model = create_model(name, stem=stem).eval()
        model(torch.empty(1, 3, smallest, smallest))
        with pytest.raises(ZooError, match=f"{name}, .*(smaller than the kernel|different sizes)"):
            model(torch.empty(1, 3, smallest - 1, smallest - 1))


@pytest.mark.parametrize("name", [name for name, net in ZOO.items() if net.image_size == 299])
def test_low_resolution_stems_keep_the_cost(name):
    """arXiv 1512.00567, Table 5: inputs of 299, 151 and 79 px have nearly the same grids and cost."""
    costs = [
        plan_cost(make_plan(ZOO[name], stem=stem, aux=False), size).macs
        for stem, size in (("imagenet", 299), ("medium", 153 if name == "inception_v2_7x7" else 151), ("small", 79))
    ]
    assert max(costs) / min(costs) < 1.1


def test_depthwise_convolutions_keep_the_scale_of_what_they_read():
    """Without normalization, a gain of 2 in each of Xception's 34 would make features of 10^5."""
    torch.manual_seed(0)
    model = create_model("xception", norm="none", width=0.25).eval()
    with torch.no_grad():
        assert model.features(torch.randn(2, 3, 96, 96)).std() < 100


def test_an_endpoint_that_another_norm_empties_is_left_out():
    assert "pool1" in make_plan(ZOO["googlenet"], stem="small").shapes(28)  # because of its lrn layer
    small = {"stem": "small", "norm": "batch"}
    assert "pool1" not in make_plan(ZOO["googlenet"], **small).shapes(28)
    assert "pool1" in make_plan(ZOO["googlenet"], **small, blocks={"pool1": ["max"]}).shapes(28)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("norm", VALID["norm"])
def test_norms_build_and_count(name, norm):
    if norm == "lrn" and not name.startswith(("googlenet", "inception_v1")):
        with pytest.raises(ZooError, match=f"{name}: norm=lrn: no row of this network contains 'lrn'; use norm=none"):
            meta(name, norm=norm)
        return
    model = meta(name, norm=norm, width=0.5)
    assert count(model) == plan_cost(model.plan).params
    kinds = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm}
    found = {norm for norm, kind in kinds.items() if any(isinstance(m, kind) for m in model.modules())}
    assert found == ({norm} & set(kinds))


def test_rows_in_a_residual_block_keep_its_sum():
    rows = ["1x1 64", "3x3 64"]
    plan = make_plan(ZOO["inception_resnet_v2_slim"], blocks={"grid8": rows})
    grid8 = {b.name: b for b in plan.blocks if b.stage == "grid8"}
    assert [len(b.rows) for b in grid8.values()] == [4, *[2] * 10, 1]  # the reduction and the last convolution are unchanged
    assert grid8["block8_1"].c_out == 2080 and grid8["block8_1"].joined == 128 and grid8["block8_10"].residual.scale == 1.0


def test_an_endpoint_with_an_auxiliary_head_cannot_vanish():
    with pytest.raises(ZooError, match="inception_4a: norm=batch leaves no rows for the auxiliary head"):
        make_plan(ZOO["googlenet"], norm="batch", blocks={"inception_4a": ["lrn"]})


def test_every_activation_that_may_be_chosen_exists():
    assert set(ACTIVATIONS) == set(VALID["activation"])


def test_every_choice_changes_the_network():
    def fingerprint(**choices):
        torch.manual_seed(0)
        model = create_model("inception_v3", 4, **choices)
        return repr(model), [p.double().sum().item() for p in model.parameters()]

    plain = fingerprint()
    changes = [
        {"blocks": {"mixed_6b": ["1x1 768"]}},
        {"aux": False},
        {"norm": "group"},
        {"stem": "small"},
        {"width": 0.5},
        {"activation": "silu"},
        {"dropout": 0.5},
        {"blocks": {"grid17": "residual"}},
        {"init": "xavier"},
    ]
    assert all(fingerprint(**change) != plain for change in changes)
    assert fingerprint(blocks={"mixed_6b": None}) == plain


def test_rows_written_by_hand_stand_at_an_endpoint_or_a_whole_stage():
    rows = ["1x1 192", "1x1 128 > 1x5 128 > 5x1 192", "avg > 1x1 384"]
    one = make_plan(ZOO["inception_v3"], blocks={"mixed_6b": rows})
    assert one.shapes(299)["mixed_6b"] == (768, 17, 17)
    stage = make_plan(ZOO["inception_v3"], blocks={"grid17": rows, "mixed_6c": ["1x1 768"]})
    changed = {b.name: len(b.rows) for b in stage.blocks if b.stage == "grid17"}
    assert changed == {"mixed_6a": 3, "mixed_6b": 3, "mixed_6c": 1, "mixed_6d": 3, "mixed_6e": 3}


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("inception_v9", {}, "model 'inception_v9' is unknown; did you mean 'inception_v"),
        ("inception_v3", {"nrm": "batch"}, "inception_v3: nrm is not an option; did you mean 'norm'?"),
        ("inception_v3", {"norm": "bach"}, "norm=bach must be one of none, lrn, batch, group; did you mean 'batch'?"),
        ("inception_v3", {"width": 0}, "width=0 must be"),
        ("inception_v3", {"dropout": 1.0}, "dropout=1.0 must be"),
        ("inception_v3", {"num_classes": -1}, "num_classes=-1 must be a whole number"),
        ("bn_inception", {"aux": True}, "no auxiliary head"),
        ("inception_v3", {"weights": []}, "inception_v3: weights=[] must be a file"),
        ("inception_v3", {"adapt": ["head"]}, "inception_v3: adapt=head: there are no weights to adapt"),
        ("inception_v3", {"blocks": {"mixed_6z": ["1x1 8"]}}, "blocks.mixed_6z is not a stage or endpoint; did you mean"),
        (
            "inception_v3",
            {"blocks": {"mixed_6b": "1x1 8"}},
            "blocks.mixed_6b=1x1 8: variant '1x1 8' is unknown; valid: parallel",
        ),
        ("inception_v3", {"blocks": {"mixed_6b": ["1x1 8 > 3z3 8"]}}, "inception_v3, grid17 mixed_6b: row '1x1 8 > 3z3 8'"),
    ],
)
def test_a_wrong_choice_is_named(name, choices, message):
    with pytest.raises(ZooError) as error:
        create_model(name, **choices)
    assert message in str(error.value)


def test_blocks_whose_rows_do_not_fit_name_stage_and_endpoint():
    plan = make_plan(ZOO["inception_v3"], blocks={"mixed_6b": ["1x1 64", "3x3v 64"]})
    with pytest.raises(ZooError, match=r"inception_v3, grid17 mixed_6b: the rows give different sizes .*17x17.*15x15"):
        plan.shapes(299)


def test_initialization_is_seeded_and_keeps_the_signal():
    def outputs(init):
        torch.manual_seed(3)
        model = create_model("googlenet", 10, norm="none", init=init).eval()
        with torch.no_grad():
            return model.endpoints(torch.randn(2, 3, 96, 96))["inception_5b"]

    for init in VALID["init"]:
        assert torch.equal(outputs(init), outputs(init))
    assert 0.1 < outputs("he").std() < 100


def test_alias():
    assert find_net("inception_v1").name == "googlenet"


def test_importing_the_package_and_the_tables_is_light():
    code = (
        "import sys, inception_zoo, inception_zoo.architecture.cost, inception_zoo.config.check\n"
        "assert not {'torch', 'lightning', 'hydra', 'wandb', 'omegaconf'} & set(sys.modules)\n"
        "inception_zoo.create_model('googlenet', 10, width=0.25)\n"
        "assert 'torch' in sys.modules and not {'torchvision', 'lightning', 'hydra', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize("text", ["3x3/2s 5", "7x7/2s 5", "2x2/2s 5", "3x3/3s 5", "1x1/2s 5", "max/2s", "max2x2/2s", "max/1s"])
def test_same_is_tensorflows(text, size):
    """Keras implements TensorFlow's padding for every backend."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    row = build_row(make_plan(ZOO["googlenet"], norm="none"), parse(text), 4)
    x = torch.randn(2, 4, size, size + 3)
    (op,) = parse(text)[0]
    options = {"strides": op.stride, "padding": "same", "data_format": "channels_first"}
    if isinstance(op, Pool):
        layer = keras.layers.MaxPooling2D(op.kernel, **options)
    else:
        layer = keras.layers.Conv2D(op.width, op.kernel, activation="relu", **options)
        layer.build(x.shape)
        conv = next(module for module in row.modules() if isinstance(module, nn.Conv2d))
        layer.set_weights([conv.weight.permute(2, 3, 1, 0).detach().numpy(), conv.bias.detach().numpy()])
    for mode in (True, False):  # training has a path of its own
        torch.testing.assert_close(row.train(mode)(x), layer(x), rtol=1e-5, atol=1e-6)
