"""Facts that a weights file leaves open: each is read from the file, asked for by name, or the file is refused."""

import os
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
import torchvision
from typer.testing import CliRunner

from inception_zoo import ZooError, create_model, export_weights, load_model, load_weights, save_model
from inception_zoo.architecture.preprocessing import HALF, IMAGENET, Stated
from inception_zoo.bench.parity import _randomize, difference
from inception_zoo.cli.main import app
from inception_zoo.cli.networks import networks_of
from inception_zoo.serving.classifier import open_classifier
from inception_zoo.serving.convert import convert
from inception_zoo.weights import layouts, sources, undecided
from inception_zoo.weights.files import METADATA, read_weights, sha256, write_weights
from inception_zoo.weights.saving import card_of

SMALL = {"num_classes": 7, "width": 0.25, "aux": False}
FIRST = "conv1.0.0.conv.weight"


def normalized(pixels, mean, std):
    return (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


# transform_input


@pytest.fixture(scope="module", params=["inception_v3", "googlenet"])
def fine_tuned(request, tmp_path_factory):
    """Return torchvision's network with transform_input, as after fine-tuning, and the file of its state dict."""
    torch.manual_seed(0)
    options = {"num_classes": 7, "aux_logits": False, "init_weights": False, "transform_input": True}
    network = torchvision.models.get_model(request.param, weights=None, **options).eval()
    _randomize(network)
    path = tmp_path_factory.mktemp(request.param) / "fine_tuned.pth"
    torch.save({"model": network.state_dict(), "epoch": 3}, path)
    return network, path


def test_transform_input_is_asked_for(fine_tuned):
    network, path = fine_tuned
    with pytest.raises(
        ZooError, match=r"give --transform-input \(.*\) or --no-transform-input .*transform_input=True"
    ) as error:
        load_model(path)
    assert "\n" not in str(error.value)
    with pytest.raises(ZooError, match=r"the state dict does not store if .* --transform-input"):
        load_weights(
            create_model(
                "inception_v3" if "Mixed_5b.branch1x1.bn.bias" in network.state_dict() else "googlenet_bn", 7, aux=False
            ),
            network.state_dict(),
        )
    pixels = torch.rand(2, 3, 128, 128)
    with_it, without = (load_model(path, transform_input=given) for given in (True, False))
    folded = with_it.plan.net.name == "inception_v3"
    assert (with_it.preprocessing.mean, without.preprocessing) == ((IMAGENET if folded else HALF)[0], None)
    assert with_it.provenance.notes[0] == "read 'model'" and "transform_input is" in with_it.provenance.notes[1]
    assert without.provenance.notes[1] == "used without transform_input"
    with torch.no_grad():
        expected = network(normalized(pixels, *IMAGENET))
        ours = with_it(normalized(pixels, with_it.preprocessing.mean, with_it.preprocessing.std))
        assert difference(ours, expected) < 1e-5
        assert difference(without(normalized(pixels, *IMAGENET)), expected) > 1e-2  # the guess of before


@pytest.mark.parametrize("given", [IMAGENET, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), (None, None), (IMAGENET[0], None)])
def test_mean_and_std_are_those_of_the_images_before_transform_input(fine_tuned, given):
    network, path = fine_tuned
    classifier = open_classifier(path, stated=Stated(*given, image_size=128, transform_input=True))
    pixels = torch.rand(1, 3, 128, 128)
    mean, std = given[0] or IMAGENET[0], given[1] or IMAGENET[1]
    with torch.no_grad():
        ours = classifier.model(normalized(pixels, classifier.preprocessing.mean, classifier.preprocessing.std))
        assert difference(ours, network(normalized(pixels, mean, std))) < 1e-5


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_this_package_exported_states_it(suffix, tmp_path):
    model = create_model("googlenet_bn", 7, aux=False)
    write_weights(tmp_path / f"w{suffix}", export_weights(model, "torchvision"))
    assert torch.equal(load_model(tmp_path / f"w{suffix}").state_dict()[FIRST], model.state_dict()[FIRST])
    with pytest.raises(
        ZooError, match=r"transform_input=True: .* does not normalize images again; leave --transform-input out"
    ):
        load_model(tmp_path / f"w{suffix}", transform_input=True)
    if suffix == ".pth":
        network = torchvision.models.googlenet(weights=None, num_classes=7, aux_logits=False, init_weights=False)
        network.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True))


