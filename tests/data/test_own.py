"""Datasets of the user's own code as `data.source`."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from inception_zoo import ZooError
from inception_zoo.config.explain import explain_all
from inception_zoo.data import Augmentation, ImageData, Images, Source
from inception_zoo.data.own import load_source


def picture(number, side=10):
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


KINDS = {
    "PIL": lambda number: Image.fromarray(picture(number)),
    "array": picture,
    "tensor": lambda number: torch.from_numpy(picture(number)).permute(2, 0, 1),
}


class Photos(Dataset):
    def __init__(self, kind="PIL", count=40, shift=0):
        self.kind, self.count, self.shift = kind, count, shift

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        if not 0 <= row < self.count:
            raise IndexError(row)
        return KINDS[self.kind](row), row % 2


class Named(Photos):
    classes = ("cat", "dog")

    def __init__(self, root):
        super().__init__()
        self.targets = [row % 2 for row in range(40)]
        self.samples = [(f"{root}/{row}.jpg", row % 2) for row in range(40)]


class Endless(IterableDataset):
    def __iter__(self):
        yield from ()


def module(source, **more):
    options = {"seed": 1, "workers": 0, "split": {"val": 0.1}, **more}
    return ImageData(source, 2, 3, 8, 8, mean=[0.5] * 3, std=[0.5] * 3, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_each_kind_have_the_same_pixels(kind):
    data = module(partial(Photos, kind))
    data.setup()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert data.classes == ["0", "1"]
    images, labels = next(iter(data.test_dataloader()))
    expected = module(partial(Photos, "tensor"))
    expected.setup()
    assert (
        images.equal(next(iter(expected.test_dataloader()))[0]) and labels.tolist() == data.splits["test"].labels[:1].tolist()
    )
    row = int(data.source_of("test", 0))
    read = data.splits["test"].read(0, 3)
    assert read().permute(1, 2, 0).numpy().tolist() == picture(row).tolist() and row % 2 == data.splits["test"].labels[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_views_depend_on_seed_epoch_and_row_only(workers):
    from torchvision.transforms import v2

    crops = Augmentation(v2.RandomResizedCrop(8), {"flip": v2.RandomHorizontalFlip()})
    data = module(Photos, augmentation=crops, workers=workers)
    data.setup()
    views = torch.cat([images for images, _ in data.batches("train", [[0, 1], [33, 5]], training=True)])
    again = torch.cat([images for images, _ in data.batches("train", [[5, 33], [1, 0]], training=True)])
    assert views.equal(again[[3, 2, 1, 0]]) and not views[1].equal(views[2])  # row 1 in epochs 0 and 1


def test_names_and_paths_of_a_dataset_like_torchvisions():
    source = load_source(Named, "photos")
    assert (source.name, source.classes) == ("Named", ["cat", "dog"]) and source.val is None and source.test is None
    assert source.train.paths[:2].tolist() == ["photos/0.jpg", "photos/1.jpg"]
    data = module(Named, root="photos", classes=[1, 0])
    data.setup()
    assert data.classes == ["dog", "cat"]
    path = data.source_of("val", 0)
    assert data.splits["val"].labels[0] == 1 - int(Path(path).stem) % 2


def test_a_mapping_of_splits():
    data = module(lambda: {"train": Photos(), "val": Photos(count=6)}, split={"val": None})
    data.setup()
    assert data.splits["val"] is data.splits["test"] and len(data.splits["train"]) == 40
    own = Source("own", Images(torch.zeros(9, 3, 8, 8, dtype=torch.uint8), torch.arange(9) % 2), None, [])
    assert load_source(lambda: own, None) is own


class Targets(Photos):
    targets = tuple(1 for _ in range(40))


class Text(Photos):
    def __getitem__(self, row):
        return KINDS["PIL"](row), "cat"


class Other(Photos):
    classes = ("cat",)


MISTAKES = {
    "nothing": (lambda: None, "returned NoneType; expected a Dataset with __len__ and __getitem__"),
    "a stream": (Endless, "returned Endless; expected .*not an IterableDataset"),
    "no images": (list, "returned list; expected .*Dataset"),
    "no label": (lambda: [KINDS["PIL"](0)], "item 0 has the type Image; expected a pair"),
    "floats": (lambda: [(torch.rand(3, 8, 8), 0)], "item 0 has the type Tensor; expected .*a uint8 tensor .*without ToTensor"),
    "paths": (lambda: [("a.jpg", 0)], "item 0 has the type str; expected"),
    "other keys": (lambda: {"training": Photos()}, "has the keys training; expected train, and optionally val and test"),
    "other targets": (Targets, "the labels must be whole numbers from 0, in `targets` or `samples` the same as in the items"),
    "words": (Text, "the labels must be whole numbers from 0"),
    "other classes": (lambda: {"train": Other(), "val": Photos()}, "`classes` differs between train, val; make it the same"),
    "a missing argument": (Named, "data.root=null: missing a required argument: 'root'; set data.root, or"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_is_no_dataset_is_named_with_what_is_expected(case):
    source, message = MISTAKES[case]
    with pytest.raises(ZooError, match=rf"^data.source=\S+[:,] .*{message}") as error:
        load_source(source, None)
    assert "\n" not in str(error.value)


def test_channels_and_classes_are_checked():
    gray = [(torch.zeros(1, 8, 8, dtype=torch.uint8), row % 2) for row in range(40)]
    with pytest.raises(ZooError, match=r"data.in_channels=3: .* has 1 image channels; set data.in_channels=1"):
        module(lambda: gray).setup()
    with pytest.raises(ZooError, match=r"data.num_classes=2: .* has 3 classes; set data.num_classes=3"):
        module(lambda: [(pixels, 2 * label) for pixels, label in gray]).setup()
    mixed = [(torch.zeros(3, 8, 8, dtype=torch.uint8), 0), *[(torch.zeros(1, 8, 8, dtype=torch.uint8), 1)] * 39]
    data = module(lambda: mixed, split={"val": 4})
    data.setup()
    with pytest.raises(ZooError, match=r"image \d+ is not uint8 with 3 channels"):
        list(data.train_dataloader())


class Broken(Photos):
    def __getitem__(self, row):
        if row == 13:
            raise OSError("image file is truncated\n(2 bytes)")
        return super().__getitem__(row)


class BrokenFiles(Broken):
    def __init__(self):
        super().__init__()
        self.imgs = [(f"photos/{row}.jpg", row % 2) for row in range(40)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_raises_is_named_in_one_line(workers):
    name, reason = f"data.source={__name__}.Broken", r"OSError: image file is truncated \(2 bytes\)$"
    with pytest.raises(ZooError, match=rf"^{name}: item 13: {reason}"):  # when labels are read
        load_source(Broken, None)
    data = module(BrokenFiles, workers=workers)
    data.setup()  # the labels are those of `imgs`
    split = next(split for split in data.splits if "photos/13.jpg" in data.splits[split].paths)
    with pytest.raises(ZooError) as error:
        list(data.batches(split, [[row] for row in range(len(data.splits[split]))]))
    assert re.search(rf"^{name}Files: item 13 \(photos/13.jpg\): {reason}", explain_all(error.value)[0])


PARTS = """
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset


