"""Data sets that the library `datasets` has saved, read as those of the Hugging Face Hub are."""

import json

import numpy as np
import pytest
import torch
from conftest import SMALL
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from inception_zoo import ZooError
from inception_zoo.data.hf import hf
from inception_zoo.data.own import load_source
from inception_zoo.system.places import READ_ONLY

OTHERS = ClassLabel(names=["wasp", "bee", "ant"])


def images(count, side=32):
    return np.random.default_rng(count).integers(0, 255, (count, side, side, 3), dtype=np.uint8)


def split(count, label=None):
    columns = {"image": list(images(count)), "label": [number % 3 for number in range(count)]}
    return Dataset.from_dict(columns, Features(image=Image(), label=label or ClassLabel(names=["ant", "bee", "wasp"])))


@pytest.fixture
def saved(tmp_path):
    DatasetDict(train=split(60), validation=split(9), extra=split(6)).save_to_disk(tmp_path / "insects")
    return tmp_path / "insects"


def test_images_labels_classes_and_splits_are_those_of_the_data_set(saved, caplog):
    with caplog.at_level("INFO"):
        source = load_source(hf, str(saved))
    assert source.classes == ["ant", "bee", "wasp"] and source.test is None
    assert [len(source.train), len(source.val)] == [60, 9] and source.val.labels.tolist() == [0, 1, 2] * 3
    assert torch.equal(source.train.read(7, 3)(), torch.from_numpy(images(60)[7]).permute(2, 0, 1))
    assert "not used: the splits extra" in caplog.text


def test_a_run_trains_and_tests_on_it_with_workers(saved, zoo, tmp_path):
    small = [word for word in SMALL if not word.startswith("data=")]
    data = ["data=hf", "data.root=insects", "data.num_classes=3", "data.workers=1"]
    done = zoo(*data, *small, "logger=csv", "hydra.run.dir=run", "trainer.limit_test_batches=null")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/results.json").read_text())
    assert record["state"] == "finished" and (tmp_path / "run/per_class.csv").read_text().count("\n") == 4


def test_a_test_split_without_labels_is_not_used(tmp_path, caplog):
    DatasetDict(train=split(30), test=split(6).map(lambda row: {"label": -1})).save_to_disk(tmp_path / "data")
    with caplog.at_level("INFO"):
        assert load_source(hf, str(tmp_path / "data")).test is None
    assert "not used: the splits test (without labels)" in caplog.text


def test_images_are_checked_before_they_are_decoded(tmp_path):
    rows = split(3).cast_column("image", Image(decode=False))
    rows = rows.map(lambda row: {"image": {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0", "path": None}})
    rows.save_to_disk(tmp_path / "data")
    with pytest.raises(ZooError, match=r"item 0: ZooError: not a valid image, or corrupt"):
        load_source(hf, str(tmp_path / "data"))


def test_a_checkpoint_does_not_choose_what_is_downloaded(monkeypatch):
    monkeypatch.setenv(READ_ONLY, "owner/name")
    with pytest.raises(ZooError, match=r"data.root=owner/name is from the checkpoint"):
        hf("owner/name")


WRONG = {
    "no images": (
        lambda root: Dataset.from_dict({"image": ["a"], "label": [0]}).save_to_disk(root), {},
        "the column image does not hold images; set data.source.image",
    ),
    "two splits of the same kind": (
        lambda root: DatasetDict(train=split(3), valid=split(3), validation=split(3)).save_to_disk(root), {},
        "several splits are the split val: train, valid, validation",
    ),
    "other classes in the test": (
        lambda root: DatasetDict(train=split(3), test=split(3, OTHERS)).save_to_disk(root), {},
        "the attribute `classes` differs between train, test",
    ),
    "a configuration of a folder": (
        lambda root: split(3).save_to_disk(root), {"name": "large"}, "is a folder; remove data.source.name",
    ),
    "no folder of the library": (lambda root: root.mkdir(), {}, "neither a `Dataset` directory nor a `DatasetDict`"),
    "no training split": (
        lambda root: DatasetDict(test=split(3)).save_to_disk(root), {}, "no split named train; its splits: test",
    ),
    "another column": (
        lambda root: split(3).save_to_disk(root), {"label": "fine"}, "no column fine; set data.source.label to one of image",
    ),
    "labels that are texts": (
        lambda root: Dataset.from_dict({"image": list(images(3)), "label": ["a", "b", "c"]},
        Features(image=Image(), label=Value("string"))).save_to_disk(root), {}, "the labels must be whole numbers from 0",
    ),
    "images without a label": (lambda root: split(3, Value("int64")).map(lambda row: {"label": -1}).save_to_disk(root), {},
        "the labels must be whole numbers from 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_one_line(case, tmp_path):
    write, options, message = WRONG[case]
    write(root := tmp_path / "data")

    def source(root):
        return hf(root, **options)

    with pytest.raises(ZooError, match=message) as error:
        load_source(source, str(root))
    assert "\n" not in str(error.value)


def test_the_number_of_classes_is_asked_for(zoo, saved):
    done = zoo("data=hf", "data.root=insects", "trainer=smoke")
    assert (
        done.returncode == 2 and done.stderr.splitlines()[-1] == "error: data.num_classes is required; set data.num_classes=…"
    ), done.stderr