def test_a_layout_decides_transform_input(tmp_path):
    model = create_model("inception_v4", **SMALL)
    load_weights(model, dict(export_weights(model, "timm")))
    grey = create_model("googlenet_bn", in_channels=1, **SMALL)
    load_weights(grey, dict(export_weights(grey, "torchvision")))  # defined for colour images only
    for network, layout in ((model, "timm"), (grey, "torchvision"), (model, "native")):
        with pytest.raises(ZooError, match="transform_input=True: the network of the state dict does not"):
            load_weights(network, dict(export_weights(network, layout)), transform_input=True)
    with pytest.raises(ZooError, match="transform_input=False: it is known for the published weights"):
        load_model("torchvision:IMAGENET1K_V1", "inception_v3", transform_input=False)


def test_older_exports_are_named(fine_tuned):
    with pytest.raises(ZooError, match=r"--no-transform-input \(others, .* files that older versions of this package wrote\)"):
        load_model(fine_tuned[1])


def test_the_digests_are_those_of_torchvisions_files():
    files = [getattr(torchvision.models, name).IMAGENET1K_V1.url for name in sources.TORCHVISION.values()]
    assert sorted(undecided.PRETRAINED) == sorted(file.rpartition("-")[2].removesuffix(".pth") for file in files)


def test_torchvisions_published_files_are_known(fine_tuned, tmp_path, monkeypatch):
    network, _ = fine_tuned
    torch.save(network.state_dict(), path := tmp_path / "renamed.pth")
    monkeypatch.setattr(undecided, "PRETRAINED", (sha256(path)[:8],))
    pixels = torch.rand(1, 3, 128, 128)
    for options in ((None, None), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))):
        stated = Stated(*options)
        convert(f"{tmp_path}/./renamed.pth", tmp_path / f"{options[0]}.safetensors", stated=stated)
        expected = network(normalized(pixels, *(options if options[0] else IMAGENET)))
        for classifier in (open_classifier(path, stated=stated), open_classifier(tmp_path / f"{options[0]}.safetensors")):
            known = classifier.preprocessing
            with torch.no_grad():
                assert difference(classifier.model(normalized(pixels, known.mean, known.std)), expected) < 1e-5
    with pytest.raises(ZooError, match=r"transform_input=False: .* normalizes images again; leave --no-transform-input out"):
        load_model(path, transform_input=False)


# FID's network

FILE = "pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def fids(tmp_path_factory):
    """Return FID's network and a folder with its weights, under the published name and another one."""
    folder = tmp_path_factory.mktemp("fid")
    model = create_model("inception_v3_fid", 1008).eval()
    for name in ("unknown.pth", FILE):
        torch.save(export_weights(model, "fid"), folder / name)
    return model, folder


def test_fids_file_is_recognized(fids, monkeypatch):
    model, folder = fids
    x = torch.rand(1, 3, 128, 128)
    found = load_model(folder / FILE)
    twin = layouts.V3_TWIN._replace(sha256=sha256(folder / "unknown.pth")[:8])
    monkeypatch.setitem(layouts.LAYOUTS["torchvision"], "inception_v3", replace(layouts.TORCHVISION_V3, twin=twin))
    for each in (found, load_model(folder / "unknown.pth"), load_model(folder / FILE, "inception_v3_fid")):
        assert each.plan.net.name == "inception_v3_fid"
        assert each.provenance.layout == "fid"
        assert torch.equal(each(x), model(x))
    assert found.preprocessing.mean == (0.5, 0.5, 0.5)


