"""Data sets of files: image folders, ImageNet and CIFAR, with the error messages for missing or corrupt files."""

import io
import json
import os
import pickle
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms import v2

from inception_zoo import ZooError
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data import Augmentation, inspection
from inception_zoo.data.cifar import cifar10, cifar100
from inception_zoo.data.imagefolder import imagefolder
from inception_zoo.data.imagenet import imagenet
from inception_zoo.data.inspection import inspect, treat_bad
from inception_zoo.data.layout import count_classes
from inception_zoo.data.reading import _jpeg, fault, read_image
from inception_zoo.errors import TREE


def picture(path, mode="RGB", size=(12, 10), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def blurred(width, height):
    small = np.random.default_rng(0).integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def tree(root, *splits, classes=("cat", "dog"), each=2):
    for split in splits:
        for name in classes:
            for index in range(each):
                picture(root / split / name / f"{index}.jpg", seed=index)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "inception_zoo"


@pytest.fixture
def root(tmp_path):
    return tree(tmp_path / "data", "train", "val", "test")


@pytest.fixture
def decoded(monkeypatch):
    """Record the names of decoded files; a test may clear the list."""
    names = []

    def counting(path):
        names.append(path.name)
        return fault(path)

    monkeypatch.setattr(inspection, "fault", counting)
    return names


def message(call, *arguments):
    with pytest.raises(ZooError) as error:
        call(*arguments)
    text = str(error.value)
    assert "\n" not in text.removesuffix(TREE)
    return text


def read(root):
    """Read an image folder as with data.on_bad_file=error, without a run folder."""
    treat_bad(source := imagefolder(root), "error", root)
    return source


# Folders


def test_labels_count_the_sorted_folders_of_training(root):
    picture(root / "train/cat/deeper/still/a.PNG")
    data = imagefolder(str(root))
    assert data.name == "imagefolder" and data.classes == ["cat", "dog"]
    assert data.train.paths.tolist() == ["cat/0.jpg", "cat/1.jpg", "cat/deeper/still/a.PNG", "dog/0.jpg", "dog/1.jpg"]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1] and data.train.labels.dtype == torch.int64
    assert data.train.paths.dtype.kind == "U"
    assert (data.val.root, data.test.root) == (root / "val", root / "test")
    for split in (data.train, data.val, data.test):
        assert all((split.root / str(path)).is_file() for path in split.paths)
    data.check(2, 3)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_split_without_a_folder_is_none(name, tmp_path):
    data = imagefolder(str(tree(tmp_path / "data", "train", name)))
    assert data.test is None and data.val.root.name == name
    data = imagefolder(str(tree(tmp_path / "other", "train", "test")))
    assert data.val is None and data.test.root.name == "test"


def test_class_folders_without_splits(tmp_path):
    root = tree(tmp_path / "photos", ".", classes=("cat", "dog", "test"))
    (root / "readme.txt").write_text("")
    data = imagefolder(str(root))
    assert data.classes == ["cat", "dog", "test"] and count_classes(str(root)) == 3
    assert data.train.root == root and data.train.paths.tolist()[:3] == ["cat/0.jpg", "cat/1.jpg", "dog/0.jpg"]
    assert data.val is None and data.test is None


def test_links_and_what_is_no_image_are_fine(root, tmp_path):
    for name in ("train/cat/.DS_Store", "train/.DS_Store", "train/cat/._0.jpg", "train/readme.txt", "val/dog/labels.csv"):
        (root / name).write_bytes(b"no image")
    (root / ".git").mkdir()
    for split in ("train", "val", "test"):
        picture(tmp_path / "elsewhere" / split / "a.jpg")
        (root / split / "eel").symlink_to(tmp_path / "elsewhere" / split)
    data = imagefolder(str(root))
    assert data.classes == ["cat", "dog", "eel"] and data.train.paths.tolist()[-1] == "eel/a.jpg"
    assert len(data.train) == 5


def test_every_kind_of_picture_is_fine(root):
    for mode, name in (("L", "l.jpg"), ("L", "l.png"), ("RGBA", "a.png"), ("CMYK", "c.jpg"), ("P", "p.gif"), ("1", "1.png")):
        picture(root / "train/cat" / name, mode)
    Image.fromarray(np.full((9, 8), 50_000, np.uint16)).save(root / "train/cat/deep.png")
    Image.new("RGB", (5, 3)).save(root / "train/cat/smaller-than-a-block.jpg")
    data = imagefolder(str(root))
    for path in data.train.paths:
        for channels in (1, 3):
            assert read_image(data.train.root / str(path), channels).shape[0] == channels


