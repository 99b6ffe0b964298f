"""Import and export of weights: layouts, files, cards, adapted tensors and errors."""

import json
import os
import pickle
import re
from functools import partial
from pathlib import Path

import pytest
import torch

from inception_zoo import ZooError, create_model, export_weights, load_model, load_weights, save_model
from inception_zoo.architecture.preprocessing import HALF, IMAGENET, Preprocessing
from inception_zoo.bench.parity import difference
from inception_zoo.weights.files import read_weights, write_weights
from inception_zoo.weights.layouts import LAYOUTS
from inception_zoo.weights.mapping import recognize
from inception_zoo.weights.normalization import fold_normalization

PLAIN = {"aux": False, "width": 0.25}


def drawn(name, *args, **choices):
    """Return a network with random BatchNorm parameters and statistics."""
    torch.manual_seed(0)
    model = create_model(name, *args, **choices)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif ".norm." in key and value.is_floating_point():
            value.normal_(1, 0.2)
    return model.eval()


def logits(model, *shape):
    with torch.no_grad():
        return model(torch.linspace(-2, 2, torch.Size(shape).numel()).view(shape))


@pytest.fixture
def googlenet():
    model = drawn("googlenet_bn", 10, 3, **PLAIN)
    model.preprocessing = Preprocessing(64, *IMAGENET, resize=72, interpolation="bicubic")
    model.classes = [f"class {i}" for i in range(10)]
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognized_and_comes_back_exactly(layout):
    for net in [net for net, names in LAYOUTS[layout].items() if not names.read_only]:
        classes = 1008 if layout == "fid" else 7
        model = drawn(net, classes, 3, width=0.25, aux=net in ("googlenet_bn", "inception_v3"))
        if layout == "keras":
            for key, value in model.state_dict().items():
                if key.endswith("norm.weight"):
                    value.fill_(1)
        state = export_weights(model, layout)
        found = ("fid", net) if layout == "fid" else recognize(state)  # by its names alone, it is torchvision's
        same = LAYOUTS[found[0]][found[1]].places == LAYOUTS[layout][net].places
        assert found[1] == net and (found[0] == layout or same or {found[0], layout} == {"torchvision", "timm"})
        other = create_model(net, classes, 3, width=0.25, aux=bool(model.aux))
        assert load_weights(other, state).layout == found[0]
        ours = other.state_dict()
        lost = [key for key, value in model.state_dict().items() if not torch.equal(ours[key], value)]
        assert all(key.endswith("num_batches_tracked") for key in lost)


def test_every_format_brings_the_same_weights(googlenet, tmp_path):
    save_model(googlenet, tmp_path / "own.safetensors")
    write_weights(tmp_path / "plain.safetensors", export_weights(googlenet, "torchvision"))
    write_weights(tmp_path / "plain.pth", export_weights(googlenet, "torchvision"))
    wrapped = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in export_weights(googlenet, "torchvision").items()}}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    expected = logits(googlenet, 2, 3, 64, 64)
    for file in sorted(tmp_path.iterdir()):
        model = create_model("googlenet_bn", 10, 3, **PLAIN).eval()
        provenance = load_weights(model, file, transform_input=False)
        assert torch.equal(logits(model, 2, 3, 64, 64), expected), file.name
        assert provenance.source == str(file) and len(provenance.sha256) == 64


