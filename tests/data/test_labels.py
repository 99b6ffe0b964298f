"""Several labels for each image: tables, splits and balanced epochs."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tools.examples import examples

from inception_zoo import ZooError
from inception_zoo.data import Files
from inception_zoo.data.division import divide
from inception_zoo.data.labels import balanced, counts_of, names_of, strata
from inception_zoo.data.layout import count_classes
from inception_zoo.data.samplers import REPEAT_OFFSET, Order
from inception_zoo.data.source import Source
from inception_zoo.data.table import table

NAMES = ("edema", "mass", "nodule")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows_of(count):
    draw = np.random.default_rng(0)
    sets = [[name for name, share in zip(NAMES, (0.5, 0.3, 0.2), strict=True) if draw.random() < share] for _ in range(count)]
    return [
        {"path": f"{number}.png", "findings": "|".join(names), **{name: int(name in names) for name in NAMES}}
        for number, names in enumerate(sets)
    ]


def write(folder, rows, name="labels.csv"):
    for row in rows:
        if not (path := folder / row["path"]).exists():
            Image.new("L", (8, 8), 100).save(path)
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)
    return str(folder / name)


def test_names_in_a_cell_and_columns_of_0_and_1_are_the_same_labels(tmp_path, caplog):
    rows = rows_of(40)
    path = write(tmp_path, rows)
    with caplog.at_level("INFO"):
        cells = table(path, label="findings", separator="|")
    columns = table(path, label=NAMES)
    assert cells.classes == columns.classes == list(NAMES) and count_classes(path, "findings", "|") == count_classes(
        path, NAMES
    )
    assert torch.equal(cells.train.labels, columns.train.labels) and cells.train.labels.shape == (40, 3)
    by_path = {row["path"]: row["findings"].replace("|", "; ") for row in rows}
    named = dict(zip(cells.train.paths.tolist(), names_of(cells.train.labels, NAMES), strict=True))
    assert named == by_path
    without = sum(not row["findings"] for row in rows)
    assert f"{without} images without labels" in caplog.text and without
    assert table(path, label=["mass", "edema"]).classes == ["mass", "edema"]  # in the order of the columns


@pytest.mark.parametrize(
    ("cells", "label", "separator", "message"),
    [
        ({"mass": "-1"}, NAMES, None, "row 4: not 0 or 1 in 'mass', a column of data.source.label: '-1'"),
        ({"mass": ""}, NAMES, None, "row 4: not 0 or 1 in 'mass'"),
        ({}, NAMES, "|", "separator=|: each column is a class"),
        ({}, ["mass", "mass"], None, "name each column once"),
        ({}, ["mass", "none"], None, "has no column 'none'"),
        ({}, ["mass", "path"], None, "is the column of the paths and of the classes"),
        ({}, "findings", None, "an empty cell in 'findings'"),
    ],
)
def test_mistakes_name_the_row_or_the_option(tmp_path, cells, label, separator, message):
    rows = rows_of(12)
    rows[2] |= cells
    with pytest.raises(ZooError, match=message.replace("|", r"\|")):
        table(write(tmp_path, rows), label=label, separator=separator)


def test_a_split_has_the_shares_of_the_labels_and_the_table_names_them(tmp_path):
    source = table(write(tmp_path, rows_of(200)), label=NAMES)
    parts = divide(source, {"val": 0.2, "test": None}, 1, tmp_path)
    for part in parts.values():
        shares = part.labels.mean(0)
        assert (shares - source.train.labels.mean(0)).abs().max() < 0.08
    with (tmp_path / "split.csv").open() as file:
        listed = {row["path"]: row["class"] for row in csv.DictReader(file)}
    expected = dict(zip(source.train.paths.tolist(), names_of(source.train.labels, NAMES), strict=True))
    assert listed == expected


@examples(30)
@given(st.integers(0, 10**6), st.integers(20, 80), st.integers(2, 4))
def test_whole_groups_with_several_labels(seed, groups, classes):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 5, groups)
    names = np.array([f"p{number}" for number in range(groups)]).repeat(sizes)
    labels = torch.from_numpy((draw.random((len(names), classes)) < 0.5).astype(np.float32))
    files = Files(None, np.array([f"{row}.png" for row in range(len(names))]), labels, groups=names)
    parts = divide(Source("table", files, None, list(map(str, range(classes)))), {"val": 0.2, "test": 0.2}, 1)
    assert sum(map(len, parts.values())) == len(names)
    found = [{*part.groups.tolist()} for part in parts.values()]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    assert all(counts_of(part.labels).min() > 0 for part in parts.values())


def test_an_image_belongs_to_its_rarest_label():
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]]).float()
    assert strata(labels).tolist() == [0, 1, 2, 3, 0] and strata(torch.tensor([2, 0])).tolist() == [2, 0]


@examples(40)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_an_epoch_has_as_many_images_of_each_class(seed, sizes):
    classes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows, repeats = balanced(classes, torch.Generator().manual_seed(seed))
    assert len(rows) == len(classes)
    counts = classes[rows].bincount(minlength=len(sizes))
    assert counts.max() - counts.min() <= 1
    pairs = {*zip(rows.tolist(), repeats.tolist(), strict=True)}
    assert len(pairs) == len(rows)  # a repeated image is another view
    for label, size in enumerate(sizes):
        drawn = rows[classes[rows] == label].bincount(minlength=len(classes))[classes == label]
        assert drawn.max() - drawn.min() <= 1 and drawn.sum() == counts[label], size


@pytest.mark.parametrize("world", [1, 2, 3])
def test_balanced_epochs_are_divided_exactly_and_begin_anywhere(world):
    labels = torch.tensor([0] * 20 + [1] * 4)
    files = Files(None, np.array([f"{row}.png" for row in range(24)]), labels)

    def order(rank, of=world, epoch=3, begun=0):
        return list(Order(files, 2, of, rank, 7, epoch, begun, classes=labels))

    one = order(0, of=1)
    assert sorted(index for rank in range(world) for index in order(rank)) == sorted(one)
    assert all(order(rank, begun=2) == order(rank)[4:] for rank in range(world))
    rows = torch.tensor(one) % 24
    assert labels[rows].bincount().tolist() == [12, 12] and order(0, epoch=4) != one
    assert len({*one}) == 24 and max(one) >= REPEAT_OFFSET * 24  # a repeated image has another index, and so another view