def test_names_that_are_no_text(root):
    name = os.fsdecode(b"\xff.jpg")
    picture(root / "train/cat/a.jpg")
    (root / "train/cat/a.jpg").rename(root / "train/cat" / name)
    assert f"cat/{name}" in imagefolder(str(root)).train.paths
    (root / "train/cat" / name).write_bytes(b"")
    assert "1 of 13 images" in message(read, str(root))


MISTAKES = {
    "nothing": (
        lambda root: root.rename(root.parent / "moved"),
        "data cannot be read: No such file or directory; set data.root=FOLDER",
    ),
    "no classes": (lambda root: empty(root / "train"), "train has no class folders", TREE),
    "no training": (lambda root: (root / "train").rename(root / "Train"), "data has no class folders", TREE),
    "two validations": (lambda root: (root / "valid").mkdir(), "has both val and valid; keep one of them"),
    "a hidden class": (lambda root: picture(root / "val/.ipynb_checkpoints/a.jpg"), "val/.ipynb_checkpoints is a hidden"),
    "a hidden folder": (lambda root: (root / "train/cat/.thumbs").mkdir(), "train/cat/.thumbs is a hidden folder"),
    "a loose image": (lambda root: picture(root / "train/a.jpg"), "train/a.jpg is not in a class folder"),
    "a loose test": (lambda root: picture(root / "test/a.jpg"), "test/a.jpg is not in a", "without labels is not supported"),
    "an empty class": (lambda root: empty(root / "train/dog"), "train/dog has no images"),
    "a class too few": (lambda root: empty(root / "val/dog").rmdir(), "val has no images of class 'dog'"),
    "a class too many": (lambda root: picture(root / "test/eel/a.jpg"), "test has a class 'eel'", "train does not have"),
    "a circle": (lambda root: (root / "train/cat/again").symlink_to(root / "train"), "cat/again links to a folder"),
    "a link to itself": (lambda root: (root / "train/eel").symlink_to("eel"), "train/eel cannot be read: Too many levels"),
}


def empty(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return folder


@pytest.mark.parametrize("case", MISTAKES)
def test_a_wrong_layout_is_named_before_anything_is_decoded(case, root, decoded):
    mistake, *words = MISTAKES[case]
    mistake(root)
    said = message(imagefolder, str(root))
    assert all(word in said for word in words), said
    assert decoded == []


# Files


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"quality": 20}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_has_the_pixels_that_pil_gives(mode, options, tmp_path):
    path, channels = tmp_path / "a.jpg", len(mode)
    Image.fromarray(blurred(61, 47)).convert(mode).save(path, **options)
    expected = torch.from_numpy(np.array(Image.open(path))).view(47, 61, channels).permute(2, 0, 1)
    assert torch.equal(_jpeg(io.BytesIO(path.read_bytes()), channels), expected) and torch.equal(
        read_image(path, channels), expected
    )