def test_fids_weights_need_a_name_where_nothing_decides(fids):
    model, folder = fids
    file = folder / "unknown.pth"
    other = create_model("inception_v3", 1008, aux=False)
    asks = r"may be inception_v3_fid, FID's network \(1008 classes, .*give this name \(convert: --model inception_v3_fid\)$"
    for load in (
        lambda: load_model(file, transform_input=False),
        lambda: load_model(file, "inception_v3_slim"),
        lambda: load_model(file, "inception_v3"),
        lambda: load_weights(other, file),
        lambda: load_weights(other, file, "torchvision", transform_input=False),
        lambda: load_weights(other, export_weights(model, "fid")),
        lambda: create_model("inception_v3", 10, weights=file, adapt=["head", "aux"]),
    ):
        with pytest.raises(ZooError, match=asks):
            load()
    for given in ("auto", "torchvision"):
        with pytest.raises(ZooError, match="has weights of inception_v3_fid in the layout of fid, not of inception_v3"):
            load_weights(other, folder / FILE, given, transform_input=False)
    x = torch.rand(1, 3, 128, 128)
    named = create_model("inception_v3_fid", 1008).eval()
    for given in ("auto", "fid"):
        load_weights(named, file, given)
        assert torch.equal(named(x), model(x))
    assert torch.equal(load_model(file, "inception_v3_fid")(x), model(x))


def test_torchvisions_weights_are_not_fids():
    fid, small = create_model("inception_v3_fid", 1008, width=0.25), {"width": 0.25}
    for classes, aux in ((1008, True), (10, False), (10, True)):
        state = dict(export_weights(create_model("inception_v3", classes, aux=aux, **small), "torchvision"))
        with pytest.raises(ZooError, match="has weights of inception_v3 in the layout of torchvision, not of inception_v3_fid"):
            load_weights(fid, state)
        load_weights(create_model("inception_v3", classes, aux=aux, **small), state, transform_input=True)
    own = create_model("inception_v3", 1008, aux=False, **small)
    load_weights(own, export_weights(own, "torchvision"))  # the export states its origin


def test_fids_layout_does_not_take_torchvisions_weights():
    fid = create_model("inception_v3_fid", 10, width=0.25)
    state = export_weights(create_model("inception_v3", 1008, aux=False, width=0.25), "torchvision")  # states its origin
    other = dict(export_weights(create_model("inception_v3", 10, aux=False, width=0.25), "torchvision"))
    for weights in (state, other):
        with pytest.raises(ZooError, match="the weights of another network with inception_v3_fid's names"):
            load_weights(fid, weights, "fid", adapt=["head"])


def test_the_published_name_counts_without_a_classifier(tmp_path):
    state = export_weights(create_model("inception_v3_fid", 0, width=0.25), "fid")
    torch.save(state, tmp_path / FILE)
    with pytest.raises(ZooError, match="has weights of inception_v3_fid in the layout of fid, not of inception_v3"):
        load_weights(create_model("inception_v3", 10, aux=False, width=0.25), tmp_path / FILE, "torchvision", adapt=["head"])


def test_an_export_that_would_be_taken_for_another_network_is_refused():
    with pytest.raises(ZooError, match="layout=fid has 1008 classes: a file with 10 would be read as another network's"):
        export_weights(create_model("inception_v3_fid", 10, width=0.25), "fid")


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_weights_without_a_classifier_need_a_name(layout, tmp_path):
    model = create_model("inception_v3", 10, width=0.25, aux=False)
    state = {key: value for key, value in export_weights(model, layout).items() if not key.startswith("fc.")}
    torch.save(state, tmp_path / "features.pth")
    for load in (
        lambda: create_model("inception_v3", 10, width=0.25, aux=False, weights=tmp_path / "features.pth", adapt=["head"]),
        lambda: load_weights(model, state, adapt=["head"]),
        lambda: load_weights(model, state, adapt=["head"], transform_input=False),
    ):
        with pytest.raises(
            ZooError, match=r"may be inception_v3_fid.* \(no classifier, .*; if it is inception_v3, load it with"
        ):
            load()
    given = {} if layout == "timm" else {"transform_input": False}
    load_weights(model, tmp_path / "features.pth", layout, adapt=["head"], **given)
    load_weights(create_model("inception_v3_fid", 10, width=0.25), state, adapt=["head"])
    wide = {**state, "fc.weight": torch.ones(1008, 2, 1, 1)}  # adapt=["head"] takes any classifier
    with pytest.raises(ZooError, match=r"may be inception_v3_fid.* \(1008 classes, no auxiliary head\)"):
        load_weights(model, wide, adapt=["head"])


