import csv
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as T

from inception_zoo import ZooError, create_model, save_model
from inception_zoo.architecture.decision import Decision
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.cli.main import main
from inception_zoo.data.crops import views
from inception_zoo.data.datamodule import ImageData
from inception_zoo.data.pixels import normalize, prepare
from inception_zoo.data.reading import read_image
from inception_zoo.data.source import Images, Source
from inception_zoo.interpret.gradcam import check_endpoint, look, picture_paths
from inception_zoo.serving.classifier import open_classifier
from inception_zoo.serving.images import find_images
from inception_zoo.serving.predict import Prediction, predict
from inception_zoo.system.records import write_json

COMMAND = [sys.executable, "-m", "inception_zoo.cli", "predict"]
NAMES = [f"class[{letter}]" for letter in "abcdefghij"]  # brackets, as in Rich markup
WIDE = Preprocessing(28, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 32)


@pytest.fixture
def call(monkeypatch, capsys):
    """Return a function that runs `inception-zoo predict` in this process."""

    def run(*arguments, folder, stdin=""):
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", ["inception-zoo", "predict", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        monkeypatch.setattr("sys.path", [*sys.path])
        with pytest.raises(SystemExit) as end:
            main()
        return subprocess.CompletedProcess(arguments, end.value.code or 0, *capsys.readouterr())

    return run


def network(channels=3, preprocessing=WIDE, blocks=None):
    torch.manual_seed(0)
    model = create_model("googlenet", 10, channels, width=0.25, norm="batch", stem="medium", aux=False, blocks=blocks or {})
    model.preprocessing, model.classes = preprocessing, NAMES
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.safetensors"
    save_model(network(), path)
    return path


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(("b.png", "a[red].png", "more/c.png", "more/.hidden.png")):
        Image.fromarray(pixels(40 + seed, 50, 3, seed=seed)).save(folder / name)
    return folder


