"""Features of images: the module for metrics, and `inception-zoo features`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors import safe_open
from torchmetrics.image.fid import FrechetInceptionDistance

from inception_zoo import ZooError, create_model, save_model
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.cli.main import main
from inception_zoo.data.pixels import prepare
from inception_zoo.data.reading import read_image
from inception_zoo.serving.features import Features, extract

KNOWN = Preprocessing(32, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 36)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = create_model("googlenet", 10, 3, width=0.125, norm="batch", aux=False)
    model.preprocessing = KNOWN
    return model.eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    save_model(model, folder / "net.safetensors")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), np.uint8)).save(folder / f"images/{i}.png")
    return folder


@pytest.fixture
def call(folder, monkeypatch, capsys):
    def run(*words, images="images"):
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", ["inception-zoo", "features", "net.safetensors", images, *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def known(model, folder):
    """Return the pooled features of the images, in the order of their names."""
    images = torch.stack([prepare(read_image(folder / f"images/{i}.png", 3), KNOWN) for i in range(7)])
    return model.features(images).detach().numpy()


@pytest.mark.parametrize("processes", [1, 2])
def test_features_are_written_in_the_order_of_the_input(processes, call, folder, known, monkeypatch):
    monkeypatch.setattr("inception_zoo.serving.pool.SHARE", 3)
    status, out, _ = call("--output", "f.npy", "--processes", processes, "--batch-size", 2)
    assert status == 0 and out == f"f.npy: 7 images, {known.shape[1]} features each, float32\n"
    found = np.load(folder / "f.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-5)


def test_formats_have_equal_features_and_names(call, folder, known):
    for name in ("f.npy", "f.safetensors", "f.parquet"):
        assert call("--output", name)[0] == 0
    found, names = np.load(folder / "f.npy"), [f"images/{i}.png" for i in range(7)]
    with safe_open(folder / "f.safetensors", "numpy") as file:
        assert np.array_equal(file.get_tensor("features"), found) and json.loads(file.metadata()["files"]) == names
    table = parquet.read_table(folder / "f.parquet")
    assert table["file"].to_pylist() == names and np.array_equal(np.array(table["features"].to_pylist(), np.float32), found)


def test_an_endpoint_is_averaged_over_its_grid(call, folder, model):
    assert call("--output", "f.npy", "--layer", "inception_4e")[0] == 0
    images = torch.stack([prepare(read_image(folder / f"images/{i}.png", 3), KNOWN) for i in range(7)])
    maps = model.endpoints(images)["inception_4e"].detach().mean((2, 3)).numpy()
    np.testing.assert_allclose(np.load(folder / "f.npy"), maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "f.csv"], "--output f.csv: the name must end in .npy, .safetensors, .parquet"),
        (["--output", "f.npy", "--layer", "mixed_7c"], "googlenet: layer mixed_7c is unknown"),
        (["--output", "no/f.npy"], "--output no/f.npy: "),
    ],
)
def test_mistakes(words, message, call):
    status, out, error = call(*words)
    assert status == 2 and message in error and not out and len(error.splitlines()) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_an_unreadable_image_stops_and_is_named(processes, call, folder):
    (folder / "damaged").mkdir(exist_ok=True)
    (folder / "damaged/a.png").write_bytes(b"no image")
    status, _, error = call("--output", "g.npy", "--processes", processes, images="damaged")
    assert status == 2 and "damaged/a.png" in error and len(error.splitlines()) == 1
    assert not (folder / "g.npy").exists()


def test_the_module_reads_pixels_and_normalized_images(model):
    pixels = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8)
    features = Features(model)
    images = torch.stack([prepare(each, KNOWN) for each in pixels])
    torch.testing.assert_close(features(pixels), features(images))
    assert torch.equal(features(images), model.features(images)) and features.num_features == model.num_features
    maps = model.endpoints(images)["inception_4e"].mean((2, 3))
    torch.testing.assert_close(Features(model, "inception_4e")(pixels), maps)
    with pytest.raises(ZooError, match="states no preprocessing"):
        Features(create_model("googlenet", 10, 3, width=0.125))(pixels)


def test_torchmetrics_scores_features_and_refuses_the_classifier(model):
    torch.manual_seed(0)
    real, fake = (torch.randint(low, 256, (40, 3, 40, 40), dtype=torch.uint8) for low in (0, 60))
    metric = FrechetInceptionDistance(feature=Features(model)).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    a, b = (Features(model)(images).detach().double() for images in (real, fake))
    covariance = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(covariance[0] @ covariance[1]).sqrt().real.sum()
    known = (a.mean(0) - b.mean(0)).square().sum() + covariance[0].trace() + covariance[1].trace() - 2 * root
    assert metric.compute().item() == pytest.approx(known.item(), rel=1e-4)
    assert next(model.parameters()).dtype == torch.float32  # the metric has its own copy


def test_torchmetrics_cannot_score_logits_by_mistake(model):
    classifier = FrechetInceptionDistance(feature=model)
    with pytest.raises(RuntimeError, match="size of tensor"):  # 10 logits are not its 128 features
        classifier.update(torch.rand(2, 3, 40, 40), real=True)


def test_the_module_leaves_the_network_alone(model):
    model.train()
    features = Features(model).double()
    assert model.training and not features.model.training and not features.train().model.training
    assert next(model.parameters()).dtype == torch.float32
    model.eval()


def test_a_network_without_classes_has_features_and_no_predictions(model, folder, monkeypatch, capsys):
    bare = create_model("googlenet", 0, 3, width=0.125, norm="batch", weights=folder / "net.safetensors")
    save_model(bare, folder / "bare.safetensors")
    pixels = prepare(read_image(folder / "images/0.png", 3), KNOWN)[None]
    found = extract(folder / "bare.safetensors", [folder / "images/0.png"])
    np.testing.assert_allclose(found, model.features(pixels).detach().numpy(), rtol=1e-4, atol=1e-5)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["inception-zoo", "predict", "bare.safetensors", "images"])
    with pytest.raises(SystemExit):
        main()
    assert "bare.safetensors has no classifier; use `inception-zoo features`" in capsys.readouterr().err


def test_no_images_give_no_rows(model, folder):
    assert extract(folder / "net.safetensors", []).shape == (0, model.num_features)