@pytest.mark.parametrize(
    ("orientation", "size", "how"),
    [
        (1, (399, 301), "bilinear"),
        (1, (399, 301), "bicubic"),
        (6, (400, 304), "bilinear"),
        (3, (399, 301), "bilinear"),  # this case and the next are decoded at full scale
        (1, (399, 301), "nearest"),
    ],
)
def test_a_part_of_a_large_jpeg_is_that_of_the_whole(orientation, size, how, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(blurred(*size)).save(tmp_path / "a.jpg", exif=exif)
    read = partial(read_image, tmp_path / "a.jpg", 3)
    augmentation, square = Augmentation(v2.RandomResizedCrop(48)), Preprocessing(48, (0.5,) * 3, (0.5,) * 3, 48, how)
    augmentation.interpolate(how)
    same = 0
    for seed in range(24):
        torch.manual_seed(seed)
        found = augmentation.of_picture(read, square)
        torch.manual_seed(seed)
        expected = augmentation.crop(read())
        assert (found.float() - expected.float()).abs().mean() < 3  # a box shifted by one pixel differs by more than 5
        same += torch.equal(found, expected)
    assert same == 24 if how == "nearest" or orientation == 3 else 0 < same < 12


def test_every_bad_file_is_found_in_one_pass(root, cache):
    picture(root / "train/cat/cut.jpg", size=(60, 60))
    (root / "train/cat/cut.jpg").write_bytes((root / "train/cat/cut.jpg").read_bytes()[:-100])
    (root / "train/dog/empty.png").write_bytes(b"")
    (root / "val/dog/text.png").write_text("no image")
    (root / "test/cat/lost.jpg").symlink_to(root / "nowhere.jpg")
    Image.fromarray(np.zeros((1, 60_000), np.uint8)).save(root / "test/dog/thin.png")
    said = message(read, str(root))
    (report,) = cache.glob("*.txt")
    assert said.startswith(
        f"data.root={root}: 5 of 17 images cannot be read; repair or delete them, or set data.on_bad_file=skip: "
    )
    assert said.endswith(f", …; full list: {report}")
    bad = [
        "train/cat/cut.jpg: not a valid image, or corrupt (OSError)",
        "train/dog/empty.png: is empty",
        "val/dog/text.png: not a valid image, or corrupt (UnidentifiedImageError)",
        "test/cat/lost.jpg: no such file",
        "test/dog/thin.png: one side is more than 100 times the other",
    ]
    assert report.read_text().splitlines() == [f"{root}/{line}" for line in bad]
    assert ", ".join(f"{root}/{line}" for line in bad[:3]) in said and bad[3] not in said


def test_a_bomb_is_not_decoded(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # the pictures have 120 pixels
    assert "0.jpg: more than 50 pixels" in message(read, str(root))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_quick_look_finds_every_cut(mode, options, tmp_path):
    """Checking a truncated JPEG at an eighth of its size finds every error that full decoding finds."""
    path, whole = tmp_path / "cut.jpg", io.BytesIO()
    gradient = np.linspace(0, 255, 3 * 40 * 50).reshape(40, 50, 3).astype(np.uint8)
    Image.fromarray(gradient).convert(mode).save(whole, "JPEG", **options)
    length = len(whole.getvalue())
    for end in [*range(0, length, 13), *range(length - 20, length + 1)]:
        path.write_bytes(whole.getvalue()[:end])
        try:
            read_image(path, 3)
        except ZooError as error:
            assert f"{path}: {fault(path)}" == str(error)
        else:
            assert fault(path) is None and end > length - 3  # only the end marker is missing; all pixels are there


def test_the_next_start_decodes_what_is_new_changed_or_bad(root, decoded, cache):
    read(str(root))
    assert len(decoded) == 12
    decoded.clear()
    read(str(root))
    assert decoded == []
    picture(root / "train/cat/new.jpg")
    picture(root / "val/dog/0.jpg", size=(20, 20))
    (root / "val/dog/1.jpg").rename(root / "val/dog/moved.jpg")
    os.utime(root / "test/cat/0.jpg", (1, 1))
    (root / "train/dog/1.jpg").write_bytes(b"")
    for expected in (["0.jpg", "0.jpg", "1.jpg", "moved.jpg", "new.jpg"], ["1.jpg"]):
        assert "train/dog/1.jpg: is empty" in message(read, str(root))
        assert sorted(decoded) == expected
        decoded.clear()
    picture(root / "train/dog/1.jpg", size=(13, 13))
    read(str(root))
    assert decoded == ["1.jpg"]


def test_the_same_folder_by_another_path_is_known(root, decoded, tmp_path, monkeypatch):
    read(str(root))
    decoded.clear()
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root)
    for name in (tmp_path / "link", Path(), "../data"):
        assert read(str(name)).train.paths.tolist() == ["cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg"]
    assert decoded == []


@pytest.mark.parametrize("damage", [b"", b"\xff" * 11, None])
def test_a_damaged_cache_is_not_believed(damage, root, decoded, cache):
    read(str(root))
    (good,) = cache.glob("*.good")
    decoded.clear()
    if damage is None:
        good.unlink()
        good.mkdir()
    else:
        good.write_bytes(damage)
    read(str(root))
    assert len(decoded) == 12


def test_a_cache_that_cannot_be_written_is_done_without(root, decoded, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    read(str(root))
    (root / "train/dog/1.jpg").write_bytes(b"")
    said = message(read, str(root))
    assert len(decoded) == 24 and said.endswith("1.jpg: is empty")


def test_an_interrupted_check_goes_on_where_it_was(root, monkeypatch):
    monkeypatch.setattr(inspection, "CHUNK", 1)
    seen, broken = [], {root / "test/dog/0.jpg"}

    def interrupted(path):
        seen.append(path)
        if path in broken:
            raise KeyboardInterrupt
        return fault(path)

    monkeypatch.setattr(inspection, "fault", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(str(root))
    seen.clear()
    broken.clear()
    read(str(root))
    assert {path.relative_to(root).as_posix() for path in seen} == {"test/dog/0.jpg", "test/dog/1.jpg"}


def test_many_files_have_a_bar_on_a_terminal_only(root, monkeypatch, capsys):
    monkeypatch.setattr(inspection, "MANY", 3)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    read(str(root))
    assert capsys.readouterr() == ("", "")
    for path in root.rglob("*.jpg"):
        os.utime(path, (1, 1))
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then behaves as in a terminal
    read(str(root))
    out, err = capsys.readouterr()
    assert out == "" and "checking images" in err


def test_classes_are_counted_without_torch(root):
    (root / "train/.hidden").mkdir()
    (root / "train/readme.txt").write_text("")
    assert count_classes(str(root)) == 2
    assert count_classes(str(root / "train")) == 2 and count_classes(str(root / "none")) == count_classes(None) == 0
    code = "import sys, inception_zoo.data.layout; print({'torch', 'numpy', 'PIL'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


# ImageNet

TENCH, CRANE, MACHINE = "n01440764", "n02012849", "n03126707"
IDS = (TENCH, CRANE, MACHINE)
MAPPING = f"{TENCH} tench, Tinca tinca\n{CRANE} crane\n{MACHINE} crane\nn09999999 more, that the folder has not\n"
INDEX = json.dumps({"0": [TENCH, "great_white_shark"], "1": [CRANE, "crane"], "2": [MACHINE, "crane"]})
CRANES = [f"crane ({CRANE})", f"crane ({MACHINE})"]


@pytest.mark.parametrize(
    ("file", "text", "names"),
    [
        ("nothing.txt", "", list(IDS)),
        ("LOC_synset_mapping.txt", MAPPING, ["tench", *CRANES]),
        ("words.txt", MAPPING.replace(" ", "\t", 1).replace("\nn", "\n\nn"), ["tench", *CRANES]),
        ("words.txt", f"{CRANE}\tcrane, bird\n", [TENCH, "crane", MACHINE]),
        ("imagenet_class_index.json", INDEX, ["great white shark", *CRANES]),
    ],
)
def test_imagenet_is_named_by_its_words(file, text, names, tmp_path):
    root = tree(tmp_path / "data", "train", "val", classes=IDS)
    (root / file).write_text(text)
    data = imagenet(str(root))
    assert data.name == "imagenet" and data.classes == names and data.test is None


def kaggle(root, solution=True):
    """Create a folder like Kaggle's archive: validation images in one folder with a label table, test images without labels."""
    inner = root / "ILSVRC/Data/CLS-LOC"
    tree(inner, "train", classes=IDS)
    rows = ["ImageId,PredictionString"]
    for index, name in enumerate((CRANE, TENCH, MACHINE, TENCH)):
        picture(inner / "val" / f"ILSVRC2012_val_{index:08}.JPEG")
        rows.append(f"ILSVRC2012_val_{index:08},{name} 85 1 499 272 {name} 1 2 3 4 ")
    picture(inner / "test/ILSVRC2012_test_00000001.JPEG")
    if solution:
        (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    return root


def test_kaggles_archive_is_read_as_it_is(tmp_path):
    root = kaggle(tmp_path / "data")
    data = imagenet(str(root))
    assert data.train.root == root / "ILSVRC/Data/CLS-LOC/train" and data.test is None
    assert data.val.labels.tolist() == [0, 0, 1, 2]
    assert [path[-6:] for path in data.val.paths] == ["1.JPEG", "3.JPEG", "0.JPEG", "2.JPEG"]
    assert count_classes(str(root)) == 3


IMAGENET_MISTAKES = {
    "no solution": (lambda root: (root / "LOC_val_solution.csv").unlink(), "put Kaggle's LOC_val_solution.csv into"),
    "another table": (lambda root: (root / "LOC_val_solution.csv").write_text("a,b\n1,2\n"), "solution.csv: not Kaggle's"),
    "bytes": (lambda root: (root / "LOC_val_solution.csv").write_bytes(b"\xff\xfe\0"), "solution.csv: not Kaggle's"),
    "an image more": (lambda root: picture(inner(root) / "val/more.JPEG"), "val/more.JPEG is not in a class folder, and its"),
    "another class": (lambda root: (inner(root) / "train/cats").mkdir(), "cats is not an ImageNet", "set data=imagefolder"),
    "no such class": (lambda root: move(inner(root) / "train", TENCH, "n00000001"), "val has no images", "n00000001"),
    "no names": (lambda root: (root / "imagenet_class_index.json").write_text("[1, 2]"), "class_index.json: no class names"),
}


def inner(root):
    return root / "ILSVRC/Data/CLS-LOC"


def move(folder, old, new):
    (folder / old).rename(folder / new)


@pytest.mark.parametrize("case", IMAGENET_MISTAKES)
def test_what_is_no_imagenet_is_named(case, tmp_path):
    root = kaggle(tmp_path / "data")
    mistake, *words = IMAGENET_MISTAKES[case]
    mistake(root)
    said = message(imagenet, str(root))
    assert all(word in said for word in words), said


def test_a_class_in_a_folder_and_beside_it(tmp_path):
    root = kaggle(tmp_path / "data")
    picture(inner(root) / "val" / CRANE / "a.jpg")
    solution = {path.stem: CRANE for path in (inner(root) / "val").glob("*.JPEG")}
    assert f"images of class '{CRANE}' both inside and outside" in message(
        inspect, "imagenet", root, ("train", "val"), solution
    )


# CIFAR


def write_cifar(root, dataset, labels, names, each=4):
    """Write CIFAR's real format: pickled rows of 3072 bytes, red channel first."""
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    for number, (name, _) in enumerate(dataset.train_list + dataset.test_list):
        rows = np.random.default_rng(number).integers(0, 256, (each, 3072), dtype=np.uint8)
        rows[:, :1024], rows[:, 2048:] = 255, number
        (folder / name).write_bytes(pickle.dumps({"data": rows, labels: [(number + i) % 10 for i in range(each)]}))
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps({dataset.meta["key"]: names}))


@pytest.fixture
def any_md5(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.mark.parametrize(
    ("read", "dataset", "labels", "files"), [(cifar10, CIFAR10, "labels", 5), (cifar100, CIFAR100, "fine_labels", 1)]
)
def test_cifar_is_read_from_its_pickles(read, dataset, labels, files, tmp_path, any_md5, capsys):
    names = [f"class {index}" for index in range(10)]
    write_cifar(tmp_path, dataset, labels, names)
    data = read(str(tmp_path))
    assert data.name == read.__name__ and data.classes == names and data.val is None
    assert data.train.images.shape == (4 * files, 3, 32, 32) and data.test.images.shape == (4, 3, 32, 32)
    assert data.train.images.dtype == torch.uint8 and data.train.images.is_contiguous()
    assert (data.train.images[:, 0] == 255).all() and (data.test.images[:, 2] == files).all()
    assert data.train.labels[:4].tolist() == [0, 1, 2, 3] and len(data.train.labels) == 4 * files
    assert data.test.labels.tolist() == [files + i for i in range(4)] and data.test.labels.dtype == torch.int64
    data.check(10, 3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize(("read", "archive"), [(cifar10, "cifar-10-python.tar.gz"), (cifar100, "cifar-100-python.tar.gz")])
def test_without_cifar_and_without_a_network_one_line_tells_what_to_do(damaged, read, archive, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # an opener caches the proxies of earlier requests
    if damaged:
        write_cifar(tmp_path, {cifar10: CIFAR10, cifar100: CIFAR100}[read], "labels", [])  # MD5 sums differ
        (tmp_path / archive).write_bytes(b"half an archive")
    said = message(read, str(tmp_path))
    assert said.startswith(f"data.root={tmp_path}: {read.__name__} is missing or damaged, and the download failed (")
    assert "Connection refused" in said and f"put {archive} into {tmp_path}" in said


def test_a_damaged_pickle_is_one_line(tmp_path, any_md5):
    write_cifar(tmp_path, CIFAR10, "labels", [])
    (tmp_path / CIFAR10.base_folder / "data_batch_3").write_bytes(b"\x80\x04no pickle")
    assert "delete cifar-10-batches-py there" in message(cifar10, str(tmp_path))


def test_a_folder_beside_those_of_the_splits_is_named(tmp_path, caplog):
    for path in ("train/cat/1.png", "train/dog/1.png", "val/cat/2.png", "val/dog/2.png", "testing/cat/3.png"):
        picture(tmp_path / path)
    imagefolder(str(tmp_path))
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: not used: the folders testing beside train"]