# Raw weights and their average


@pytest.fixture(scope="module")
def states():
    """Return the state dicts of a network, raw and averaged."""
    raw = dict(export_weights(create_model("googlenet_bn", **SMALL), "torchvision"))
    return raw, {key: value + 1 for key, value in raw.items()}


def under(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def content(case, raw, average):
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "ema.avg": torch.ones(3)}}, "param_groups": []}
    count = {"n_averaged": torch.tensor(3)}
    return {
        "timm": {"state_dict": raw, "state_dict_ema": average, "optimizer": optimizer, "epoch": 3},
        "torchvision": {"model": raw, "model_ema": count | under("module.", average), "optimizer": optimizer},
        "ema": {"model": raw, "ema": average},
        "ema_state_dict": {"model_state_dict": raw, "ema_state_dict": average},
        "deeper": {"network": raw, "ema": {"module": under("module.", average), "decay": 0.9}},
        "MMEngine": {
            "state_dict": average, "ema_state_dict": {"steps": torch.tensor(1)} | under("module.", raw), "message_hub": {},
        },
        "Lightning": {
            "state_dict": under("model.", average), "current_model_state": under("model.", raw), "averaging_state": count,
        },
        "Lightning's SWA": {"state_dict": raw, "callbacks": {"SWA": {"average_model_state": average}}},
        "two modules": {"state_dict": under("model.", raw) | under("model_ema.module.", average)},
        "at the top": raw | under("model_ema.", average),
        "a wrapper": {"step": torch.tensor(1)} | under("online_model.", raw) | under("ema_model.", average),
        "modelEMA": {"model": raw, "modelEMA": average},
        "emaModel": {"model": raw, "emaModel": under("module.", average)},
        "EMAModel": {"model": raw, "EMAModel": average},
        "a callback": {"state_dict": raw, "callbacks": {"WeightEMA": {"state": average}}},
        "polyak": {"model": raw, "polyak-0.99": average},
    }[case]  # fmt: skip


