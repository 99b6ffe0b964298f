"""Every reader of files × every kind of file: none waits for a pipe, reads a device, or ends with a traceback."""

import ast
import json
import os
import re
import shutil
import struct
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tools import hostile_files
from tools.hostile_files import KINDS, SPECIAL, chunks, image_folder, in_a_child, pictures, plant
from torchvision.datasets import CIFAR10, ImageFolder

import inception_zoo
from inception_zoo.data.cifar import cifar10
from inception_zoo.data.division import has_made_test
from inception_zoo.data.fashion_mnist import FILES, fashion_mnist
from inception_zoo.data.imagefolder import imagefolder
from inception_zoo.data.imagenet import imagenet
from inception_zoo.data.layout import count_classes
from inception_zoo.data.optimize import optimize_folder
from inception_zoo.data.own import load_source
from inception_zoo.data.reading import read_image
from inception_zoo.data.stream import stream
from inception_zoo.errors import ZooError
from inception_zoo.report.collect import read_run
from inception_zoo.runs.results import read_results
from inception_zoo.runs.sweeps import resumed, words_of
from inception_zoo.serving.classifier import open_classifier
from inception_zoo.serving.images import find_images
from inception_zoo.training.checkpoints import find_checkpoint, newest_whole
from inception_zoo.weights.files import read_weights


def images(*words):
    """Read the images that words on the command line name, as `predict` and the calibration of int8 do."""
    for path in find_images(list(map(str, words))):
        read_image(path, 3)


def own(root):
    images = load_source(ImageFolder, str(root)).train
    for index in range(len(images)):
        images.dataset(3, lambda read: read())[index]


def photos(root):
    for split in ("train", "val"):
        pictures(root / split)


def wordnet(root):
    photos(root)
    for split in ("train", "val"):
        for name, new in {"a": "n00000001", "b": "n00000002"}.items():
            (root / split / name).rename(root / split / new)


def flat_wordnet(root):
    wordnet(root)
    shutil.rmtree(root / "val")
    shutil.copytree(root / "train" / "n00000001", root / "val")


def packed(root):
    chunks(root / "made")
    (root / "made/set").rename(root / "set")


def run(root):
    (root / ".hydra").mkdir()
    (root / "results.json").write_text('{"state": "finished"}')
    (root / ".hydra/config.yaml").write_text("seed: 1\n")
    (root / ".hydra/overrides.yaml").write_text("[seed=1]")


def nothing(root):
    pass


