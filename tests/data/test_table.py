"""Image files that a table lists: the same data set as in folders, whole groups, and errors that name rows."""

import csv
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tools.examples import examples

from inception_zoo import ZooError
from inception_zoo.data import Files, Source
from inception_zoo.data.division import divide
from inception_zoo.data.imagefolder import imagefolder
from inception_zoo.data.table import table
from inception_zoo.runs.results import read_results


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Return a folder of images of 32 px: a gradient in the direction of the class, ten images in each of three classes."""
    for label, name in enumerate(("ant", "bee", "wasp")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.add.outer(np.arange(32) * (label + 1), np.arange(32) * (number % 3)) % 256
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def rows_of(folder):
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    return [{"path": path, "label": path.split("/")[0]} for path in paths]


def write(place, rows, mark=""):
    with place.open("w", newline="", encoding="utf-8") as file:
        file.write(mark)
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)
    return str(place)


def facts(source):
    parts = divide(source, {"val": 0.2, "test": None}, 1)
    return source.classes, {name: (part.paths.tolist(), part.labels.tolist()) for name, part in parts.items()}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_is_the_same_data_set_as_its_folders_in_any_order(folder, tmp_path, mark):
    rows = rows_of(folder)
    expected = facts(imagefolder(str(folder)))
    assert facts(table(write(folder / "labels.csv", rows, mark))) == expected
    mixed = [rows[i] for i in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    (folder / "labels.csv").unlink()
    assert facts(table(write(tmp_path / "labels.csv", mixed), images=str(folder))) == expected


def test_splits_and_other_names_of_columns(folder, caplog):
    rows = rows_of(folder)
    for number, row in enumerate(rows):
        row["split"] = ("train", "train", "validation", "test")[number % 4]
    with caplog.at_level("INFO"):
        source = table(write(folder / "labels.csv", rows))
    assert "columns path, split, label; not used: none; 3 classes: ant 10, bee 10, wasp 10" in caplog.text
    assert {name: len(part) for name, part in source.splits().items()} == {"train": 16, "val": 7, "test": 7}
    renamed = [{"file": row["path"], "species": row["label"], "part": row["split"], "age": 3} for row in rows]
    again = table(write(folder / "labels.csv", renamed), path="file", label="species", split="part")
    assert facts(again) == facts(source)


def changed(rows, number, **cells):
    rows[number] = {**rows[number], **cells}
    return rows


ERRORS = {
    "no column": (lambda rows: [{"file": row["path"], "label": row["label"]} for row in rows], "has no column 'path'; its col"),
    "empty": (lambda rows: changed(changed(rows, 4, label=""), 6, path=""), "row 8: an empty cell in 'path'"),
    "space": (lambda rows: changed(rows, 4, label="ant "), "row 6: a space at the start or the end in 'label': 'ant '"),
    "missing": (lambda rows: changed(rows, 3, path="ant/x.png"), "row 5: no such file in .*images: 'ant/x.png'"),
    "backslash": (lambda rows: changed(rows, 3, path="ant\\3.png"), r"row 5: no such file in .*; write / instead of"),
    "twice": (lambda rows: changed(rows, 9, path="bee/../ant/0.png"), "row 11: a file of an earlier row in 'path'"),
    "unused": (lambda rows: [row | {"Split": "train"} for row in rows], "'Split' is not used; set data.source.split='Split'"),
    "word": (
        lambda rows: changed([row | {"split": "train"} for row in rows], 2, split="holdout"),
        "row 4: not one of train, val, valid, validation, test in 'split': 'holdout'",
    ),
    "leak": (
        lambda rows: [row | {"group": f"P{n % 5}", "split": "test" if n == 7 else "train"} for n, row in enumerate(rows)],
        r"group 'P2' is in train \(row 4\) and in test \(row 9\); put all of its images into one split",
    ),
    "no training images": (
        lambda rows: [row | {"split": "test" if row["label"] == "bee" else "train"} for row in rows],
        "train has no images of class 'bee', which another split has",
    ),
    "no rows": (
        lambda rows: [{"path;label": "ant/0.png;ant"}],
        "its columns are separated by ';' or tabs; save it with commas",
    ),
}


@pytest.mark.parametrize(("change", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_the_rows(folder, change, message):
    with pytest.raises(ZooError, match=f"^data.root=.*labels.csv.*{message}"):
        table(write(folder / "labels.csv", change(rows_of(folder))))


def test_tables_that_are_none(folder):
    place = folder / "labels.csv"
    for text, message in (
        ("path,label\n", "the first row must have the names of the columns"),
        ("path,label,\na,b,c\n", "the first row must have the names of the columns"),
        ("path,path\na,b\n", "the first row must have the names of the columns, each once"),
        ("path,label\na,b\n\na,c\n", "row 3 has 0 cells, not 2"),
    ):
        place.write_text(text)
        with pytest.raises(ZooError, match=message):
            table(str(place))
    place.write_bytes("path,label\na,caf\xe9\n".encode("latin-1"))
    with pytest.raises(ZooError, match="is not UTF-8; save it as CSV UTF-8"):
        table(str(place))
    with pytest.raises(ZooError, match="cannot be read: No such file or directory; set data"):
        table(str(folder / "none.csv"))


@examples(60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 11)), min_size=30, max_size=200),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.integers(0, 5),
)
def test_groups_are_never_divided(images, share, seed):
    """The held out share is within the largest group of what is asked for."""
    labels, groups = (torch.tensor(column) for column in zip(*images, strict=True))
    train = Files(
        "root", np.arange(len(images)).astype(str), labels, groups=np.array([f"P{group}" for group in groups.tolist()])
    )
    classes = [str(label) for label in range(int(labels.max()) + 1)]
    try:
        splits = divide(Source("own", train, None, classes), {"val": share, "test": None}, seed)
    except ZooError as error:
        assert any(part in str(error) for part in ("images of", "would be held out whole", "has less than 3 images"))
        return
    places = defaultdict(set)
    for name, part in splits.items():
        for group in part.groups:
            places[group].add(name)
    assert all(len(names) == 1 for names in places.values())
    assert sum(map(len, splits.values())) == len(images)
    assert all((part.labels.bincount(minlength=len(classes))[labels.unique()] > 0).all() for part in splits.values())
    largest = max(Counter(groups.tolist()).values())  # the groups that bring each class may be too many already
    assert share * len(images) - len(splits["val"]) <= largest
    assert len(splits["val"]) - share * len(images) <= largest * len(classes)


def test_large_groups_keep_the_shares_of_the_classes():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), rng.geometric(0.1, 400))
    labels = torch.from_numpy(np.where(rng.random(len(groups)) < 0.05, 1, 0))
    train = Files("root", np.arange(len(groups)).astype(str), labels, groups=groups.astype(str))
    splits = divide(Source("own", train, None, ["usual", "rare"]), {"val": 0.1, "test": 0.2}, 1)
    for name, share in (("val", 0.1), ("test", 0.2)):
        found = splits[name].labels.bincount() / labels.bincount()
        assert (found - share).abs().max() < 0.03, (name, found)


def test_a_run_records_the_groups(zoo, folder):
    rows = [row | {"patient": f"P{number % 10}", "age": 40 + number} for number, row in enumerate(rows_of(folder))]
    small = ("model=googlenet_bn", "model.stem=small", "model.width=0.125", "data.image_size=32", "data.batch_size=8")
    words = ("data=table", f"data.root={write(folder / 'labels.csv', rows)}", "data.source.group=patient", *small)
    done = zoo(*words, "trainer=smoke", "logger=csv", "hydra.run.dir=run", "data.split.val=0.2")
    assert done.returncode == 0, done.stderr
    with (folder.parent / "run/split.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["path", "class", "split", "group"] and Counter(row["split"] for row in found)["train"] >= 12
    assert len({(row["group"], row["split"]) for row in found}) == 10
    done = zoo("task=test", "ckpt=run/checkpoints/best.ckpt", "data.seed=5", "logger=csv")
    assert done.returncode == 2 and "does not list the same images in the same splits" in done.stderr
    done = zoo("ckpt=last", "hydra.run.dir=run", "+data.source.label=age", "trainer.max_epochs=2")
    assert done.returncode == 2 and "was trained with data.source.label=label" in done.stderr
    done = zoo("data=table", f"data.root={folder}/labels.csv", "data.source.label=class", "trainer=smoke")
    assert done.returncode == 2 and "has no column 'class'; its columns: 'path', 'label', 'patient', 'age'" in done.stderr


def rated(folder, *probabilities, weight="1"):
    """Return the rows with a column for each class, the probability of an image's own class first, and with a weight."""
    probabilities, names = probabilities or (0.8, 0.1, 0.1), ("ant", "bee", "wasp")
    rows = []
    for row in rows_of(folder):
        own = names.index(row["label"])
        cells = {f"p_{name}": probabilities[(number - own) % 3] for number, name in enumerate(names)}
        rows.append(row | cells | {"weight": weight})
    return rows