CASES = [
    "timm", "torchvision", "ema", "ema_state_dict", "deeper", "MMEngine", "Lightning", "Lightning's SWA", "two modules",
    "at the top", "a wrapper", "modelEMA", "emaModel", "EMAModel", "a callback", "polyak",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_raw_or_averaged_is_asked_for(states, case, tmp_path):
    torch.save(content(case, *states), tmp_path / "both.pth")
    model = create_model("googlenet_bn", **SMALL)
    with pytest.raises(ZooError, match=r"raw weights \(.*\) and averaged ones \(.*\); give --ema or --no-ema") as error:
        load_weights(model, tmp_path / "both.pth", transform_input=False)
    assert "\n" not in str(error.value) and "inception-zoo convert" in str(error.value)
    for ema, state in ((False, states[0]), (True, states[1])):
        for source in (tmp_path / "both.pth", content(case, *states)):  # a file, and what torch.load makes of it
            notes = load_weights(model, source, ema=ema, transform_input=False).notes
            assert torch.equal(model.state_dict()[FIRST], state["conv1.conv.weight"])
            assert notes[0].startswith("read ") and notes[0].endswith("averaged weights" if ema else "raw weights")
            assert notes[1].startswith("not read: ")


def test_averages_in_safetensors_are_asked_for(states, tmp_path):
    write_weights(tmp_path / "both.safetensors", content("two modules", *states)["state_dict"])
    with pytest.raises(ZooError, match=r"raw weights .the tensors at the top. and averaged ones .'model_ema'."):
        read_weights(tmp_path / "both.safetensors")
    assert torch.equal(
        read_weights(tmp_path / "both.safetensors", ema=True).state["conv1.conv.weight"], states[1]["conv1.conv.weight"]
    )


@pytest.mark.parametrize(
    "saved",
    [
        lambda raw, _: {"avg_loss": {"hist": torch.ones(9)}},
        lambda raw, _: {"meters": {"avg": [torch.ones(9)], "ema": {0: torch.ones(9)}}},
        lambda raw, average: {"ema_optimizer": {"exp_avg": average, "shadow": list(average.values())}},
        lambda raw, average: {"optimizer_states": [{"state": {"ema": average}}], "generatorOptimizer": {"ema": average}},
        lambda raw, average: {"batches": list(torch.ones(len(raw), 3)), "queue": [torch.ones(2_000_000)]},
    ],
)
def test_what_is_not_an_average_is_not_asked_for(states, saved):
    for ema in (None, False):
        state = {"state_dict": states[0]} | saved(*states)
        assert load_weights(create_model("googlenet_bn", **SMALL), state, ema=ema, transform_input=False).notes[1:] == [
            "used without transform_input"
        ]
    with pytest.raises(ZooError, match=r"ema=True: .* contains no averaged weights"):
        load_weights(create_model("googlenet_bn", **SMALL), {"state_dict": states[0]} | saved(*states), ema=True)


@pytest.mark.parametrize(
    "saved",
    [
        lambda parameters, _: {"polyak_params": parameters},
        lambda parameters, _: {"target": parameters},  # whatever its name is
        lambda parameters, _: {"smooth": dict(enumerate(parameters))},
        lambda parameters, _: {"ema": {"flat": torch.cat([value.flatten() for value in parameters])}},
        lambda _, average: {"model_ema": {key.replace(".", ""): value for key, value in average.items()}},
        lambda _, average: {f"model_ema.{key.replace('.', '')}": value for key, value in average.items()},
    ],
)
def test_an_average_without_names_is_asked_for(states, saved, tmp_path):
    raw, average = states
    parameters = [value for key, value in average.items() if key.rpartition(".")[2] in ("weight", "bias")]
    both = {"state_dict": raw} | saved(parameters, average)
    torch.save(both, tmp_path / "both.pth")
    with pytest.raises(ZooError, match="give --ema or --no-ema"):
        read_weights(tmp_path / "both.pth")
    with pytest.raises(ZooError, match="without the network's names of tensors; give --no-ema"):
        read_weights(tmp_path / "both.pth", ema=True)
    assert torch.equal(read_weights(tmp_path / "both.pth", ema=False).state["conv1.conv.weight"], raw["conv1.conv.weight"])


def refused(raw, average):
    listed = {"model": raw, "ema": {"decay": 0.9, "shadow_params": list(average.values())}}
    return {
        "a list": (listed, True, "average in 'ema.shadow_params' without the network's names of tensors; give --no-ema"),
        "a list alone": (
            {"ema": listed["ema"]}, None, "average in 'ema.shadow_params' without .* names of tensors; save it as a state dict",
        ),
        "a list, unasked": (listed, None, "averaged ones .'ema.shadow_params'.; give --ema or --no-ema"),
        "no average": ({"model": raw}, True, "ema=True: .* contains no averaged weights; leave --ema out"),
        "no raw": ({"state_dict_ema": average}, False, "ema=False: .* contains averaged weights only"),
        "two names": ({"state_dict": raw, "module": average}, None, "several state dicts: 'state_dict', 'module'"),
        "two networks": ({"model": raw, "net": {"a.b": raw["fc.bias"]}}, None, "several state dicts: 'model', 'net'"),
        "a twin with other names": ({"model": raw, "slow": under("backbone.", average)}, None, "state dicts: 'model', 'slow'"),
        "an unknown twin": ({"model": raw, "teacher": average}, False, "several state dicts: 'model', 'teacher'"),
        "unknown names": ({"g": raw, "d": {"a.b": raw["fc.bias"]}}, None, "several state dicts: 'g', 'd'"),
        "two averages": ({"model": raw, "ema": average, "swa": raw}, True, "several averages: 'ema', 'swa'"),
        "a name of many lines": ({"state_dict": raw, "a\nb" * 99: raw}, None, r"several state dicts: 'state_dict', 'a\\nba"),
    }  # fmt: skip


@pytest.mark.parametrize("case", refused({"fc.bias": torch.ones(1)}, {}))
def test_what_cannot_be_decided_is_refused(states, case, tmp_path):
    saved, ema, message = refused(*states)[case]
    torch.save(saved, tmp_path / "w.pth")
    with pytest.raises(ZooError, match=message) as error:
        read_weights(tmp_path / "w.pth", ema)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_one_state_dict_is_found_under_any_name(states, tmp_path):
    raw, average = states
    itself = {"model": raw}
    itself["again"] = itself
    for saved in (
        {"my_weights": under("module._orig_mod.", raw), "epoch": 3},
        {"state_dict": raw, "criterion": {"centres.weight": torch.ones(3)}},
        itself,
    ):
        torch.save(saved, tmp_path / "w.pth")
        state, _, notes = read_weights(tmp_path / "w.pth")
        assert state.keys() == raw.keys() and notes[0].startswith("read '")
    assert read_weights(tmp_path / "w.pth", ema=False).state.keys() == raw.keys()
    torch.save({"state_dict_ema": average}, tmp_path / "w.pth")  # the only one
    assert read_weights(tmp_path / "w.pth").notes == ["read 'state_dict_ema', averaged weights"]
    torch.save({"state_dict_ema": average, "avg_loss": {"hist": torch.ones(9)}}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").notes == ["read 'state_dict_ema', averaged weights"]
    torch.save({"model": raw, "ema": average, "gradients": list(raw.values())}, tmp_path / "w.pth")
    assert torch.equal(read_weights(tmp_path / "w.pth", ema=True).state["conv1.conv.weight"], average["conv1.conv.weight"])


ARGUMENTS = Namespace(lr=0.1, data_path="/data", opt_betas=None, cuts=[0.5])  # the command line of a training script


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("reference.pth", lambda raw: {"model": raw, "optimizer": {"state": {}}, "epoch": 3, "args": ARGUMENTS}),
        ("model_best.pth.tar", lambda raw: {"arch": "googlenet", "state_dict": raw, "args": ARGUMENTS, "version": 2}),
        ("lit.ckpt", lambda raw: {"state_dict": under("net.", raw), "hyper_parameters": ARGUMENTS, "loops": {}}),
    ],
)
def test_the_checkpoints_of_training_scripts_are_read(states, name, saved, tmp_path):
    torch.save(saved(states[0]), tmp_path / name)
    model = create_model("googlenet_bn", **SMALL)
    load_weights(model, tmp_path / name, transform_input=False)
    assert torch.equal(model.state_dict()[FIRST], states[0]["conv1.conv.weight"])
    torch.save(saved(states[0]) | {"model_ema": states[1]}, tmp_path / name)
    with pytest.raises(ZooError, match="give --ema or --no-ema"):
        load_weights(model, tmp_path / name, transform_input=False)
    assert Namespace not in torch.serialization.get_safe_globals()  # only while the file is read


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "backbone.", "module._orig_mod.", "model.backbone."]
)
def test_a_prefix_of_all_names_is_removed_and_logged(states, prefix, caplog):
    model = create_model("googlenet_bn", **SMALL)
    load_weights(model, under(prefix, states[0]), transform_input=False)
    assert torch.equal(model.state_dict()[FIRST], states[0]["conv1.conv.weight"])
    assert f"prefix '{prefix}' of its names of tensors removed" in caplog.text
    with pytest.raises(ZooError, match="unknown layout"):  # not a prefix of all names
        load_weights(model, under(prefix, states[0]) | {"head.weight": torch.ones(1)}, transform_input=False)