CKPT = "checkpoints/last.ckpt"
READERS = {  # reader → (what writes the rest of the folder, the path that is replaced, what reads it)
    "training images": (photos, "train/a/0.jpg", image_folder),
    "validation images": (photos, "val/b/9.png", image_folder),
    "a folder without splits": (pictures, "a/9.jpeg", image_folder),
    "ImageNet": (wordnet, "train/n00000001/0.jpg", lambda root: hostile_files.treat_bad(imagenet(str(root)), "error", "x")),
    "ImageNet's labels": (flat_wordnet, "LOC_val_solution.csv", lambda root: imagenet(str(root))),
    "ImageNet's words": (wordnet, "words.txt", lambda root: imagenet(str(root))),
    "ImageNet's class index": (wordnet, "imagenet_class_index.json", lambda root: imagenet(str(root))),
    "a Dataset of the user": (pictures, "a/0.jpg", own),
    "a Dataset of the user, its last item": (pictures, "b/2.jpg", own),
    "an image by name": (nothing, "x.jpg", lambda root: images(root / "x.jpg")),
    "an image without a suffix": (nothing, "x", lambda root: images(root / "x")),
    "images in a folder": (pictures, "a/9.jpg", images),
    "images by a pattern": (pictures, "a/9.jpg", lambda root: images(root / "a" / "*.jpg")),
    **{f"weights in {suffix}": (nothing, f"w{suffix}", lambda root, name=f"w{suffix}": read_weights(root / name))
       for suffix in (".ckpt", ".pth", ".pth.tar", ".safetensors", ".h5", ".bin")},
    "an exported network": (nothing, "w.onnx", lambda root: open_classifier(str(root / "w.onnx"))),
    "a checkpoint": (nothing, "x.ckpt", lambda root: find_checkpoint(str(root / "x.ckpt"), "test", root, False)),
    "weights of a run": (nothing, CKPT, read_weights),
    "a checkpoint of a run": (nothing, CKPT, lambda root: newest_whole(root)),
    "Fashion-MNIST": (nothing, f"{FILES['train'][0]}.gz", lambda root: fashion(root)),
    "LitData's index": (packed, "set/train/index.json", lambda root: stream(str(root / "set"))),
    "LitData's chunks": (packed, "set/val/chunk-0-0.bin", lambda root: stream(str(root / "set"))),
    "a report's results": (run, "results.json", lambda root: read_run(root, "x")),
    "a report's config": (run, ".hydra/config.yaml", lambda root: read_run(root, "x")),
    "a report's overrides": (run, ".hydra/overrides.yaml", lambda root: read_run(root, "x")),
    "a report's curves": (run, "csv/version_0/metrics.csv", lambda root: read_run(root, "x")),
}  # fmt: skip
ABSENT = {  # readers for which any other kind is an absent file, or that read only what this package wrote
    "CIFAR": (nothing, CIFAR10.filename, lambda root: cifar10(str(root))),
    "classes.json": (nothing, "classes.json", lambda root: count_classes(str(root))),
    "results.json of a run": (nothing, "results.json", read_results),
    "overrides of a run": (nothing, ".hydra/overrides.yaml", words_of),
    "split.csv": (nothing, "split.csv", has_made_test),
    "sweep.json": (nothing, "sweep.json", lambda root: resumed([f"sweep.resume={root}"])),
}
# the folders are counted; another checkpoint is looked for; a warning says that the run counts as interrupted or not started
QUIET = ("classes.json", "a checkpoint of a run", "results.json of a run", "overrides of a run")


def fashion(root):
    for name in (name for pair in FILES.values() for name in pair):
        if not os.path.lexists(root / f"{name}.gz"):
            (root / f"{name}.gz").write_bytes(b"x")
    with patch("torchvision.datasets.FashionMNIST", side_effect=OSError("no network")):
        fashion_mnist(str(root))


def said(read, root):
    try:
        read(root)
    except ZooError as error:
        return str(error)
    return None


@pytest.mark.parametrize("reader", READERS | ABSENT)
def test_every_kind_of_file(reader, tmp_path, monkeypatch):
    make, name, read = (READERS | ABSENT)[reader]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "root"
    root.mkdir()
    make(root)

    def every():
        torch.set_num_threads(1)
        for kind in SPECIAL if reader in ABSENT else KINDS:
            print(f"{kind}: ", end="", flush=True)
            plant(root / name, kind)
            message = said(read, root)
            if kind in SPECIAL and reader not in QUIET:
                assert message and "\n" not in message and name.rpartition("/")[2] in message, f"{kind}: {message}"
                assert any(words in message for words in ("not a regular file", "links to a file outside")), (
                    f"{kind}: {message}"
                )
            assert not message or "\n" not in message.partition("images belong")[0], f"{kind}: {message}"

    status, error = in_a_child(every)
    assert status == 0, f"{status}: {error}"