def bomb(path):
    """Write a tiny PNG whose header declares 100 million pixels: above Pillow's limit, below twice the limit."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    )


@pytest.fixture
def bad(tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    Image.fromarray(pixels(200, 200, 3)).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:3000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    Image.fromarray(np.zeros((1, 60_000), np.uint8)).save(folder / "thin.png")
    Image.fromarray(np.zeros((40, 40), np.float32)).save(folder / "float.tiff")
    bomb(folder / "bomb.png")
    return folder


# Finding and reading


def test_words_are_files_folders_patterns_and_standard_input(photos, monkeypatch):
    monkeypatch.chdir(photos)
    every = ["a[red].png", "b.png", "more/c.png"]
    assert list(map(str, find_images(["."]))) == every
    assert list(map(str, find_images(["b.png", "**/c.png", "a[red].png"]))) == ["b.png", "more/c.png", "a[red].png"]
    (photos / "Bag [new]").mkdir()
    (photos / "b.png").rename(photos / "Bag [new]/b.png")
    assert list(map(str, find_images(["Bag [new]/*.png"]))) == ["Bag [new]/b.png"]
    monkeypatch.setattr("sys.stdin", iter(["\ufeffb.png\n", "\n", "more/c.png\n"]))
    assert list(map(str, find_images(["-"]))) == ["b.png", "more/c.png"]


@pytest.mark.parametrize("word", ["nothing.png", "*.jpg", "none/"])
def test_a_word_that_matches_nothing_is_named(word, photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "none").mkdir()
    with pytest.raises(ZooError, match=r"^" + word.replace("*", r"\*")):
        find_images(["b.png", word])


def test_no_image_at_all_is_an_error(monkeypatch):
    monkeypatch.setattr("sys.stdin", iter([]))
    with pytest.raises(ZooError, match="no image"):
        find_images(["-"])


def test_sixteen_bits_are_scaled(tmp_path):
    deep = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for channels in (1, 3):
        assert read_image(tmp_path / "deep.png", channels).tolist() == [[[0, 1, 128, 255]]] * channels


def test_modes_are_converted(tmp_path):
    red = Image.new("RGB", (5, 4), (255, 0, 0))
    for mode, name in (("P", "p.png"), ("CMYK", "c.tiff"), ("RGBA", "a.png"), ("RGB", "r.bmp")):
        red.convert(mode).save(tmp_path / name)
        got = read_image(tmp_path / name, 3)
        assert got.shape == (3, 4, 5) and got.dtype == torch.uint8
        assert got.flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0], mode
    grey = read_image(tmp_path / "r.bmp", 1)
    assert grey.shape == (1, 4, 5) and grey.unique().tolist() == [76]  # 0.299 * 255
    Image.new("L", (5, 4), 9).save(tmp_path / "l.png")
    assert read_image(tmp_path / "l.png", 3).unique().tolist() == [9]
    Image.new("1", (5, 4), 1).save(tmp_path / "one.png")
    assert read_image(tmp_path / "one.png", 3).unique().tolist() == [255]


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (5, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (5, 4), "black").quantize(2).save(tmp_path / "palette.png", transparency=0)
    for name in ("clear.png", "palette.png"):
        assert read_image(tmp_path / name, 3).unique().tolist() == [255]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "16 bits"])
def test_a_camera_on_its_side_is_turned_upright(mode, tmp_path):
    image = (
        Image.fromarray(pixels(20, 30).astype(np.uint16) * 257)
        if mode == "16 bits"
        else Image.fromarray(pixels(20, 30, 3)).convert(mode)
    )
    image.save(tmp_path / "flat.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation 6: a quarter turn clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    flat, turned = read_image(tmp_path / "flat.png", 3), read_image(tmp_path / "turned.png", 3)
    assert turned.shape == (3, 30, 20) and torch.equal(turned, flat.rot90(-1, (1, 2)))


def test_other_numbers_of_channels_have_no_image_files(photos):
    with pytest.raises(ZooError, match="4 channels"):
        read_image(photos / "b.png", 4)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut.jpg", "corrupt"),
        ("empty.png", "empty"),
        ("text.png", "not a valid image"),
        ("thin.png", "100 times"),
        ("float.tiff", "floating-point"),
        ("missing.png", "no such file"),
    ],
)
def test_a_bad_file_is_named_with_its_reason(name, reason, bad):
    with pytest.raises(ZooError, match=reason) as error:
        read_image(bad / name, 3)
    assert str(error.value).startswith(f"{bad / name}: ") and "\n" not in str(error.value)


# Pixels and crops


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("side", "size"), [(28, 28), (28, 40), (60, 28)])
def test_the_pixels_are_those_of_training(channels, interpolation, side, size, tmp_path):
    array = pixels(6, side, side, channels)
    split = Images(torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(), torch.arange(6) % 2)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    data = ImageData(
        lambda: Source("x", split, split, ["a", "b"]),
        2,
        channels,
        size,
        2,
        {"val": 2},
        mean,
        std,
        interpolation=interpolation,
    )
    data.setup()
    trained = torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in data.test_dataloader()])
    for number, image in enumerate(array):
        Image.fromarray(image.squeeze(-1) if channels == 1 else image).save(tmp_path / "x.png")
        assert torch.equal(prepare(read_image(tmp_path / "x.png", channels), data.preprocessing), trained[number])


def test_the_centre_of_the_resized_image():
    image = torch.from_numpy(pixels(3, 64, 80))
    resized = T.resize(image, [32], antialias=True)
    assert resized.shape == (3, 32, 40)
    centre = normalize(resized[:, 2:30, 6:34], WIDE)
    assert torch.equal(prepare(image, WIDE), centre)
    assert torch.equal(normalize(views(image, WIDE), WIDE), centre[None])
    assert torch.equal(normalize(views(image, WIDE, flip=True), WIDE), torch.stack([centre, centre.flip(-1)]))


def test_ten_crops_cut_by_hand():
    image = torch.from_numpy(pixels(3, 32, 40))  # the shorter side is 32 px already: no resizing
    cut = [image[:, y : y + 28, x : x + 28] for y, x in ((0, 0), (0, 12), (4, 0), (4, 12), (2, 6))]
    found = views(image, WIDE, 10)
    assert torch.equal(found, torch.stack([*cut, *(crop.flip(-1) for crop in cut)]))


def test_ten_crops_differ_where_training_did_not_crop():
    whole = Preprocessing(28, (0.5,), (0.5,), 28)
    found = views(torch.from_numpy(pixels(1, 28, 28)), whole, 10)
    assert found.shape == (10, 1, 28, 28) and len({view.numpy().tobytes() for view in found}) == 10
    larger = T.resize(torch.from_numpy(pixels(1, 28, 28)), [32], antialias=True)
    assert torch.equal(found[0], larger[:, :28, :28])


@pytest.mark.parametrize("upright", [False, True])
def test_a_hundred_and_forty_four_crops_cut_by_hand(upright):
    """arXiv 1409.4842, section 7: 4 scales x 3 squares x (4 corners, centre, whole square) x 2 (mirrored)."""
    paper = Preprocessing(224, (0.5,) * 3, (0.5,) * 3, 256)
    image = torch.from_numpy(pixels(3, 90, 61) if upright else pixels(3, 61, 90))
    expected = []
    for shorter in (256, 288, 320, 352):
        resized = T.resize(image, [shorter], antialias=True)
        spare = max(resized.shape[-2:]) - shorter
        for start in (0, spare // 2, spare):
            y, x = (start, 0) if upright else (0, start)
            square, end, middle = resized[:, y : y + shorter, x : x + shorter], shorter - 224, round((shorter - 224) / 2)
            corners = ((0, 0), (0, end), (end, 0), (end, end), (middle, middle))
            expected += [square[:, top : top + 224, left : left + 224] for top, left in corners]
            expected.append(T.resize(square, [224, 224], antialias=True))
    expected += [crop.flip(-1) for crop in expected]
    found = views(image, paper, 144)
    assert found.shape == (144, 3, 224, 224) and torch.equal(found, torch.stack(expected))


def test_other_numbers_of_crops_are_refused():
    with pytest.raises(ZooError, match="crops=5"):
        views(torch.zeros(3, 30, 30, dtype=torch.uint8), WIDE, 5)


# Predicting


@pytest.mark.parametrize(("crops", "flip", "batch_size"), [(1, False, 2), (1, True, 3), (10, False, 7), (144, False, 64)])
def test_probabilities_are_averaged_over_the_views(crops, flip, batch_size, checkpoint, photos, bad):
    classifier, model = open_classifier(checkpoint), network()
    paths = [photos / "b.png", bad / "text.png", photos / "more/c.png", photos / "b.png"]
    found = list(predict(classifier, paths, batch_size, crops, flip))
    assert [prediction.path for prediction in found] == paths
    assert found[1].probabilities is None and "text.png" in found[1].error
    for prediction in (found[0], found[2], found[3]):
        with torch.no_grad():
            seen = normalize(views(read_image(prediction.path, 3), WIDE, crops, flip), WIDE)
            one = model(seen).softmax(1).mean(0)
        torch.testing.assert_close(prediction.probabilities, one, rtol=1e-4, atol=1e-6)
        assert prediction.top(1)[0][0] == one.argmax()


def test_no_more_is_read_ahead_than_two_batches(checkpoint, photos, monkeypatch):
    """Images are decoded at most two batches ahead: 144 views of one 299 px image take 154 MB."""
    from inception_zoo.serving import predict as module

    begun = []
    monkeypatch.setattr(module, "read_image", lambda path, channels: begun.append(path) or read_image(path, channels))
    next(predict(open_classifier(checkpoint), [photos / "b.png"] * 20, 32, 144))
    assert len(begun) <= 2


def test_the_command_writes_jsonl_and_csv_in_order(call, checkpoint, photos, tmp_path):
    done = call(checkpoint, "photos/more", "photos/b.png", "photos/a*", "--format", "jsonl", "--top", "3", folder=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == ["photos/more/c.png", "photos/b.png", "photos/a[red].png"]
    model = network()
    for row in rows:
        with torch.no_grad():
            expected = model(prepare(read_image(tmp_path / row["file"], 3), WIDE)[None]).softmax(1)[0].topk(3)
        assert [entry["label"] for entry in row["top"]] == expected.indices.tolist()
        assert [entry["probability"] for entry in row["top"]] == pytest.approx(expected.values.tolist(), abs=1e-5)
        assert [entry["class"] for entry in row["top"]] == [NAMES[label] for label in expected.indices]
        assert {key: row[key] for key in ("class", "label", "probability")} == row["top"][0]
    done = call(
        checkpoint, "-", "--format", "csv", "--top", "99", "--output", "out.csv", folder=tmp_path, stdin="photos/b.png\n"
    )
    assert done.returncode == 0 and done.stdout == "" and {path.name for path in tmp_path.iterdir()} == {"photos", "out.csv"}
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert (row["file"], row["class"], row["label"]) == ("photos/b.png", rows[1]["class"], str(rows[1]["label"]))
    assert row["class_3"] == rows[1]["top"][2]["class"] and "class_10" in row and "class_11" not in row
    assert float(row["probability_2"]) == pytest.approx(rows[1]["top"][1]["probability"], abs=1e-6)


def test_the_table_shows_names_as_they_are(call, checkpoint, photos, tmp_path):
    done = call(checkpoint, "photos", folder=tmp_path)
    assert done.returncode == 0 and done.stdout.count("class[") == 3 * 5
    assert "photos/a[red].png" in done.stdout


def test_bad_images_are_passed_over_by_several_processes(cli, checkpoint, photos, bad, tmp_path):
    words = "--format", "csv", "--output", "out.csv", "--processes", "2"
    done = cli("predict", checkpoint, "bad", "photos/b.png", *words)
    assert done.returncode == 1 and "bomb.png: more than" in done.stderr
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        ["skipped", str(p.relative_to(tmp_path))] for p in sorted(bad.iterdir())
    ]
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    (known,) = predict(open_classifier(checkpoint), [photos / "b.png"])
    ((label, probability), *_) = known.top(1)
    assert (row["file"], int(row["label"])) == ("photos/b.png", label)
    assert float(row["probability"]) == pytest.approx(probability, abs=1e-5)


def test_strict_stops_at_the_first_bad_image_and_leaves_no_file(call, checkpoint, photos, bad, tmp_path):
    done = call(checkpoint, "photos/b.png", "bad", "--strict", "--format", "csv", "--output", "out.csv", folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: bad/bomb.png: ") and done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "bad"}


def test_a_name_that_is_no_text_comes_through(call, checkpoint, photos, tmp_path):
    name = b"photos/\xff.png"
    (photos / "b.png").rename(tmp_path / os.fsdecode(name))
    for layout in ("csv", "jsonl", "table"):
        done = call(checkpoint, tmp_path / os.fsdecode(name), "--format", layout, "--output", "out", folder=tmp_path)
        assert done.returncode == 0, done.stderr
    call(checkpoint, os.fsdecode(name), "--format", "csv", "--output", "out", folder=tmp_path)
    assert name in (tmp_path / "out").read_bytes()


def test_a_reader_that_leaves_gets_no_traceback(checkpoint, photos, tmp_path):
    command = f"{' '.join(COMMAND)} {checkpoint} - --format jsonl | head -1"
    names = "photos/b.png\n" * 2000
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, input=names, timeout=120)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "cvs"], "did you mean 'csv'?"),
        (["--crops", "5"], "crops=5 must be one of 1, 2, 10, 144"),
        (["--mean", "a,b"], "--mean=a,b must be numbers"),
        (["--output", "no/out.csv"], "--output no/out.csv: there is no folder no"),
        (["--layer", "inception_5b"], "--layer inception_5b requires --explain"),
    ],
)
def test_options_are_checked_before_the_network_is_read(call, options, message, photos, tmp_path):
    done = call("missing.safetensors", "photos", *options, folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "5"], "googlenet, grid14 pool3"),
        (["--mean", "0.5", "--std", "0.5"], "reads 3 channels"),
        (["--mean", "nan,0,0"], "must be numbers"),
        (["--explain", "out", "--layer", "inception_5c"], "did you mean 'inception_5"),
    ],
)
def test_options_that_the_network_cannot_take_are_one_line(call, options, message, checkpoint, photos, tmp_path):
    done = call(checkpoint, "photos", *options, folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_unknown_preprocessing_asks_for_it(call, photos, tmp_path):
    model = network(preprocessing=None)
    model.classes = None
    save_model(model, tmp_path / "net.safetensors")
    done = call("net.safetensors", "photos", folder=tmp_path)
    assert done.returncode == 2 and "--mean" in done.stderr and "--std" in done.stderr
    given = ["--mean", "0.4,0.5,0.6", "--std", "0.2,0.25,0.3", "--image-size", "28"]
    done = call("net.safetensors", "photos/b.png", *given, "--format", "jsonl", folder=tmp_path)
    with torch.no_grad():
        expected = model(prepare(read_image(photos / "b.png", 3), WIDE)[None]).softmax(1)[0]  # 28 / 0.875 is 32
    row = json.loads(done.stdout)
    assert row["class"] == str(row["label"]) == str(int(expected.argmax()))
    assert row["probability"] == pytest.approx(float(expected.max()), abs=1e-5)


# ONNX


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    onnx = pytest.importorskip("onnx")
    from inception_zoo.weights.saving import card_of

    path, model = tmp_path_factory.mktemp("onnx") / "net.onnx", network()
    sample = (torch.zeros(2, 3, 28, 28),)
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    torch.onnx.export(model, sample, path, dynamo=True, external_data=False, verbose=False, **names)
    content = onnx.load(path)
    onnx.helper.set_model_props(content, {"inception_zoo": card_of(model).text()})
    onnx.save(content, path)
    return path


@pytest.mark.parametrize("crops", [1, 10])
def test_onnx_predicts_the_same(crops, onnx_file, checkpoint, photos):
    theirs, ours = open_classifier(onnx_file), open_classifier(checkpoint)
    assert theirs.model is None and (theirs.classes, theirs.preprocessing) == (ours.classes, ours.preprocessing)
    paths = find_images([str(photos)])
    for a, b in zip(predict(theirs, paths, 4, crops), predict(ours, paths, 4, crops), strict=True):
        torch.testing.assert_close(a.probabilities, b.probabilities, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"), [(["--explain", "out"], "--explain"), (["--image-size", "32"], "28 pixels only")]
)
def test_what_onnx_cannot_do(call, options, message, onnx_file, photos, tmp_path):
    done = call(onnx_file, "photos", *options, folder=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


def test_a_file_that_is_no_onnx(call, photos, tmp_path):
    (tmp_path / "net.onnx").write_text("no network")
    done = call("net.onnx", "photos", folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: net.onnx") and done.stderr.count("\n") == 1


# Explaining


@pytest.mark.parametrize("swapped", [{}, {"inception_5b": "residual"}])
def test_grad_cam_is_the_papers_formula(swapped):
    """relu(sum over channels of mean gradient x activation), for the block and for the channels of each branch."""
    model, image = network(blocks=swapped), torch.randn(3, 64, 64)
    looks = look(model, image, 3, "inception_5b")
    kept = {}
    block = model.get_submodule("inception_5b")
    joined = getattr(block, "concat", block)

    def keep(module, _, output):
        kept[module] = output.clone()  # later layers may modify it in place
        kept[module].retain_grad()
        return kept[module]

    for module in (block, *joined):
        module.register_forward_hook(keep)
    model(image[None])[0, 3].backward()
    assert len(looks) == 1 + len(joined)
    for found, module in zip(looks, (block, *joined), strict=True):
        cam = (kept[module].grad.mean((2, 3), keepdim=True) * kept[module]).sum(1).relu()[0]
        torch.testing.assert_close(found.evidence, cam.detach(), rtol=1e-4, atol=1e-8)
        assert found.evidence.isfinite().all() and found.evidence.shape == (4, 4)
    assert sum(found.share for found in looks[1:]) == pytest.approx(1)


def test_a_branch_that_is_silent_has_no_evidence():
    model, image = network(), torch.randn(3, 64, 64)
    before = look(model, image, 3, "inception_5b")
    with torch.no_grad():
        for parameter in model.inception_5b[1][-1].parameters():
            parameter.zero_()
    after = look(model, image, 3, "inception_5b")
    assert any(found.evidence.any() for found in before[1:]) and not torch.equal(before[0].evidence, after[0].evidence)
    assert after[2].share == 0 and not after[2].evidence.any()


def test_the_default_endpoint_is_the_last_with_branches():
    assert check_endpoint(network(), None) == "inception_5b"
    with pytest.raises(ZooError, match="did you mean 'inception_4e'"):
        check_endpoint(network(), "inception_4ee")


def test_no_picture_replaces_another_or_an_image():
    sources = [Path("x/a.jpg"), Path("x/a-2.jpg"), Path("y/a.jpg"), Path("out/b.png")]
    assert [str(path) for path in picture_paths(sources, Path("out"))] == [
        "out/a.png",
        "out/a-2.png",
        "out/a-3.png",
        "out/b-2.png",
    ]


def test_the_command_explains(call, checkpoint, photos, tmp_path):
    (photos / "b.png").rename(photos / "$b$_{.png")  # must not be parsed as a formula
    (photos / "more/c.png").unlink()
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    done = call(checkpoint, "photos", "--explain", "photos", "--layer", "inception_4e", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in before} == before
    pictures = [path for path in photos.rglob("*.png") if path not in before]
    assert {path.name for path in pictures} == {"$b$_{-2.png", "a[red]-2.png"}
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width > 1000 and len(picture.convert("RGB").getcolors(1 << 24)) > 1000


def test_of_equal_probabilities_the_first_label_is_taken():
    tied = Prediction(Path("a.png"), torch.tensor([0.1, 0.3, 0.3, 0.3] + [0.0] * 60))
    assert [label for label, _ in tied.top(3)] == [1, 2, 3]


def probabilities(done):
    return {row["file"]: row for row in map(json.loads, done.stdout.splitlines())}


def test_several_networks_and_the_jobs_of_a_sweep_are_averaged(call, checkpoint, photos, tmp_path):
    other = network()
    torch.nn.init.normal_(other.fc.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    other.decision = Decision(thresholds=[0.3] * 10)
    sweep = tmp_path / "sweep"
    for number, model in enumerate((network(), other)):
        (sweep / str(number) / "checkpoints").mkdir(parents=True)
        save_model(model, sweep / str(number) / "model.safetensors")
        write_json(sweep / str(number) / "results.json", {"state": "finished", "tested": "model.safetensors"})
    write_json(sweep / "sweep.json", {"argv": [], "cwd": str(tmp_path), "jobs": ["0", "1"]})
    alone = [
        probabilities(call(path, photos, "--format", "jsonl", "--top", "10", folder=tmp_path))
        for path in (sweep / "0", sweep / "1")
    ]
    both = call(sweep / "0", photos, "--with", sweep / "1", "--format", "jsonl", "--top", "10", folder=tmp_path)
    assert both.returncode == 0, both.stderr
    assert f"the thresholds of {sweep / '1'} are not used" in both.stderr
    for file, row in probabilities(both).items():
        parts = [{each["class"]: each["probability"] for each in found[file]["top"]} for found in alone]
        for each in row["top"]:
            mean = sum(part[each["class"]] for part in parts) / 2
            assert each["probability"] == pytest.approx(mean, abs=2e-6)
    assert call(sweep, photos, "--format", "jsonl", "--top", "10", folder=tmp_path).stdout == both.stdout
    refused = call(sweep, photos, "--explain", tmp_path / "pictures", folder=tmp_path)
    assert refused.returncode == 2 and "--explain" in refused.stderr
    renamed = network()
    renamed.classes = [*NAMES[:-1], "other"]
    save_model(renamed, tmp_path / "other.safetensors")
    refused = call(checkpoint, photos, "--with", tmp_path / "other.safetensors", folder=tmp_path)
    assert refused.returncode == 2 and "their classes differ" in refused.stderr


def test_uncertain_images_are_marked(call, checkpoint, photos, tmp_path):
    rows = probabilities(call(checkpoint, photos, "--format", "jsonl", "--abstain-below", "0.9999", folder=tmp_path))
    assert {row["abstain"] for row in rows.values()} == {True}
    done = call(checkpoint, photos, "--format", "csv", "--abstain-below", "0", folder=tmp_path)
    assert [row["abstain"] for row in csv.DictReader(done.stdout.splitlines())] == ["0"] * 3
    assert "?" in call(checkpoint, photos, "--abstain-below", "0.9999", folder=tmp_path).stdout


def test_thresholds_decide_between_two_classes():
    decided = Prediction(Path("a.png"), torch.tensor([0.7, 0.3]), decision=Decision(thresholds=[0.8, 0.2]))
    assert decided.top(2) == [(1, pytest.approx(0.3)), (0, pytest.approx(0.7))]