def test_a_checkpoint_of_this_package_gives_its_average(tmp_path):
    model = create_model("googlenet_bn", **SMALL)
    state = under("model.", model.state_dict())
    saved = {"state_dict": {key: value + 1 for key, value in state.items()}, "current_model_state": state}
    torch.save({METADATA: card_of(model).plain(), **saved}, tmp_path / "best.ckpt")
    for ema, more in ((None, 1), (True, 1), (False, 0)):
        assert torch.equal(load_model(tmp_path / "best.ckpt", ema=ema).state_dict()[FIRST], state[f"model.{FIRST}"] + more)
    assert read_weights(tmp_path / "best.ckpt", ema=False).notes == ["read raw weights"]
    del saved["current_model_state"]
    torch.save({METADATA: card_of(model).plain(), **saved}, tmp_path / "best.ckpt")
    save_model(model, tmp_path / "own.safetensors")
    for file in ("best.ckpt", "own.safetensors"):
        with pytest.raises(ZooError, match="contains no averaged weights"):
            load_model(tmp_path / file, ema=True)
        assert read_weights(tmp_path / file, ema=False).notes == []


def test_half_precision_is_logged(states):
    model = create_model("googlenet_bn", **SMALL)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in states[0].items()}
        notes = load_weights(model, state, transform_input=False).notes
        assert notes[0] == f"stored as {str(dtype)[6:]}, used as float32"
        assert torch.equal(model.state_dict()[FIRST], state["conv1.conv.weight"].float())