def test_a_saved_model_is_built_again_from_its_card(googlenet, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(googlenet, path)
    again = load_model(path)
    assert torch.equal(logits(again, 2, 3, 64, 64), logits(googlenet, 2, 3, 64, 64)) and not again.training
    assert (again.preprocessing, again.classes) == (googlenet.preprocessing, googlenet.classes)
    assert oct(path.stat().st_mode)[-3:] == oct(0o666 & ~umask())[-3:]
    swapped = drawn("inception_v3", 5, 1, width=0.25, blocks={"grid17": "residual", "mixed_7c": ["1x1 2048"]})
    save_model(swapped, path)
    assert load_model(path).plan.swapped == swapped.plan.swapped
    assert torch.equal(logits(load_model(path), 2, 1, 80, 80), logits(swapped, 2, 1, 80, 80))


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("choices", "spoil", "message"),
    [
        ({}, lambda w: w.pop("conv2.conv.weight"), "1 missing: conv2.conv.weight"),
        ({}, lambda w: w.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        ({}, lambda w: w.update({"conv3.conv.weight": torch.zeros(3)}), r"1 mismatched: conv3.conv.weight is \(3,\), expected"),
        ({"num_classes": 4}, None, r"2 mismatched: fc.weight is .*set adapt to allow head \("),
        ({"in_channels": 1}, None, r"mismatched: conv1.conv.weight.*set adapt to allow input \("),
        ({"aux": True}, None, r"missing: aux1.*set adapt to allow aux \("),
        ({"blocks": {"inception_4a": "residual"}}, None, r"unexpected: inception4a.*set adapt to allow blocks \("),
        ({"norm": "group"}, None, "trained with norm=batch, this network has norm=group"),
        ({"width": 0.5}, None, "and [0-9]+ more"),
    ],
)
def test_what_does_not_fit_is_listed_and_changes_nothing(googlenet, choices, spoil, message):
    weights = export_weights(googlenet, "torchvision")
    if spoil:
        spoil(weights)
    model = create_model("googlenet_bn", **{"num_classes": 10, **PLAIN, **choices})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ZooError, match=message) as error:
        load_weights(model, weights, "torchvision")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("keras", "layout=keras does not have googlenet_bn; it has inception_v3_slim, inception_resnet_v2_slim"),
        ("tensorflow", "layout=tensorflow is unknown; valid: native, torchvision, timm, cadene, keras, fid, lucid, facenet"),
    ],
)
def test_layouts_that_are_not(googlenet, layout, message):
    with pytest.raises(ZooError, match=message):
        load_weights(googlenet, {}, layout)
    with pytest.raises(ZooError, match=message):
        export_weights(googlenet, layout)


def test_other_networks_weights_are_named(googlenet):
    other = create_model("inception_v3", **PLAIN)
    with pytest.raises(ZooError, match="has weights of googlenet_bn in the layout of torchvision, not of inception_v3"):
        load_weights(other, export_weights(googlenet, "torchvision"))
    with pytest.raises(ZooError, match=r"unknown layout, with keys like a\.b"):
        load_weights(other, {"a.b": torch.zeros(1)})


def test_export_refuses_what_the_layout_cannot_say():
    swapped = create_model("inception_v3", **PLAIN, blocks={"mixed_6b": "residual"})
    with pytest.raises(ZooError, match="only the published blocks, but these are swapped: mixed_6b"):
        export_weights(swapped, "timm")
    with pytest.raises(ZooError, match="trained with activation=relu, used with silu"):
        export_weights(create_model("inception_v3", **PLAIN, activation="silu"), "timm")
    with pytest.raises(ZooError, match="layout=timm: the weights were trained with norm=batch"):
        export_weights(create_model("inception_v3", **PLAIN, norm="group"), "timm")


def test_a_new_head_keeps_the_trunk(googlenet):
    model = create_model("googlenet_bn", 4, 3, **PLAIN)
    drawn_head = model.fc.weight.clone()
    provenance = load_weights(model, export_weights(googlenet, "torchvision"), adapt=["head"])
    assert torch.equal(model.inception_5b[0][0].conv.weight, googlenet.inception_5b[0][0].conv.weight)
    assert torch.equal(model.fc.weight, drawn_head) and model.classes is None
    assert provenance.notes == ["classifier re-initialized for 4 classes"]
    same = create_model("googlenet_bn", 10, 3, **PLAIN)  # other classes, but the same number
    drawn_head = same.fc.weight.clone()
    load_weights(same, export_weights(googlenet, "torchvision"), adapt=["head"])
    assert torch.equal(same.fc.weight, drawn_head)


def test_auxiliary_heads_more_or_less(googlenet, caplog):
    with_heads = drawn("googlenet_bn", 10, 3, width=0.25, aux=True)
    provenance = load_weights(googlenet, export_weights(with_heads, "torchvision"))
    assert provenance.notes == ["auxiliary heads left out: inception_4a, inception_4d"]
    assert "auxiliary heads left out" in caplog.text  # logged as a warning
    other = create_model("googlenet_bn", 10, 3, width=0.25)
    provenance = load_weights(other, export_weights(googlenet, "torchvision"), adapt=["aux"])
    assert provenance.notes == ["re-initialized: aux inception_4a, aux inception_4d"]


