import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from inception_zoo import ZooError, create_model, save_model
from inception_zoo.architecture.card import Card
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data import ImageData
from inception_zoo.data.digits import digits
from inception_zoo.serving import export, folding, quantize
from inception_zoo.weights.files import METADATA
from inception_zoo.weights.saving import card_of

CLASSES = [f"digit {i}" for i in range(10)]
DATA = {
    "_target_": "inception_zoo.data.ImageData",
    "source": {"_target_": "inception_zoo.data.digits.digits", "_partial_": True},
    "num_classes": 10,
    "in_channels": 1,
    "image_size": 28,
    "batch_size": 64,
    "split": {"val": 200},
    "mean": [0.305],
    "std": [0.376],
    "seed": 1,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Use one thread: on a busy machine these small networks are slower with two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(name="googlenet", channels=1, **choices):
    """Return a network with random BatchNorm parameters and statistics, for its smallest image size."""
    torch.manual_seed(0)
    model = create_model(name, 10, channels, width=0.25, **choices).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    size = model.plan.min_image_size()
    model.preprocessing = Preprocessing(size, (0.3,) * channels, (0.4,) * channels, size)
    model.classes = CLASSES
    return model


def images_for(model, n):
    size = model.preprocessing.image_size
    return torch.randn(n, model.plan.in_channels, size, size)


@torch.no_grad()
def difference(model, logits, n=5):
    """Return the largest difference between `logits(images)` and the network's logits, relative to the largest logit.

    The batch size is one that the export itself has not checked.
    """
    images = images_for(model, n)
    ours = model(images)
    assert (ours.argmax(1) == logits(images).argmax(1)).all()
    return float((ours - logits(images)).abs().max() / ours.abs().max())


RESIDUAL = {"blocks": {"all": "residual_expanded"}}  # forks and all kinds of residual sums
FOLDED = [("inception_resnet_v1", {}), ("googlenet", {"norm": "batch", **RESIDUAL}), ("inception_v3", {}), ("inception_v4", {})]


@pytest.mark.parametrize(("name", "choices"), FOLDED)
def test_folding_leaves_no_batchnorm_and_the_same_logits(name, choices):
    model = small(name, **choices)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = folding.fold(model)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert difference(model, lambda images: folded(images).detach()) < 1e-4
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("norm", ["group", "none"])
def test_folding_leaves_what_is_no_batchnorm(norm):
    model = small(norm=norm)
    folded = folding.fold(model)
    assert folded.state_dict().keys() == model.state_dict().keys()
    assert difference(model, lambda images: folded(images).detach()) == 0


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4"])  # the average counts padded zeros, or not
def test_average_pools_come_after_their_1x1_convolutions(name):
    model = small(name)
    pooled = {}
    for kind, network in {"as built": model, "folded": folding.fold(model)}.items():
        pools = [layer for layer in network.modules() if isinstance(layer, nn.AvgPool2d)]
        channels = []
        for pool in pools:
            pool.register_forward_hook(lambda _, inputs, __, channels=channels: channels.append(inputs[0].shape[1]))
        network(images_for(model, 1))
        pooled[kind] = channels
    assert len(pooled["folded"]) == len(pooled["as built"]) > 3
    assert all(after < before for before, after in zip(pooled["as built"], pooled["folded"], strict=True))


GROUPS = {"blocks": {"inception_3a": ["3x3g > 1x1l 64 > act", "1x1 96 > 3x3d2g4 192"]}}
OTHERS = [
    ("xception", {}),
    ("googlenet", {"norm": "batch", **GROUPS}),
    ("googlenet", {}),
    ("googlenet", {"norm": "group", "activation": "silu"}),
    ("inception_resnet_v2", {"activation": "elu"}),
]


@pytest.mark.parametrize(("name", "choices"), [*FOLDED, *OTHERS])
@torch.inference_mode()
def test_fused_is_the_network_at_any_size(name, choices):
    model = small(name, **choices)
    fused = folding.fuse(model)
    assert not any(isinstance(layer, nn.Conv2d) for layer in fused.modules())
    group = choices.get("norm") == "group"  # at the smallest grids a group has one or two values, which amplifies rounding
    size, near = (47, 1e-3) if group else (model.preprocessing.image_size, 1e-4)
    for n, pixels in ((5, size), (2, size + 32)):  # weights are prepacked for the first size
        images = torch.randn(n, 1, pixels, pixels)
        for endpoint, maps in model.endpoints(images).items():
            assert (maps - fused.endpoints(images)[endpoint]).abs().max() < near * maps.abs().max(), endpoint
        assert (model(images) - fused(images)).abs().max() < near * model(images).abs().max()


@torch.inference_mode()
def test_fused_in_bf16_rounds_as_autocast_does():
    model = small("inception_resnet_v1")
    images, fused = images_for(model, 16), folding.fuse(model, torch.bfloat16)
    exact, ours = model(images), fused(images.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        usual = model(images)
    assert ours.dtype == torch.bfloat16
    assert 0 < (exact - ours).norm() < 1.5 * (exact - usual).norm()


# Each has the operators of a network that is not slow.
SLOW = {
    "inception_v2",
    "inception_v3_slim",
    "inception_v3_fid",
    "xception_timm",
    "inception_resnet_v1",
    "inception_v4",
    "inception_resnet_v2",
    "inception_resnet_v2_slim",
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ZOO])
def test_onnx_is_the_network(name, tmp_path):
    """ONNX output equals the network: average pools at borders, ceil-mode pools at odd sizes, LRN, forks and residual sums."""
    model, path = small(name, 3), tmp_path / "net.onnx"
    assert export.export_onnx(model, path) <= 1e-4
    session = onnxruntime.InferenceSession(path)
    assert difference(model, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])) < 1e-4
    size = model.preprocessing.image_size
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("images", ["batch", 3, size, size])]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    card = Card.of(json.loads(session.get_modelmeta().custom_metadata_map["inception_zoo"]))
    assert (card.classes, card.preprocessing, card.model["name"]) == (CLASSES, model.preprocessing, name)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}
    assert str(export.__file__).encode().rpartition(b"/serving")[0] not in path.read_bytes()  # the file contains no local path


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("size", [9, 10])
def test_onnx_pools_as_torch_does_at_the_border(count_include_pad, size, tmp_path):
    pools = nn.Sequential(nn.AvgPool2d(3, 1, 1, False, count_include_pad), nn.MaxPool2d(3, 2, ceil_mode=True)).eval()
    images = torch.randn(2, 3, size, size)
    torch.onnx.export(pools, (images,), tmp_path / "p.onnx", dynamo=True, opset_version=export.OPSET, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
    theirs = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    assert torch.allclose(theirs, pools(images), atol=1e-5)
    other = F.max_pool2d(F.avg_pool2d(images, 3, 1, 1, False, not count_include_pad), 3, 2, ceil_mode=True)
    assert not torch.allclose(theirs, other, atol=1e-2)


def test_batchnorm_stays_where_it_is_not_to_be_folded(tmp_path):
    model = small(norm="batch", stem="small", aux=False)
    export.export_onnx(model, tmp_path / "net.onnx", fold=False)
    assert "BatchNormalization" in {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}


def test_the_command_writes_a_program_without_auxiliary_heads(cli, tmp_path):
    model, path = small("inception_v3"), tmp_path / "net.pt2"
    assert model.aux
    save_model(model, tmp_path / "net.safetensors")
    done = cli("export", tmp_path / "net.safetensors", path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "digit 0, digit 1" in done.stdout and "mean 0.3; std 0.4" in " ".join(done.stdout.split())
    extra = {"inception_zoo.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert difference(model, program.module()) < 1e-4
    assert Card.of(json.loads(extra["inception_zoo.json"])).preprocessing == model.preprocessing
    assert not any(key.startswith("aux") for key in program.state_dict)


@pytest.mark.parametrize(("write", "name"), [(export.export_onnx, "net.onnx"), (export.export_program, "net.pt2")])
def test_a_file_that_differs_is_not_written(write, name, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1)
    with pytest.raises(ZooError, match=r"net\.\w+: the logits differ from the network's by"):
        write(small(norm="batch", stem="small", aux=False), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a network on digits for a few seconds; return the folder of its Lightning checkpoint, and the network."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = create_model("googlenet", 10, 1, width=0.25, norm="batch", stem="medium", aux=False, dropout=0.0)
    model.to(memory_format=torch.channels_last)  # as in training
    model.preprocessing, model.classes = Preprocessing(28, (0.305,), (0.376,), 28), CLASSES
    data = ImageData(digits, **{key: value for key, value in DATA.items() if key not in ("_target_", "source")})
    data.setup()
    epochs, steps = 4, 4 * len(data.train_dataloader())
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    for _ in range(epochs):
        for batch in data.train_dataloader():
            images, labels = data.on_after_batch_transfer(batch, 0)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    content = {"state_dict": state, METADATA: card_of(model).plain(), "hyper_parameters": {"seed": 1, "data": DATA}}
    torch.save(content, folder / "digits.ckpt")
    save_model(model, folder / "digits.safetensors")
    return folder, model.eval()


def tampered(folder, tmp_path, **changes):
    content = torch.load(folder / "digits.ckpt", weights_only=True)
    content["hyper_parameters"]["data"] = {**DATA, **changes}
    torch.save(content, tmp_path / "tampered.ckpt")
    return tmp_path / "tampered.ckpt"


def measured(output):
    """Return (accuracy, MB) of each file in the printed table."""
    return {m[1]: (float(m[2]), float(m[3])) for m in re.finditer(r"^\W*(fp32|int8) +([\d.]+) +([\d.]+) +[\d,]+", output, re.M)}


def test_int8_keeps_the_accuracy_in_a_quarter_of_the_size(cli, trained, tmp_path):
    folder, model = trained
    done = cli("export", folder / "digits.ckpt", tmp_path / "digits.onnx", "--int8", "--calibration-images", "128")
    assert done.returncode == 0, done.stderr
    assert "calibrated on 128 training images; accuracy on 359 test images" in " ".join(done.stdout.split())
    (before, large), (after, little) = (measured(done.stdout)[name] for name in ("fp32", "int8"))
    test = trained_test(model)
    assert before == pytest.approx(test["torch"], abs=1e-4) and before > 0.9
    assert after > before - 0.01 and little < 0.35 * large
    session = onnxruntime.InferenceSession(tmp_path / "digits.onnx")
    logits = session.run(None, {"images": test["images"].numpy()})[0]  # all 359 images in one batch
    assert (logits.argmax(1) == test["labels"].numpy()).mean() == pytest.approx(after, abs=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["inception_zoo"])["classes"] == CLASSES
    weights = {tensor.name: tensor for tensor in onnx.load(tmp_path / "digits.onnx").graph.initializer}
    kernels = [onnx.numpy_helper.to_array(w) for name, w in weights.items() if name.endswith("conv.weight_quantized")]
    assert len(kernels) == 57 and all(kernel.dtype == np.int8 and abs(kernel).max() <= 64 for kernel in kernels)


def trained_test(model):
    data = ImageData(digits, **{key: value for key, value in DATA.items() if key not in ("_target_", "source")})
    data.setup()
    images, labels = data.on_after_batch_transfer((data.splits["test"].images, data.splits["test"].labels), 0)
    with torch.no_grad():
        return {
            "images": images.contiguous(),
            "labels": labels,
            "torch": float((model(images).argmax(1) == labels).float().mean()),
        }


def write_folder(root, count=30):
    source = digits()
    for i in range(count):
        label = int(source.test.labels[i])
        (root / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.test.images[i, 0].numpy()).resize((28, 28)).save(root / CLASSES[label] / f"{i}.png")


def test_int8_from_a_folder_of_images(cli, trained, tmp_path):
    folder, _ = trained
    write_folder(tmp_path / "images", 120)
    arguments = ["--int8", "--images", tmp_path / "images", "--calibration-images", "20"]
    done = cli("export", folder / "digits.safetensors", tmp_path / "net.onnx", *arguments)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "calibrated on 20 images; accuracy on 120 images, including those of the calibration" in said
    # The trained network and its fp32 accuracy depend on the CPU, so int8 is compared with fp32.
    fp32, int8 = (measured(done.stdout)[kind][0] for kind in ("fp32", "int8"))
    assert fp32 > 0.8 and abs(int8 - fp32) <= 0.05 and (tmp_path / "net.onnx").is_file()


@pytest.mark.slow
def test_calibration_on_other_pictures_costs_more_than_these_tests_allow(trained, tmp_path):
    _, model = trained
    test = trained_test(model)
    black = torch.full((20, 1, 28, 28), float(test["images"].min())), torch.zeros(20)
    samples = quantize.Samples(lambda: iter([black]), lambda: iter([(test["images"], test["labels"])]), "black", "test images")
    accuracy = quantize.export_int8(model, tmp_path / "net.onnx", samples).accuracy
    assert accuracy["fp32"] - accuracy["int8"] > 0.1


def test_a_folder_may_have_its_class_in_another_unicode_form(trained, tmp_path, monkeypatch):
    folder, composed = "e\u0301", "\u00e9"  # é as two characters and as one
    write_folder(tmp_path, 3)
    first = min(path.name for path in tmp_path.iterdir())
    (tmp_path / first).rename(tmp_path / folder)
    for name in (folder, composed):
        monkeypatch.setattr(trained[1], "classes", [name if each == first else each for each in CLASSES])
        ((_, labels),) = quantize.folder_samples(tmp_path, trained[1], 3).test()
        assert CLASSES.index(first) in labels.tolist() and len(labels) == 3


def test_a_folder_with_what_is_no_class(trained, tmp_path):
    write_folder(tmp_path, 3)
    next(tmp_path.iterdir()).rename(tmp_path / "eleven")
    with pytest.raises(ZooError, match=r"eleven/\d\.png is not in the subfolder of a class; subfolders must be named digit 0"):
        quantize.folder_samples(tmp_path, trained[1], 3)


def test_calibration_images_are_the_same_each_time_and_of_the_training_split(trained):
    folder, model = trained
    first, second = (
        torch.cat([i for i, _ in quantize.run_samples(folder / "digits.ckpt", model, 50).calibration()]) for _ in "ab"
    )
    assert len(first) == 50 and first.equal(second)
    every = torch.cat([images for images, _ in quantize.run_samples(folder / "digits.ckpt", model, 1238).calibration()])
    tests = torch.cat([images for images, _ in quantize.run_samples(folder / "digits.ckpt", model, 1).test()])
    rows = {image.numpy().tobytes() for image in every}
    assert len(every) == 1238 and all(image.numpy().tobytes() in rows for image in first)
    assert sum(image.numpy().tobytes() in rows for image in tests) < 5  # the data set itself has few duplicates


def test_a_drop_of_accuracy_is_said_aloud():
    def result(after):
        return quantize.Quantized(0.0, {"fp32": 0.9, "int8": after}, {}, {})

    assert quantize.warning(result(0.896)) is None and quantize.warning(result(0.91)) is None
    assert "int8 costs 0.60 points of accuracy" in quantize.warning(result(0.894))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source": {"_target_": "os.system", "_args_": ["touch ran"]}},
            "data.source._target_=os.system is not on the allow-list",
        ),
        ({"_target_": "os.system"}, "data._target_=os.system is not on"),
        ({"mean": [{"_target_": "builtins.eval", "_args_": ["1"]}]}, "data.mean.0._target_=builtins.eval is not on"),
        (
            {"source": {"_target_": "inception_zoo.data.digits.load_digits"}},
            "data.source._target_=inception_zoo.data.digits.load_digits is not on",
        ),
        ({"source": None}, "has no record of the data that it was trained on; give --images FOLDER"),
        ({"seeed": 2}, "its data cannot be built"),
        ({"root": "s3://a-strangers/bucket"}, "its data are at s3://a-strangers/bucket, which a checkpoint must not choose"),
        ({"root": "local:/tmp"}, "its data are at local:/tmp, which"),
        ({"seed": "${oc.env:HOME}"}, "its data contain '${'"),
        (
            {"split": {"val": 5000}},
            "data.split.val=5000 must be from 1 to 1437; or give the folder of its data with --data-root",
        ),
    ],
)
def test_data_that_a_checkpoint_may_not_ask_for(trained, changes, message, tmp_path, monkeypatch):
    folder, model = trained
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError) as error:
        quantize.run_samples(tampered(folder, tmp_path, **changes), model, 8)
    assert message in str(error.value) and "tampered.ckpt" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_tampered_checkpoint_ends_in_one_line(cli, trained, tmp_path):
    ckpt = tampered(trained[0], tmp_path, source={"_target_": "os.system", "_args_": [f"touch {tmp_path / 'ran'}"]})
    done = cli("export", ckpt, tmp_path / "net.onnx", "--int8")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert (
        "data.source._target_=os.system is not on the allow-list" in done.stderr
        and not (tmp_path / "ran").exists()
        and not (tmp_path / "net.onnx").exists()
    )