class Photos(Dataset):
    def __init__(self, root):
        self.files = sorted(Path(root).glob("*.png"))
        self.samples = [(file, int(file.stem) % 2) for file in self.files]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        return Image.open(self.files[row]), int(self.files[row].stem) % 2
"""


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_on_an_own_dataset(devices, zoo, tmp_path):
    (tmp_path / "my_parts.py").write_text(PARTS)
    (tmp_path / "photos").mkdir()
    for number in range(40):
        Image.fromarray(picture(number)).save(tmp_path / f"photos/{number}.png")
    data = ["data=imagefolder", "data.source._target_=my_parts.Photos", "data.root=photos", "data.num_classes=2"]
    small = ["data.image_size=32", "data.batch_size=8", "model.width=0.25", "model.stem=medium", "trainer=smoke", "logger=csv"]
    small += ["trainer.limit_test_batches=null"]
    done = zoo(*data, *small, f"trainer.devices={devices}", "data.workers=1", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/results.json").read_text())["world_size"] == devices
    test = [line.split(",")[0] for line in (tmp_path / "run/split.csv").read_text().splitlines() if line.endswith(",test")]
    worst = [line.rsplit(",", 1)[1] for line in (tmp_path / "run/worst.csv").read_text().splitlines()[1:]]
    assert sorted(worst) == sorted(test) and len(test) == 4 and all((tmp_path / path).is_file() for path in test)