@pytest.mark.parametrize("layout", ["torchvision", "native"])
def test_swapped_blocks_are_drawn_anew_and_the_others_loaded(googlenet, layout):
    model = create_model("googlenet_bn", 10, 3, **PLAIN, blocks={"inception_4b": "residual"})
    load_weights(model, export_weights(googlenet, layout), layout, adapt=["blocks"])
    assert model.provenance.notes == ["re-initialized: inception_4b"]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = model.eval().endpoints(x), googlenet.endpoints(x)
    assert torch.equal(ours["inception_4a"], theirs["inception_4a"])
    assert not torch.equal(ours["inception_4b"], theirs["inception_4b"])
    assert torch.equal(model.inception_5b[0][0].conv.weight, googlenet.inception_5b[0][0].conv.weight)


def test_a_grey_image_is_what_it_was_in_colour(tmp_path):
    """Inception-v3's first convolution has no padding, so another mean for each channel can be folded exactly."""
    model = drawn("inception_v3", 10, 3, **PLAIN)
    model.preprocessing = Preprocessing(96, *IMAGENET, resize=96)
    save_model(model, tmp_path / "v3.safetensors")
    grey = create_model("inception_v3", 10, 1, **PLAIN, weights=tmp_path / "v3.safetensors", adapt=["input"]).eval()
    pixels = torch.rand(2, 1, 96, 96)
    normalized = [
        (pixels.expand(-1, len(m.preprocessing.mean), -1, -1) - torch.tensor(m.preprocessing.mean).view(-1, 1, 1))
        / torch.tensor(m.preprocessing.std).view(-1, 1, 1)
        for m in (model, grey)
    ]
    assert grey.preprocessing.mean == (pytest.approx(0.449),) and normalized[1].shape[1] == 1
    with torch.no_grad():
        assert difference(grey(normalized[1]), model(normalized[0])) < 1e-5
    assert "conv_1a.0.0.conv adapted from 3 to 1 input channels" in grey.provenance.notes
    more = create_model("inception_v3", 10, 6, **PLAIN, weights=tmp_path / "v3.safetensors", adapt=["input"]).eval()
    with torch.no_grad():
        six = normalized[1].expand(-1, 6, -1, -1)
        assert difference(more(six), grey(normalized[1])) < 1e-5


def test_normalization_is_folded_only_where_that_is_exact():
    v3, v1 = drawn("inception_v3", 10, 3, **PLAIN), drawn("googlenet_bn", 10, 3, **PLAIN)
    pixels = torch.rand(2, 3, 96, 96)
    half = (pixels - 0.5) / 0.5
    imagenet = (pixels - torch.tensor(IMAGENET[0]).view(-1, 1, 1)) / torch.tensor(IMAGENET[1]).view(-1, 1, 1)
    v3.preprocessing = v1.preprocessing = Preprocessing(96, *HALF, resize=96)
    with torch.no_grad():
        before = v3(half), v3.train()(half)
        v3.eval()
        fold_normalization(v3, *IMAGENET)
        assert v3.preprocessing.mean == IMAGENET[0]
        assert difference(v3.eval()(imagenet), v3(half)) > 1e-3
    with pytest.raises(ZooError, match="first convolution pads with zeros"):
        fold_normalization(v1, *IMAGENET)
    with torch.no_grad():
        expected = v1(half)
        fold_normalization(v1, HALF[0], (0.25,) * 3)  # a scale can be folded exactly, with padding too
        assert difference(v1((pixels - 0.5) / 0.25), expected) < 1e-5
    biased = drawn("bn_inception", 10, 3, width=0.25)
    assert biased.conv1[0][0].conv.bias is not None and before[0].shape == before[1].shape


