"""A paper's recipe on an ImageNet-like folder and on its chunks: train, evaluate and resume with one and two processes."""

import json

import pytest
import torch
from conftest import RECIPES

SMALL = [
    "experiment=inception_v3_imagenet",
    *("data.batch_size=8", "data.eval_batch_size=4", "data.image_size=96", "data.workers=1", "model.width=0.25"),
    *("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.precision=32-true", "logger=csv"),
]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def figures(folder):
    return {key: value for key, value in results(folder).items() if key.startswith(("test/", "test_raw/"))}


@pytest.mark.slow
def test_every_image_counts_once_on_one_and_on_two_processes(zoo, tmp_path, image_tree):
    """21 images in batches of four: the last batch has one image, and rank 1 gets one batch less than rank 0."""
    root = f"data.root={image_tree}"
    fit = zoo(*SMALL, root, "trainer.devices=2", "hydra.run.dir=two")
    assert fit.returncode == 0, fit.stderr
    assert "learning rate: 0.00140625 for a global batch of 8 (0.045 at 256)" in fit.stdout + fit.stderr
    for devices in (1, 2):
        done = zoo(*SMALL, root, "task=test", "ckpt=two", f"trainer.devices={devices}", f"hydra.run.dir=test{devices}")
        assert done.returncode == 0, done.stderr
    one, two = figures(tmp_path / "test1"), figures(tmp_path / "test2")
    assert one == two == figures(tmp_path / "two")
    assert {"test/loss", "test/top1", "test/top5", "test/macro", "test/ece", "test_raw/top1"} <= set(one)
    for name in ("per_class.csv", "confusion.csv", "calibration.csv", "worst.csv"):
        tables = [(tmp_path / folder / name).read_text() for folder in ("test1", "test2")]
        assert tables[0] == tables[1]
    rows = [line.split(",") for line in (tmp_path / "test1/confusion.csv").read_text().splitlines()[1:]]
    assert [sum(map(int, row[1:])) for row in rows] == [7, 7, 7]
    assert results(tmp_path / "two")["val/top1"] == pytest.approx(one["test/top1"])  # the same images

    resumed = zoo(*SMALL, root, "ckpt=last", "trainer.max_epochs=2", "hydra.run.dir=two")
    assert resumed.returncode == 0, resumed.stderr
    saved = torch.load(tmp_path / "two/checkpoints/last.ckpt", weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (1, 4)
    changed = zoo(*SMALL, root, "ckpt=two/checkpoints/last.ckpt", "augmentation.mixup=0.2")
    assert changed.returncode == 2 and "was trained with augmentation.mixup=0.0" in changed.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_same_from_a_stream(zoo, cli, tmp_path, image_tree):
    packed = cli("data", "optimize", image_tree, "chunks", "--chunk-size", "100KB")
    assert packed.returncode == 0, packed.stderr
    stream = [*SMALL, "data=stream", "data.root=chunks"]
    fit = zoo(*stream, "trainer.devices=2", "hydra.run.dir=two")
    assert fit.returncode == 0, fit.stderr
    one = zoo(*stream, "task=test", "ckpt=two", "hydra.run.dir=one")
    assert one.returncode == 0, one.stderr
    assert figures(tmp_path / "one") == figures(tmp_path / "two")
    files = zoo(*SMALL, f"data.root={image_tree}", "task=test", "ckpt=two", "hydra.run.dir=files")
    assert files.returncode == 0, files.stderr
    assert figures(tmp_path / "files") == figures(tmp_path / "one")
    resumed = zoo(*stream, "trainer.devices=2", "ckpt=last", "trainer.max_epochs=2", "hydra.run.dir=two")
    assert resumed.returncode == 0, resumed.stderr
    assert torch.load(tmp_path / "two/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4

    chunk = next((tmp_path / "chunks/train").glob("*.bin"))
    chunk.write_bytes(chunk.read_bytes()[:-10])
    cut = zoo(*stream)
    assert cut.returncode == 2 and chunk.name in cut.stderr.splitlines()[-1]


@pytest.mark.slow
def test_every_recipe_for_imagenet_in_one_sweep(zoo, tmp_path, image_tree):
    names = sorted(path.stem for path in RECIPES)
    assert len(names) == 6
    small = ["data.batch_size=8", "data.image_size=96", "data.progressive=null", "data.workers=1", "model.width=0.25"]
    smoke = ["trainer=smoke", "trainer.max_epochs=1", "logger=csv", f"data.root={image_tree}", *small, "hydra.sweep.dir=sweep"]
    done = zoo("-m", f"experiment={','.join(names)}", *smoke)
    assert done.returncode == 0, done.stderr
    for job, name in enumerate(names):
        found = results(tmp_path / "sweep" / str(job))
        assert found["model"] == {"bn_inception_x5": "bn_inception", "inception_v3_modern": "inception_v3"}.get(
            name, name.removesuffix("_imagenet")
        )
        assert {"train/loss", "val/top1_best", "test/top1", "test_raw/top1"} <= set(found)
