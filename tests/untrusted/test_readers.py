"""Every reader of files × every kind of file: none waits for a pipe, reads a device, or ends with a traceback."""

import os
import shutil
from unittest.mock import patch

import pytest
import torch
from tools import hostile_files
from tools.hostile_files import KINDS, SPECIAL, chunks, image_folder, in_a_child, pictures, plant
from torchvision.datasets import CIFAR10, ImageFolder

from inception_zoo.data.cifar import cifar10
from inception_zoo.data.division import has_made_test
from inception_zoo.data.fashion_mnist import FILES, fashion_mnist
from inception_zoo.data.imagenet import imagenet
from inception_zoo.data.layout import count_classes
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
QUIET = ("classes.json", "a checkpoint of a run")  # the folders are counted; another checkpoint is looked for


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


test_chunks = hostile_files.any_bytes_of_chunks_are_images_or_a_line
test_images = hostile_files.any_bytes_are_an_image_or_a_line
test_tables = hostile_files.any_bytes_are_a_table_or_a_line