def test_keras_has_no_scale_so_it_goes_into_the_convolution(caplog):
    model = drawn("inception_v3_slim", 10, 3, **PLAIN)
    state = export_weights(model, "keras")
    assert "multiplied into its convolution" in caplog.text
    other = create_model("inception_v3_slim", 10, 3, **PLAIN).eval()
    load_weights(other, state)
    assert difference(logits(other, 2, 3, 96, 96), logits(model, 2, 3, 96, 96)) < 1e-5


@pytest.fixture(scope="module")
def keras_models(tmp_path_factory):
    """Return Keras's Inception-v3 as users save it after transfer learning, by name, and the folder of the files."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    keras.backend.clear_session()
    layers, folder = keras.layers, tmp_path_factory.mktemp("keras")
    base = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(96, 96, 3))
    inputs = keras.Input((96, 96, 3))
    pooled = layers.GlobalAveragePooling2D()(base(layers.Rescaling(1.0)(inputs)))
    models = {
        "sequential": keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(5)]),
        "functional": keras.Model(inputs, layers.Dense(5)(pooled)),
        "two dense": keras.Model(inputs, layers.Dense(5)(layers.Dense(8, activation="relu")(pooled))),
        "flat": keras.Model(base.input, layers.Dense(5)(layers.GlobalAveragePooling2D()(base.output))),
    }
    for name, model in models.items():
        for suffix in (".keras", ".h5", ".weights.h5"):
            save = model.save_weights if suffix == ".weights.h5" else model.save
            save(folder / f"{name}{suffix}")
    return models, folder


@pytest.mark.parametrize("file", ["sequential.keras", "sequential.h5", "sequential.weights.h5", "functional.keras", "flat.h5"])
def test_a_network_inside_of_a_keras_model_is_found(file, keras_models):
    models, folder = keras_models
    model, name = load_model(folder / file), file.partition(".")[0]
    x = torch.randn(2, 3, 96, 96)
    assert (model.plan.net.name, model.plan.num_classes) == ("inception_v3_slim", 5)
    with torch.no_grad():
        expected = models[name](x.permute(0, 2, 3, 1), training=False)
        torch.testing.assert_close(model(x), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_several_layers_after_a_keras_network_are_named(suffix, keras_models):
    models, folder = keras_models
    path = folder / f"two dense{suffix}"
    with pytest.raises(
        ZooError, match=r"several layers after the network \(dense.*, dense.*\), not one classifier; use create_m"
    ):
        load_model(path)
    with pytest.raises(ZooError, match=r"unexpected: beyond/dense.*; set adapt to allow head"):
        create_model("inception_v3_slim", 5, aux=False, weights=path)
    model = create_model("inception_v3_slim", 5, aux=False, weights=path, adapt=["head"]).eval()
    assert any(re.match("layers after the network left out: dense.*, dense", note) for note in model.provenance.notes)
    bare = create_model("inception_v3_slim", 0, aux=False, weights=path).eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = models["two dense"].get_layer("inception_v3")(x.permute(0, 2, 3, 1), training=False).mean((1, 2))
        for found in (model.features(x), bare(x)):
            torch.testing.assert_close(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("application", ["InceptionV3", "Xception"])
def test_kerass_older_files_are_read(application, tmp_path):
    """Keras's legacy HDF5 format, which the published files have: layers by name, in the order of `layer_names`."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    keras.backend.clear_session()
    build = partial(getattr(keras.applications, application), weights=None, input_shape=(96, 96, 3))
    build(classes=5)  # shifts the layer names below
    network = build(classes=5, classifier_activation=None)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    network.save_weights(tmp_path / "new.weights.h5")
    old, new = read_weights(tmp_path / "old.h5")[0], read_weights(tmp_path / "new.weights.h5")[0]
    assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in new)
    assert load_model(tmp_path / "old.h5").plan.num_classes == 5
    base = build(include_top=False, pooling="avg")
    with h5py.File(tmp_path / "base.h5", "w") as file:  # as RadImageNet publishes its networks
        legacy_h5_format.save_weights_to_hdf5_group(file, base)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = base(x.permute(0, 2, 3, 1), training=False)
        torch.testing.assert_close(load_model(tmp_path / "base.h5")(x), expected, atol=1e-6, rtol=1e-4)
    keras.Sequential([base, keras.layers.Dense(5)]).save(tmp_path / "nested.keras")
    inside, alone = (load_model(tmp_path / file).state_dict() for file in ("nested.keras", "base.h5"))
    assert all(torch.equal(inside[key], value) for key, value in alone.items())


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".pt", ".bin"])
def test_a_pickle_that_would_run_code_is_refused(cli, suffix, tmp_path):
    """Neither the suffix nor the environment can disable safe loading."""
    file, force = tmp_path / f"weights{suffix}", {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    torch.save({"state_dict": Evil()}, file)
    done = cli("convert", file, tmp_path / "out.safetensors", env=force)
    assert done.returncode == 2 and "(posix.system)" in done.stderr and done.stderr.count("\n") == 1
    bare = tmp_path / f"bare{suffix}"
    bare.write_bytes(pickle.dumps(Evil()))
    done = cli("predict", bare, __file__, env=force)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not list(Path.cwd().glob("pwned")) and not list(tmp_path.glob("pwned"))


def test_a_strangers_card_runs_no_code(cli, googlenet, tmp_path):
    (tmp_path / "stranger.py").write_text("open('pwned', 'w')\ndef block(c_in, c_out, level): return [f'1x1 {c_out}']\n")
    path = tmp_path / "model.safetensors"
    state, card = {k: v.clone() for k, v in googlenet.state_dict().items()}, None
    from inception_zoo.weights.saving import card_of

    card = card_of(googlenet).plain()
    card["model"]["blocks"] = {"grid14": "stranger.block"}
    write_weights(path, state, json.dumps(card))
    for arguments in (["predict", path, path], ["describe", path], ["convert", path, tmp_path / "o.safetensors"]):
        done = cli(*arguments)
        assert done.returncode == 2 and "needs the function stranger.block, which would run code" in done.stderr, arguments
    assert not (tmp_path / "pwned").exists()


def test_weights_go_only_into_the_same_blocks(tmp_path):
    """Equal shapes, but another computation: an average pool instead of a max pool."""
    pool = ["1x1 192", "1x1 96 > 3x3 208", "1x1 16 > 3x3 48", "avg > 1x1 64"]
    save_model(drawn("googlenet_bn", 10, 3, **PLAIN, blocks={"inception_4a": pool}), tmp_path / "m.safetensors")
    with pytest.raises(ZooError, match="does not fit googlenet_bn: different blocks: inception_4a; set adapt to allow blocks"):
        load_weights(create_model("googlenet_bn", 10, 3, **PLAIN), tmp_path / "m.safetensors")
    model = create_model("googlenet_bn", 10, 3, **PLAIN)
    assert load_weights(model, tmp_path / "m.safetensors", adapt=["blocks"]).notes == ["re-initialized: inception_4a"]


def test_exported_weights_expect_what_the_layouts_do():
    """timm's Inception-v4 has one normalization, which is folded into the first convolution; its Inception-v3 has several."""
    model = drawn("inception_v4", 10, 3, **PLAIN)
    model.preprocessing = Preprocessing(107, *IMAGENET, resize=107)
    other = create_model("inception_v4", 10, 3, **PLAIN).eval()
    load_weights(other, export_weights(model, "timm"))
    pixels = torch.rand(1, 3, 107, 107)
    half, imagenet = (
        (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1) for mean, std in (HALF, IMAGENET)
    )
    assert other.preprocessing.mean == HALF[0]
    with torch.no_grad():
        assert difference(other(half), model(imagenet)) < 1e-5


def test_an_export_says_what_a_layout_cannot(googlenet, caplog):
    export_weights(googlenet, "torchvision")
    assert "layout=torchvision stores no preprocessing: use mean [0.485, 0.456, 0.406]" in caplog.text


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(16, 3, 7, 1),
        torch.zeros(64, 0, 7, 7),
        torch.zeros(16, 3, 7, 7, dtype=torch.complex64),
        torch.zeros(16, 3, 7, 7, dtype=torch.int64),
        torch.zeros(16, 3, 7, 7, device="meta"),
        torch.zeros(16, 3, 7, 7).to_sparse(),
    ],
    ids=["narrow", "empty", "complex", "whole numbers", "meta", "sparse"],
)
def test_tensors_that_are_none_of_weights(googlenet, tensor):
    weights = export_weights(googlenet, "torchvision") | {"conv1.conv.weight": tensor}
    model = create_model("googlenet_bn", 10, 3, **PLAIN)
    with pytest.raises(ZooError, match=r"1 mismatched: conv1\.conv\.weight"):
        load_weights(model, weights, "torchvision", adapt=["input"], transform_input=False)