@pytest.mark.parametrize(
    ("name", "int8", "message"),
    [
        ("net.h5", False, "net.h5: the name must end in .onnx or .pt2; for weights use `inception-zoo convert`"),
        ("net.tflite", True, "net.tflite: the name must end in .onnx or .pt2"),
        ("no/net.onnx", False, "no/net.onnx: there is no folder no"),
        ("net.pt2", True, "net.pt2: --int8 writes ONNX only; the name must end in .onnx"),
    ],
)
def test_a_file_that_cannot_be_written(name, int8, message):
    with pytest.raises(ZooError) as error:
        export.check_out(Path(name), int8)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.h5"], "net.h5: the name must end in .onnx or .pt2; for weights use `inception-zoo convert`"),
        (["net.onnx", "--images", "pictures"], "--images pictures needs --int8; add it, or leave --images out"),
    ],
)
def test_a_wrong_order_is_one_line_before_anything_is_read(cli, arguments, message):
    done = cli("export", "there_is_no_such.ckpt", *arguments)
    assert done.returncode == 2 and done.stdout == "" and done.stderr == f"error: {message}\n"


def test_weights_without_a_record_of_data_need_images(trained, tmp_path):
    with pytest.raises(ZooError, match=r"digits.safetensors has no record of the data that it was trained on; give --images"):
        quantize.run_samples(trained[0] / "digits.safetensors", trained[1], 8)


def test_an_unknown_preprocessing_or_package_is_named(tmp_path, monkeypatch):
    model = small(stem="small")
    model.preprocessing = None
    with pytest.raises(ZooError, match="the network's preprocessing is unknown"):
        export.export_program(model, tmp_path / "net.pt2")
    monkeypatch.setattr(export, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(
        ZooError, match=r"net.onnx: ONNX needs the package no_such_package: pip install 'inception-zoo\[export\]'"
    ):
        export.export_onnx(model, tmp_path / "net.onnx")