SOFT = {"label": ["p_ant", "p_bee", "p_wasp"], "probabilities": True}


def test_soft_labels_and_weights_are_for_the_training_only(folder, caplog):
    rows = [row | {"weight": 1 + number % 3} for number, row in enumerate(rated(folder))]
    for number in range(10, 30):  # bees, and wasps that could as well be ants
        rows[number] |= {"p_ant": "0.333" if number < 20 else "0.5", "p_bee": "0.665" if number < 20 else "0"}
        rows[number] |= {"p_wasp": "0" if number < 20 else "0.5"}
    for number in range(25, 30):
        rows[number] |= {"p_ant": "0.1", "p_wasp": "0.9"}
    with caplog.at_level("WARNING"):
        source = table(write(folder / "labels.csv", rows), weight="weight", **SOFT)
    assert "5 images have several most probable classes; their label is the first of them" in caplog.text
    assert source.classes == SOFT["label"] and source.train.labels.bincount().tolist() == [15, 10, 5]
    training, evaluation = (source.train.dataset(1, lambda read: read(), training=flag) for flag in (True, False))
    expected = {row["path"]: row for row in rows}
    for index, path in enumerate(source.train.paths.tolist()):
        _, target, factor = training[index]
        soft = torch.tensor([float(expected[path][name]) for name in source.classes])
        assert torch.allclose(target, soft / soft.sum()) and factor == expected[path]["weight"]
        _, label = evaluation[index]
        assert target[label] == target.max()
    with pytest.raises(ZooError, match=r"^data\.classes=\[0, 2\]: cannot be combined with data\.source\.probabilities"):
        source.only([0, 2])