def test_a_head_that_the_network_has_must_be_whole():
    model = drawn("inception_v3", 4, width=0.25)
    stray = export_weights(model) | {"aux.mixed_6e.hidden.0.weight": torch.zeros(1)}
    with pytest.raises(ZooError, match=r"1 unexpected: aux\.mixed_6e\.hidden\.0\.weight"):
        load_weights(model, stray, "native")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "torchvision:IMAGENET1K_V1"}, "card, which describes its network, is corrupt"),
        ({"num_classes": 10**15}, "card, which describes its network, is corrupt"),
        ({"blocks": ["x"]}, "card, which describes its network, is corrupt"),
        ({"num_classes": 2_000_000}, "2 mismatched: fc"),
        ({"width": 16.0}, "mismatched: conv1"),
    ],
)
def test_a_card_cannot_ask_for_more_than_its_file_holds(googlenet, change, message, tmp_path):
    from inception_zoo.weights.saving import card_of

    googlenet.classes = None
    card = card_of(googlenet).plain()
    card["model"] |= change
    write_weights(tmp_path / "model.safetensors", googlenet.state_dict(), json.dumps(card))
    with pytest.raises(ZooError, match=message):
        load_model(tmp_path / "model.safetensors")


def test_a_file_that_claims_more_than_it_holds(tmp_path):
    import h5py

    torch.save({"fc.weight": torch.zeros(1, 1).expand(10**6, 1000)}, tmp_path / "w.pth")
    with pytest.raises(ZooError, match=r"'fc.weight' has shape \(1000000, 1000\), but fewer values are stored"):
        read_weights(tmp_path / "w.pth")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("layers/conv2d/vars/0", (10**9,), "f4")
    with pytest.raises(ZooError, match="its arrays claim 4,000,000,000 bytes"):
        read_weights(tmp_path / "w.h5")