CLASS_NAMES = {  # name of a class's folder → whether it is a class
    b"caf\xe9": False, b"\xff\xfe": False, b"a\nb": False, b"a\x1b[31m": False, b"a\tb": False,
    "caf\u00e9".encode(): True, b'a,"b\';=1': True, b"${seed}": True, b"a b": True, "\u0645\u06cc\u200c\u062e".encode(): True,
}  # fmt: skip


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_class_names(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures(tmp_path / "root")
    (tmp_path / "root/a").rename(tmp_path / "root" / os.fsdecode(name))
    message = said(image_folder, tmp_path / "root")
    assert message is None if CLASS_NAMES[name] else "control character or is not UTF-8; rename" in message
    assert not message or message.isprintable()


def test_image_names_that_are_not_utf8_are_packed_and_read(tmp_path):
    photos(tmp_path)
    (tmp_path / "train/a/0.jpg").rename(tmp_path / "train/a" / os.fsdecode(b"\xff.jpg"))
    optimize_folder(imagefolder(str(tmp_path)), tmp_path / "set", workers=1)
    train = stream(str(tmp_path / "set")).train
    assert {train.dataset(3, lambda read: read())[index][0].shape for index in range(6)} == {(3, 12, 16)}


def test_an_empty_download_is_not_used(tmp_path, caplog):
    (tmp_path / FILES["train"][0]).touch()
    raw = tmp_path / "FashionMNIST/raw"
    for name in (name for pair in FILES.values() for name in pair):
        (tmp_path / f"{name}.gz").write_bytes(b"")

    def download(folder, download):
        for split, count in {"train": 4, "test": 2}.items():
            for name, shape in zip(FILES[split], ((count, 28, 28), (count,)), strict=True):
                path = Path(folder, "FashionMNIST/raw", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(np.prod(shape)))

    debian = "inception_zoo.data.fashion_mnist.DEBIAN"
    with patch("torchvision.datasets.FashionMNIST", side_effect=download), patch(debian, tmp_path / "none"):
        data = fashion_mnist(str(tmp_path))
        raw.joinpath(FILES["test"][1]).write_bytes(b"")  # as of an older version, whose unpacking was interrupted
        again = fashion_mnist(str(tmp_path))
    assert (len(data.train), len(data.test), len(again.test)) == (4, 2, 2)
    assert f"{FILES['train'][0]} is empty, and not used; delete it" in caplog.text
    assert not list(tmp_path.glob("*partial*"))


INDEXES = {  # what an index may not say → the key that the message names
    "a path": (lambda index: index["chunks"][0].update(filename="../../other.bin"), r"chunks\[0\]"),
    "a compression": (lambda index: index["config"].update(compression="zstd"), "config.compression"),
    "a compression of items": (lambda index: index["config"].update(compression_level="sample"), "config.compression_level"),
    "a pickle": (lambda index: index["config"].update(data_format=["str", "int", "pickle"]), "config.data_format"),
    "another tree": (lambda index: index["config"].update(data_spec="[1, {}]"), "config.data_spec"),
    "another format": (lambda index: index["config"].update(format="mds"), "config.format"),
    "another reader": (lambda index: index["config"].update(item_loader="ParquetLoader"), "config.item_loader"),
    "too many items": (lambda index: index["chunks"][0].update(chunk_size=10**9), r"chunks\[0\]"),
    "a split elsewhere": (lambda index: index.update(splits=["train", "../x"]), "splits"),
    "no chunks": (lambda index: index.pop("chunks"), "chunks"),
    "a class that is not text": (lambda index: index.update(classes=["a", 1]), "classes"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_has_only_what_is_written(case, tmp_path):
    change, key = INDEXES[case]
    path = chunks(tmp_path) / "train/index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(ZooError, match=rf"train/index.json: not written by `inception-zoo data optimize`.*\('?{key}"):
        stream(str(tmp_path / "set"))


def test_a_chunk_that_links_out_of_the_folder(tmp_path):
    chunk = chunks(tmp_path) / "train/chunk-0-0.bin"
    chunk.rename(tmp_path / "other.bin")
    chunk.symlink_to(tmp_path / "other.bin")
    with pytest.raises(ZooError, match=r"chunk-0-0.bin links to a file outside of"):
        stream(str(tmp_path / "set"))


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__`")
def test_a_damaged_item_names_its_chunk(tmp_path):
    root = chunks(tmp_path)
    for chunk in (root / "train").glob("*.bin"):
        data = bytearray(chunk.read_bytes())
        count = int.from_bytes(data[:4], "little")
        first = 4 * (count + 2)
        data[first : first + 12] = b"\xff" * 12  # the sizes of the name, label and image
        chunk.write_bytes(data)
    split = stream(str(root)).train
    with pytest.raises(ZooError, match=r"chunk-0-0.bin: image 0 is damaged \(.*Error\); copy the chunk again"):
        split.dataset(3, lambda read: read())[0]
    with pytest.raises(ZooError, match=r"chunk-\S+.bin: image \d is damaged"):
        list(split.loader(3, lambda read: read(), 1, 0, seed=1))


test_chunks = hostile_files.any_bytes_of_chunks_are_images_or_a_line
test_images = hostile_files.any_bytes_are_an_image_or_a_line
test_tables = hostile_files.any_bytes_are_a_table_or_a_line


OPENING = re.compile(
    r"open|.*\.(open|fdopen|read_text|read_bytes|fromfile|File|ZipFile|InferenceSession)|safe_open|(torch|OmegaConf|onnx|np)\.load"
)
ELSEWHERE = {  # function that opens a path without `opened` → why it may
    "system/regular_files.py": "the one place",
    "system/atomic_files.py:_sync": "a file that this process has written",
    "system/atomic_files.py:_locked": "a folder that this process has made, or a folder with such a name",
    "system/atomic_files.py:is_whole_zip": "after `read_checkpoint`, which opens the same file",
    "system/terminal.py:leave_lost_terminal": "the null device",
    "system/devices.py": "a file of /proc",
    "system/threads.py": "a file of /sys",
    "bench/": "files that the user names, or that its own jobs have written",
    "network/kernels/__init__.py": "source code of this package, and /proc/cpuinfo",
    "report/page.py": "style and scripts of this package",
    "tracking/": "the tables of this run",
    "training/processes.py": "messages of the ranks of this job",
    "training/job.py": "the profile of this run",
    "training/atomic_checkpoints.py:save_checkpoint": "written",
    "serving/predict.py": "written",
    "serving/export.py": "a file that this process has written, or after `check_regular` in `open_classifier`",
    "serving/quantize.py": "a file that this process has written",
    "runs/study.py:_cut": "the journal of this sweep",
    "weights/files.py:_read_safetensors": "after `check_kind`, which opens the same file",
    "weights/files.py:load_pickle": "calls `check_kind` first",
    "weights/files.py:_check_zip": "after `check_kind`",
    "weights/keras_files.py:read_keras": "after `check_kind`",
    "weights/keras_files.py:_weights_of_zip": "zipfile, on a file from `opened`",
    "weights/keras_files.py:write_keras": "written",
    "interpret/circuits.py:_direction": "numpy, on a file from `opened`",
    "serving/statistics.py:read": "numpy, on a file from `opened`",
    "weights/files.py:_sort_metadata": "a file that this process has written",
    "data/copies.py:_members": "zipfile and tarfile, on a file from `opened`",
    "data/inspection.py": "the user's own cache",
    "data/pictures.py": "PIL, on a file from `opened`",
    "data/fashion_mnist.py:read_idx": "gzip, on a file from `opened`",
    "data/stream.py:_download": "a download of this process",
}


def test_no_other_function_opens_a_path():
    package = Path(inception_zoo.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
                opens = any(OPENING.fullmatch(ast.unparse(call)) for call in calls)
                found |= {f"{path.relative_to(package)}:{function.name}"} if opens else set()
    assert not (others := " ".join(sorted(place for place in found if not place.startswith(tuple(ELSEWHERE))))), others
    assert not (unused := " ".join(entry for entry in ELSEWHERE if not any(place.startswith(entry) for place in found))), unused
