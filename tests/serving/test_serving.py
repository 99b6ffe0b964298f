"""From a real run to predictions, in every serving format."""

import csv
import json

import pytest
from conftest import SMALL, run_folder
from PIL import Image

from inception_zoo.data.digits import digits
from inception_zoo.data.fashion_mnist import fashion_mnist


def write_pictures(source, folder):
    for i, (image, label) in enumerate(zip(source.test.images, source.test.labels, strict=True)):
        file = folder / source.classes[label] / f"{i:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(file)


def accuracy(cli, tmp_path, network):
    done = cli("predict", network, "pictures", "--format", "csv", "--top", "1", "--output", "found.csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    return sum(row["class"] == row["file"].split("/")[-2] for row in rows) / len(rows), len(rows)


def exported(cli, folder, out, *options):
    done = cli("export", folder, out, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_predicts_what_it_tested(zoo, cli, tmp_path):
    """`predict` reaches the test accuracy of the run on scikit-learn's digits; both resize the images from 8 to 32 px."""
    done = zoo(*SMALL, "logger=csv", "trainer.precision=32-true", "trainer.limit_test_batches=null")
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    expected = json.loads((folder / "results.json").read_text())["test/top1"], len(digits().test)
    write_pictures(digits(), tmp_path / "pictures")
    assert accuracy(cli, tmp_path, folder) == pytest.approx(expected, abs=1e-6)
    assert accuracy(cli, tmp_path, folder / "model.safetensors") == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_every_form_of_a_real_run_has_its_accuracy(zoo, cli, tmp_path, fashion_mnist_root):
    one_epoch = ["experiment=quickstart", f"data.root={fashion_mnist_root}", "trainer.max_epochs=1", "logger=csv"]
    done = zoo(*one_epoch, "trainer.precision=32-true", timeout=3600)
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    tested = json.loads((folder / "results.json").read_text())["test/top1"]
    write_pictures(fashion_mnist(fashion_mnist_root), tmp_path / "pictures")
    exported(cli, folder, "net.onnx")
    table = exported(cli, folder, "int8.onnx", "--int8")
    for form in (folder, folder / "model.safetensors", "net.onnx"):
        assert accuracy(cli, tmp_path, form) == (pytest.approx(tested, abs=1e-4), 10_000), form
    int8, _ = accuracy(cli, tmp_path, "int8.onnx")
    assert int8 > tested - 0.005
    assert f"{int8:.4f}" in table  # the accuracy that the export printed