def test_a_run_with_spare_logits_can_be_read_again(zoo, tmp_path):
    from conftest import SMALL, run_folder

    done = zoo(*SMALL, "model.num_classes=12", "logger=csv")
    assert done.returncode == 0, done.stderr
    assert load_model(run_folder(tmp_path)).plan.num_classes == 12 and load_model(run_folder(tmp_path)).classes is None


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("{}", "card, which describes its network, is corrupt"),
        ("[1]", "card, which describes its network, is corrupt"),
        ("{", "cannot be read"),
        ('{"model": {"name": "googlenet_bn"}, "classes": "abc", "preprocessing": null, "provenance": null}', "corrupt"),
    ],
)
def test_a_damaged_card_is_one_line(googlenet, card, message, tmp_path):
    write_weights(tmp_path / "model.safetensors", googlenet.state_dict(), card)
    with pytest.raises(ZooError, match=message):
        load_model(tmp_path / "model.safetensors")


def test_damaged_files_are_named(googlenet, tmp_path):
    save_model(googlenet, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for name, content in (
        ("cut.safetensors", whole[:5000]),
        ("text.pth", b"hello"),
        ("text.h5", b"hello"),
        ("empty.ckpt", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ZooError, match=name):
            load_model(tmp_path / name)
    with pytest.raises(ZooError, match=r"'.txt' is not a supported weight format"):
        (tmp_path / "a.txt").write_text("a")
        load_model(tmp_path / "a.txt")
    with pytest.raises(ZooError, match="is not a run folder"):
        load_model(tmp_path)


def test_a_keras_file_cannot_point_to_another(tmp_path):
    import h5py

    with h5py.File(tmp_path / "weights.h5", "w") as file:
        secret = tmp_path / "secret"
        secret.write_bytes(bytes(64))
        file.create_dataset("layers/conv2d/vars/0", (4, 4), "f4", external=[(str(secret), 0, 64)])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["conv/kernel:0"] = [1.0]
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = ["conv"]
        file["conv"] = h5py.ExternalLink("other.h5", "conv")
        with h5py.File(tmp_path / "other.h5", "r+") as other:
            other["conv"].attrs["weight_names"] = ["kernel:0"]
    with pytest.raises(ZooError, match="points to another file"):
        read_weights(tmp_path / "old.h5")
    with pytest.raises(ZooError, match="points to another file"):
        read_weights(tmp_path / "weights.h5")


# The caches of torchvision and timm, filled with random weights, so that their download code finds a file.


@pytest.fixture
def cached_torchvision(tmp_path, monkeypatch):
    import torchvision

    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name, make, net in (
        ("GoogLeNet_Weights", torchvision.models.googlenet, "googlenet_bn"),
        ("Inception_V3_Weights", torchvision.models.inception_v3, "inception_v3"),
    ):
        weights = getattr(torchvision.models, name).IMAGENET1K_V1
        state = export_weights(drawn(net), "torchvision")
        torch.save(state, folder / weights.url.rpartition("/")[2])
        yield_model = make(weights=None, init_weights=False, transform_input=True)
        yield_model.load_state_dict(state)
        torch.save(yield_model, tmp_path / f"{net}.whole")
    return tmp_path


@pytest.mark.parametrize("net", ["googlenet_bn", "inception_v3"])
def test_torchvisions_pretrained_networks_see_the_same_image(net, cached_torchvision):
    theirs = torch.load(cached_torchvision / f"{net}.whole", weights_only=False).eval()
    ours = create_model(net, weights="torchvision:IMAGENET1K_V1").eval()
    pixels = torch.rand(2, 3, 128, 128)
    usual, ours_normalized = (
        (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
        for mean, std in (IMAGENET, (ours.preprocessing.mean, ours.preprocessing.std))
    )
    with torch.no_grad():
        assert difference(ours(ours_normalized), theirs(usual)) < 1e-4
    assert ours.preprocessing.mean == (IMAGENET if net == "inception_v3" else HALF)[0]  # V3: folded; GoogLeNet: declared
    assert ours.classes[0] == "tench" and ours.provenance.accuracy["top1"] > 69 and len(ours.provenance.sha256) == 64
    assert any("transform_input" in note for note in ours.provenance.notes)


def test_timms_weights_come_through_the_hubs_cache(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    snapshot = tmp_path / "models--timm--inception_v4.tf_in1k" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--timm--inception_v4.tf_in1k" / "refs").mkdir()
    (tmp_path / "models--timm--inception_v4.tf_in1k" / "refs" / "main").write_text("0123")
    source = drawn("inception_v4", aux=False)
    save_file(export_weights(source, "timm"), snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    ours = create_model("inception_v4", aux=False, weights="timm:inception_v4.tf_in1k").eval()
    assert torch.equal(logits(ours, 1, 3, 107, 107), logits(source, 1, 3, 107, 107))
    assert ours.preprocessing == Preprocessing(299, *HALF, resize=341, interpolation="bicubic")
    assert ours.provenance.licence == "apache-2.0" and "tench" in ours.classes[0]


def test_slims_weights_of_timm_are_read_by_both_networks(tmp_path, monkeypatch):
    """timm's network counts padded zeros in average pools, TF-slim's does not."""
    from safetensors.torch import save_file

    folder = tmp_path / "models--timm--inception_v3.tf_adv_in1k"
    (folder / "snapshots" / "0123").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    slim = drawn("inception_v3_slim", aux=False)
    timms = create_model("inception_v3", aux=False).eval()
    load_weights(timms, export_weights(slim), "native")
    save_file(export_weights(timms, "timm"), folder / "snapshots" / "0123" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "timm:inception_v3.tf_adv_in1k"
    for model, ours in ((slim, load_model(name, "inception_v3_slim")), (timms, load_model(name))):
        assert torch.equal(logits(ours, 1, 3, 107, 107), logits(model, 1, 3, 107, 107))
    assert not torch.equal(logits(timms, 1, 3, 107, 107), logits(slim, 1, 3, 107, 107))
    with pytest.raises(
        ZooError, match="layout=timm cannot be written for inception_v3_slim: timm's network counts padded zeros"
    ):
        export_weights(slim, "timm")


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("googlenet", "torchvision:IMAGENET1K_V1", "torchvision has no googlenet; it has googlenet_bn, inception_v3"),
        ("inception_v3", "torchvision:IMAGENET1K_V2", "no such weights for inception_v3; did you mean 'IMAGENET1K_V1'?"),
        ("inception_v3", "timm:inception_v3.tf_in2k", "timm has no such weights; did you mean 'inception_v3.tf_in1k'?"),
        ("inception_v3", "timm:inception_v4.tf_in1k", "are for inception_v4, not for inception_v3"),
        ("inception_v3_slim", "timm:inception_v3.tv_in1k", "are for inception_v3, not for inception_v3_slim"),
        ("inception_v4", "timm:inception_v3.tf_in1k", "are for inception_v3 or inception_v3_slim, not for inception_v4"),
        ("inception_v3", "keras:imagenet", "only torchvision and timm have weights by name; pass a file of keras weights"),
    ],
)
def test_names_that_are_not(model, weights, message):
    with pytest.raises(ZooError, match=message):
        create_model(model, aux=False, weights=weights)


def test_without_a_network_a_download_is_one_line(cli, tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9") | {
        "no_proxy": "",
        "NO_PROXY": "",
    }
    done = cli(
        "convert",
        "torchvision:IMAGENET1K_V1",
        tmp_path / "o.safetensors",
        "--model",
        "inception_v3",
        env={"TORCH_HOME": str(tmp_path), **nowhere},
    )
    assert done.returncode == 2 and "could not be downloaded (URLError); check the network" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == done.stderr.splitlines()[-1:]
    assert "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth" in done.stderr


def test_convert_there_and_back(cli, tmp_path):
    googlenet = drawn("googlenet_bn", 10, 3, aux=False)
    own, theirs, back = tmp_path / "own.safetensors", tmp_path / "tv.pth", tmp_path / "back.safetensors"
    save_model(googlenet, own)
    for arguments in ([own, theirs, "--to", "torchvision"], [theirs, back, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]):
        done = cli("convert", *arguments)
        assert done.returncode == 0, done.stderr
        assert "googlenet_bn, layout" in done.stdout and "sha256" in done.stdout
    again = load_model(back)
    assert torch.equal(logits(again, 1, 3, 64, 64), logits(googlenet, 1, 3, 64, 64))
    assert again.preprocessing.mean == HALF[0] and again.provenance.layout == "torchvision"
    described = json.loads(cli("describe", back, "--json").stdout)
    assert described["weights"]["provenance"]["source"] == str(theirs) and described["num_classes"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OWN", "no/o.safetensors"], "there is no folder no"),
        (["OWN", "o.onnx"], "'.onnx' is not a weight format"),
        (["OWN", "o.h5", "--to", "keras"], "the name must end in .weights.h5"),
        (["OWN", "o.safetensors", "--to", "kreas"], "--to kreas is unknown; did you mean 'keras'?"),
        (["OWN", "OWN"], "already exists; give another name, or --overwrite"),
        (["missing.pth", "o.safetensors"], "missing.pth does not exist"),
        (["OWN", "o.safetensors", "--mean", "a,b"], "--mean=a,b must be numbers"),
        (["OWN", "o.pth", "--to", "timm"], "layout=timm does not have googlenet_bn"),
        (["OWN", "o.pth"], "layout native is saved as .safetensors"),
        (["OWN", "o.pth", "--to", "torchvision", "--mean", "0.5"], "they are for native and hub"),
        (["OWN", "o.safetensors", "--mean", "0.5", "--std", "0.5"], "reads 3 channels in own.safetensors"),
    ],
)
def test_a_wrong_conversion_is_one_line_and_writes_nothing(cli, googlenet, arguments, message, tmp_path):
    save_model(googlenet, tmp_path / "own.safetensors")
    words = [word.replace("OWN", "own.safetensors") for word in arguments]
    done = cli("convert", *words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["own.safetensors"]