def test_a_description_does_not_ask(states, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content("timm", *states), "both.pth")
    (named,) = networks_of(["googlenet_bn", "weights=both.pth"])
    assert named.card.provenance.layout == "not stated in the file"
    with pytest.raises(ZooError, match=r"both.pth does not name its network; import it with `inception-zoo convert`"):
        networks_of(["both.pth"])


def test_the_commands_ask_and_take_the_answers(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = create_model("googlenet_bn", 7, aux=False)
    raw = dict(export_weights(model, "torchvision"))
    torch.save(content("timm", raw, {key: value + 1 for key, value in raw.items()}), tmp_path / "both.pth")
    answers = ["--no-ema", "--transform-input"]
    usual = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    for command, out in (("convert", "o.safetensors"), ("predict", "o.safetensors"), ("export", "o.pt2")):
        for given, message in (([], "give --ema or --no-ema"), (["--ema"], "or --no-transform-input")):
            done = CliRunner().invoke(app, [command, "both.pth", __file__ if command == "predict" else out, *given])
            assert isinstance(done.exception, ZooError) and message in str(done.exception), (command, done)
    done = cli("convert", "both.pth", "o.safetensors", *answers, *usual)
    assert done.returncode == 0, done.stderr
    assert "both.pth: read 'state_dict', raw weights" in done.stderr and "transform_input is replaced" in done.stderr
    converted = load_model(tmp_path / "o.safetensors")
    assert torch.equal(converted.state_dict()[FIRST], model.state_dict()[FIRST])
    assert [round(value, 12) for value in converted.preprocessing.mean + converted.preprocessing.std] == [0.5] * 6
    assert "read 'state_dict', raw weights" in converted.provenance.notes
    with pytest.raises(ZooError, match=r"model.weights has no such option: run `inception-zoo convert`"):
        create_model("googlenet_bn", 7, aux=False, weights=tmp_path / "both.pth")


# Keras's optimizer


def with_arrays(path, *names):
    import h5py

    with h5py.File(path, "r+") as file:
        for name in names:
            file.create_dataset(name, data=torch.ones(2, 3).numpy())


def test_the_state_of_kerass_training_is_ignored(tmp_path):
    model = create_model("inception_v3_slim", 7, width=0.25, aux=False)
    write_weights(path := tmp_path / "w.weights.h5", export_weights(model, "keras"))
    with_arrays(path, "optimizer/vars/2", "optimizer/vars/3", "layers/dropout/seed_generator/vars/0", "metrics/mean/vars/0")
    provenance = load_weights(create_model("inception_v3_slim", 7, width=0.25, aux=False), path)
    assert provenance.notes == ["the state of the training is ignored (4 arrays: metrics, optimizer, seed_generator)"]
    with pytest.raises(ZooError, match=r"ema=True: .* contains no averaged weights"):
        read_weights(path, ema=True)
    with_arrays(path, "layers/normalization/vars/0", "layers/optimizer/vars/0")  # all else stays strict
    with pytest.raises(ZooError, match="2 unexpected: layers/normalization/vars/0, layers/optimizer/vars/0"):
        load_weights(model, path)


def test_a_file_of_keras_2_names_its_layers_otherwise(tmp_path):
    model = create_model("inception_v3_slim", 7, width=0.25, aux=False)
    state = export_weights(model, "keras")
    write_weights(
        tmp_path / "w.weights.h5", {key.replace("layers/", "_layer_checkpoint_dependencies/"): v for key, v in state.items()}
    )
    read = read_weights(tmp_path / "w.weights.h5").state
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("optimizer", "options", "asks"),
    [
        ("Adam", {}, False),
        ("RMSprop", {}, True),  # one array for each weight, like an average
        ("SGD", {}, False),
        ("SGD", {"use_ema": True}, True),
        ("SGD", {"use_ema": True, "momentum": 0.9}, True),
        ("Adam", {"use_ema": True}, True),
        ("Adam", {"use_ema": True, "amsgrad": True}, True),
    ],
)
def test_kerass_own_files_of_a_trained_network(optimizer, options, asks, tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )
    network.compile(getattr(keras.optimizers, optimizer)(**options), "mse", metrics=["mae"])
    network.train_on_batch(torch.rand(2, 8, 8, 3), torch.rand(2, 2))
    network.save_weights(tmp_path / "new.weights.h5")
    keras.src.legacy.saving.legacy_h5_format.save_model_to_hdf5(network, tmp_path / "old.h5")
    average = "use_ema" in options
    for name, refused in (("new.weights.h5", asks), ("old.h5", average)):
        has = r"has" if name == "old.h5" else "may have"
        for ema in (None, True):
            if refused:
                with pytest.raises(
                    ZooError, match=rf"{has} an average \(EMA\) in .* optimizer, which cannot be read; give --no-ema"
                ):
                    read_weights(tmp_path / name, ema)
            elif ema:
                with pytest.raises(ZooError, match="contains no averaged weights"):
                    read_weights(tmp_path / name, ema)
            else:
                read_weights(tmp_path / name)
    new, old = (read_weights(tmp_path / name, ema=False) for name in ("new.weights.h5", "old.h5"))
    assert len(new.state) == 8 and new.notes[0].endswith("arrays: optimizer)")
    assert old.notes[0].endswith("arrays: optimizer_weights)")
    assert old.state.keys() == new.state.keys() and all(torch.equal(old.state[key], new.state[key]) for key in new.state)


def test_the_average_of_keras_2_is_found(tmp_path):
    write_weights(path := tmp_path / "w.h5", {"layers/dense/vars/0": torch.ones(2, 3)})
    with_arrays(path, "optimizer_weights/SGD/average/dense/kernel:0")
    with pytest.raises(ZooError, match=r"has an average \(EMA\)"):
        read_weights(path)
    assert read_weights(path, ema=False).state.keys() == {"layers/dense/vars/0"}