@pytest.mark.parametrize(
    ("options", "cells", "message"),
    [
        ({"label": "label", "probabilities": True}, {}, "^data.source.probabilities=true: set data.source.label to a list"),
        (SOFT, {"p_bee": "0.2"}, "row 5: the probabilities do not sum to 1: '1.1'"),
        (SOFT, {"p_bee": "-0.1"}, "row 5: not a number of 0 or more in 'p_bee': '-0.1'"),
        (SOFT, {"p_bee": "nan"}, "row 5: not a number of 0 or more in 'p_bee': 'nan'"),
        (SOFT, {"p_bee": ""}, "row 5: an empty cell in 'p_bee'"),
        ({"weight": "weight"}, {"weight": "1e99999"}, "row 5: not a number of 0 or more in 'weight': '1e99999'"),
        ({"weight": "weight"}, {"weight": "1e39"}, "row 5: not a number of 0 or more in 'weight': '1e39'"),
        ({**SOFT, "separator": ";"}, {}, "^data.source.separator=;: each column is a class"),
        ({**SOFT, "label": ["p_ant", "p_bee", "p_bee"]}, {}, "name each column once"),
        ({"weight": "weight"}, {"weight": "-2"}, "row 5: not a number of 0 or more in 'weight': '-2'"),
        ({"weight": "mass"}, {}, "has no column 'mass'"),
    ],
)
def test_wrong_probabilities_and_weights_name_the_row(folder, options, cells, message):
    with pytest.raises(ZooError, match=message):
        table(write(folder / "labels.csv", changed(rated(folder), 3, **cells)), **options)


def test_a_training_uses_soft_labels_and_weights(zoo, folder):
    small = ("model=googlenet", "model.norm=batch", "model.stem=small", "model.width=0.125", "data.image_size=32")
    small += ("data=table", "data.batch_size=12", "trainer=smoke", "trainer.precision=32-true", "optimizer.lr=0")
    losses = {}
    for name, probabilities, weight in (("hard", (1, 0, 0), 1), ("heavy", (1, 0, 0), 4), ("soft", (0.5, 0.25, 0.25), 1)):
        rows = rated(folder, *probabilities, weight=str(weight))
        place = write(folder / f"{name}.csv", rows)
        columns = "data.source.label=[p_ant,p_bee,p_wasp]", "data.source.probabilities=true", "data.source.weight=weight"
        done = zoo(*small, f"data.root={place}", *columns, "data.split.val=0.2", f"hydra.run.dir={name}")
        assert done.returncode == 0 and "could not log" not in done.stdout + done.stderr, done.stderr
        losses[name] = read_results(folder.parent / name)["train/loss"]
    assert losses["heavy"] == pytest.approx(4 * losses["hard"], rel=1e-6)
    assert abs(losses["soft"] - losses["hard"]) > 1e-3
    done = zoo(*small, f"data.root={place}", *columns[:2], "loss=bce", "data.split.val=0.2")
    assert done.returncode == 2 and "loss: the data has one label for each image" in done.stderr
    done = zoo(*small, f"data.root={place}", *columns, "augmentation=light", "augmentation.mixup=0.2", "data.split.val=0.2")
    assert done.returncode == 2 and "data.source.weight=weight cannot be combined with mixup and cutmix" in done.stderr
    done = zoo("ckpt=last", "hydra.run.dir=soft", "+data.source.weight=null", "trainer.max_epochs=2")
    assert done.returncode == 2 and "was trained with data.source.weight=weight" in done.stderr
