"""Splits that are made from the training images, and image files that cannot be read."""

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tools.examples import examples

from inception_zoo import ZooError
from inception_zoo.data import Files, ImageData, Images, Source
from inception_zoo.data.digits import digits
from inception_zoo.data.division import divide
from inception_zoo.data.imagefolder import imagefolder
from inception_zoo.data.imagenet import is_imagenet
from inception_zoo.data.optimize import optimize_folder
from inception_zoo.training.checkpoints import divided_for

BOTH = {"val": 0.1, "test": None}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def files(*counts, **more):
    """Return a source of files that do not exist: `counts` images of each class."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    names = [f"{'abc'[label]}/{number}.jpg" for number, label in enumerate(labels.tolist())]
    train = Files("root", np.array(names), labels)
    return Source("own", train, more.get("test"), list("abc"[: len(counts)]), more.get("val"))


def names(splits):
    return {name: set(split.paths.tolist()) for name, split in splits.items()}


def test_a_fraction_is_a_share_of_each_class():
    splits = divide(files(50, 30, 3), BOTH, 1)
    found = {name: split.labels.bincount(minlength=3).tolist() for name, split in splits.items()}
    assert found == {"train": [40, 24, 1], "val": [5, 3, 1], "test": [5, 3, 1]}
    every = [name for part in names(splits).values() for name in part]
    assert len(every) == len(set(every)) == 83
    assert splits["train"].paths.tolist() == sorted(splits["train"].paths.tolist(), key=lambda p: (p[0], int(p[2:-4])))


def test_the_split_depends_on_seed_and_paths_only():
    whole, without = files(50, 30), files(50, 30)
    kept = torch.arange(80) != 7  # a file that one machine cannot read
    without = Source("own", without.train[kept.nonzero().flatten()], None, without.classes)
    one, other = names(divide(whole, BOTH, 1)), names(divide(without, BOTH, 1))
    assert names(divide(whole, BOTH, 1)) == one != names(divide(whole, BOTH, 2))
    assert sum(len(one[name] ^ other[name]) for name in one) <= 5
    backwards = Source("own", whole.train[torch.arange(79, -1, -1)], None, whole.classes)
    assert names(divide(backwards, BOTH, 1)) == one


def test_only_what_is_missing_is_made(caplog):
    val, test = files(3, 3).train, files(4, 4).train
    with caplog.at_level(logging.INFO):
        splits = divide(files(20, 20, val=val), BOTH, 1)
        assert splits["val"] is splits["test"] is val and len(splits["train"]) == 40
        splits = divide(files(20, 20, val=val), {"val": None, "test": 0.2}, 1)
        assert splits["val"] is val and len(splits["test"]) == 8 and len(splits["train"]) == 32
        splits = divide(files(20, 20, test=test), BOTH, 1)
        assert splits["test"] is test and len(splits["val"]) == 4 and len(splits["train"]) == 36
        splits = divide(files(20, 20), {"val": 7, "test": 0.1}, 1)
    assert [len(split) for split in splits.values()] == [29, 7, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "own has no test split: testing on the validation split",
        "split: test 8 of 40 images (stratified, seed 1)",
        "split: val 4 of 40 images (stratified, seed 1)",
        "split: val 7, test 4 of 40 images (random and stratified, seed 1)",
    ]


def test_weights_are_tested_with_the_splits_of_their_run(tmp_path):
    (tmp_path / "split.csv").write_text("")
    for weights in (tmp_path, tmp_path / "model.safetensors", tmp_path / "checkpoints/best.ckpt"):
        model = {"weights": str(weights)}
        assert divided_for({"task": "test", "model": model}) == tmp_path
        assert divided_for({"task": "fit", "model": model}) is None  # they may be trained further with other images
    for other in (None, "torchvision:googlenet", str(tmp_path / "elsewhere/a/b/model.safetensors")):
        assert divided_for({"task": "test", "model": {"weights": other}}) is None


def test_a_number_chooses_the_images_of_earlier_versions():
    data = ImageData(digits, 10, 1, 8, 64, {"val": 200}, [0.3], [0.4], seed=1)
    data.setup()
    order = torch.randperm(1438, generator=torch.Generator().manual_seed(1))
    every = digits().train
    assert data.splits["val"].images.equal(every.images[order[:200]])
    assert data.splits["train"].images.equal(every.images[order[200:]])


MISTAKES = {
    "a rare class": ((9, 2), BOTH, "class 'b' has less than 3 images; add some"),
    "too much": ((9, 9), {"val": 0.5, "test": 0.5}, "no training images are left"),
    "too many": ((9, 9), {"val": 17, "test": 1}, r"data.split.val=17 must be from 1 to 16"),
    "nothing": ((9, 9), {"val": None, "test": None}, "data.split.val=null: own has no val and no test split; set a fraction"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_split_that_cannot_be_made(case):
    counts, sizes, message = MISTAKES[case]
    with pytest.raises(ZooError, match=message):
        divide(files(*counts), sizes, 1)


def test_images_in_memory_are_divided_too():
    train = Images(torch.zeros(40, 1, 2, 2, dtype=torch.uint8), torch.arange(40) % 2)
    splits = divide(Source("own", train, None, []), {"val": 0.25}, 3)
    assert {name: split.labels.bincount().tolist() for name, split in splits.items()} == {
        "train": [10, 10],
        "val": [5, 5],
        "test": [5, 5],
    }


# A folder of photos without splits


@pytest.fixture
def photos(tmp_path):
    for name in ("cat", "dog"):
        for number in range(10):
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (12, 12), 20 * number).save(path)
    return tmp_path / "photos"


def module(root, folder=None, before=None, **more):
    data = ImageData(imagefolder, 2, 1, 8, 4, BOTH, [0.5], [0.5], seed=1, root=str(root), workers=0, **more)
    data.folder, data.before = folder, before
    data.setup()
    return data


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_lists_every_image(photos, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        data = module(photos, tmp_path)
    assert f"split: val 2, test 2 of 20 images (stratified, seed 1): {tmp_path}/split.csv" in caplog.text
    table = rows(tmp_path / "split.csv")
    assert len(table) == 20 and {(row["path"].partition("/")[0], row["class"]) for row in table} == {("cat",) * 2, ("dog",) * 2}
    for name, split in data.splits.items():
        assert [row["path"] for row in table if row["split"] == name] == split.paths.tolist()
    row = next(number for number, path in enumerate(data.splits["test"].paths) if path.startswith("dog"))
    assert data.source_of("test", row) == str(photos / data.splits["test"].paths[row])


def test_a_checkpoint_is_tested_on_the_test_images_of_its_run_only(photos, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    module(photos, tmp_path / "a")
    module(photos, tmp_path / "b", tmp_path / "a")
    moved = tmp_path / "moved"
    photos.rename(moved)
    module(moved, tmp_path / "b", tmp_path / "a")
    Image.new("L", (12, 12)).save(moved / "cat/new.png")
    for folder, before in ((tmp_path / "b", tmp_path / "a"), (tmp_path / "b", tmp_path / "nowhere"), (None, tmp_path / "a")):
        with pytest.raises(ZooError, match=r"split.csv does not list the same images .* training images could be in the test"):
            module(moved, folder, before)


def test_bad_files_are_listed_and_left_out_on_request(photos, tmp_path, caplog):
    (photos / "cat/3.png").write_bytes(b"")
    (photos / "dog/bad.jpg").write_text("no image")
    with pytest.raises(ZooError, match=r"2 of 21 images cannot be read; repair .* data.on_bad_file=skip: ") as error:
        module(photos, tmp_path)
    (found,) = (tmp_path / "cache/inception_zoo").glob("*.txt")
    assert str(error.value).endswith(f"full list: {found}")
    expected, listed = found.read_text(), tmp_path / "unreadable_images.txt"
    assert expected.splitlines()[0] == f"{photos}/cat/3.png: is empty" and len(expected.splitlines()) == 2
    assert not listed.exists()  # the folder of a run that does not start is removed
    data = module(photos, tmp_path, on_bad_file="skip")
    assert f"data.on_bad_file=skip: 2 of 21 images cannot be read; they are left out; full list: {listed}" in caplog.text
    assert listed.read_text() == expected
    listed.unlink()
    paths = {row["path"] for row in rows(tmp_path / "split.csv")}
    assert len(paths) == sum(map(len, data.splits.values())) == 19 and not paths & {"cat/3.png", "dog/bad.jpg"}
    for path in (photos / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ZooError, match=f"no image of class 'dog' in train can be read; repair them; full list: {found}"):
        module(photos, tmp_path, on_bad_file="skip")
    assert not listed.exists()


def test_a_flat_folder_cannot_be_packed(photos, tmp_path):
    assert not is_imagenet(photos)
    with pytest.raises(ZooError, match="imagefolder: chunks cannot be divided later; give the images of validation a folder"):
        optimize_folder(imagefolder(str(photos)), tmp_path / "chunks")


@examples(30)
@given(st.integers(0, 10**6), st.lists(st.integers(6, 20), min_size=2, max_size=4), st.integers(2, 5), st.booleans())
def test_each_image_is_in_the_test_of_one_fold(seed, sizes, folds, grouped):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    names = np.array([f"{number}.png" for number in range(len(labels))])
    groups = np.array([f"p{number % (len(labels) // 2)}" for number in range(len(labels))]) if grouped else None
    data = Source("table", Files(Path(), names, labels, groups=groups), None, [str(label) for label in range(len(sizes))])
    tested = []
    for fold in range(folds):
        try:
            parts = divide(data, {"val": 0.1, "folds": folds, "fold": fold}, seed)
        except ZooError as error:
            assert grouped, error  # too few whole groups for a class
            return
        assert sum(map(len, parts.values())) == len(labels)
        tested += parts["test"].paths.tolist()
        if grouped:
            found = [{*part.groups.tolist()} for part in parts.values()]
            assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
        else:
            counts = parts["test"].labels.bincount(minlength=len(sizes))
            assert all(abs(int(count) - size / folds) < 1 for count, size in zip(counts, sizes, strict=True))
    assert sorted(tested) == sorted(names.tolist())


def test_a_fold_keeps_the_validation_split_and_refuses_a_test_split():
    part = Files(Path(), np.array([f"{number}.png" for number in range(20)]), torch.arange(20) % 2)
    other = Files(Path(), np.array(["x.png", "y.png"]), torch.arange(2))
    parts = divide(Source("table", part, None, ["a", "b"], other), {"val": 0.1, "folds": 4, "fold": 1}, 1)
    assert parts["val"] is other and len(parts["test"]) == 5 and len(parts["train"]) == 15
    with pytest.raises(ZooError, match=r"data\.split\.folds=4: table has a test split already"):
        divide(Source("table", part, other, ["a", "b"]), {"val": 0.1, "folds": 4, "fold": 1}, 1)
