import gzip
import os
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from torchvision.transforms import v2

from inception_zoo import ZooError
from inception_zoo.data import Augmentation, ImageData, Images, Source
from inception_zoo.data.digits import digits
from inception_zoo.data.fashion_mnist import CLASSES, FILES, fashion_mnist
from inception_zoo.data.synthetic import synthetic
from inception_zoo.training.checkpoints import check_classes


def at(epoch=0, batch=0, **more):
    """Return the part of a Trainer that the DataModule reads, before a training batch."""
    progress = SimpleNamespace(current=SimpleNamespace(completed=batch))
    fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    known = {"world_size": 1, "global_rank": 0, "testing": False, "lightning_module": SimpleNamespace(dtype=torch.float32)}
    return SimpleNamespace(current_epoch=epoch, fit_loop=fit_loop, **{**known, **more})


def data_module(source=digits, **changes):
    options = {
        "num_classes": 10,
        "in_channels": 1,
        "image_size": 8,
        "batch_size": 64,
        "split": {"val": 200},
        "mean": [0.3],
        "std": [0.4],
        "seed": 1,
        "eval_batch_size": 64,
    }
    return ImageData(source, **{**options, **changes})


def test_fashion_mnist_is_the_real_set(fashion_mnist_root):
    data = fashion_mnist(fashion_mnist_root)
    assert data.train.images.shape == (60_000, 1, 28, 28) and data.test.images.shape == (10_000, 1, 28, 28)
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.bincount().tolist() == [6000] * 10 and data.test.labels.bincount().tolist() == [1000] * 10
    assert data.train.images.float().mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert data.classes == CLASSES


def write_idx(path, values, header=None):
    header = header or bytes([0, 0, 8, values.dim()]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(gzip.compress(header + values.to(torch.uint8).numpy().tobytes()))


def write_set(folder, count=12):
    for _, (images, labels) in FILES.items():
        write_idx(folder / f"{images}.gz", torch.randint(0, 256, (count, 28, 28)))
        write_idx(folder / f"{labels}.gz", torch.arange(count) % 10)


def test_fashion_mnist_prefers_the_users_folder(tmp_path):
    write_set(tmp_path)
    assert len(fashion_mnist(str(tmp_path)).train) == 12


def test_damaged_files_are_named(tmp_path):
    write_set(tmp_path)
    file = tmp_path / f"{FILES['train'][0]}.gz"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ZooError, match=r"train-images-idx3-ubyte.gz: damaged, or not an IDX file"):
        fashion_mnist(str(tmp_path))
    write_set(tmp_path)
    whole = bytearray(file.read_bytes())
    whole[100:120] = bytes(20)
    file.write_bytes(whole)
    with pytest.raises(ZooError, match=r"train-images-idx3-ubyte.gz: damaged, or not an IDX file"):
        fashion_mnist(str(tmp_path))
    write_idx(file, torch.zeros(12, 28, 28), header=b"PNG image data")
    with pytest.raises(ZooError, match=r"train-images-idx3-ubyte.gz: damaged, or not an IDX file"):
        fashion_mnist(str(tmp_path))


def test_one_message_when_the_set_is_nowhere(tmp_path, monkeypatch):
    import torchvision

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("inception_zoo.data.fashion_mnist.DEBIAN", tmp_path / "none")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", no_network)
    with pytest.raises(ZooError, match=r"data.root=.*no route to host.*make data.*apt-get install.*train-images") as error:
        fashion_mnist(str(tmp_path))
    assert "\n" not in str(error.value)


PROGRAMS = {  # stand-ins for the programs that `make data` calls
    "python": 'test -e "$3/images.gz" && echo "Fashion-MNIST: $3" || { echo "error: no network" >&2; exit 2; }',
    "apt-get": "touch dataset-fashion-mnist_1.deb",
    "dpkg": 'mkdir -p "$3/usr/share/datasets/fashion-mnist" && touch "$3/usr/share/datasets/fashion-mnist/images.gz"',
}


@pytest.mark.parametrize("has_package", [True, False])
def test_make_data_reports_an_error_only_if_its_fallback_fails(has_package, tmp_path):
    programs = PROGRAMS if has_package else PROGRAMS | {"apt-get": "exit 100"}
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    make = ["make", "-o", "setup", "data", f"BIN={tmp_path}", f"DATA={tmp_path / 'data'}"]
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(make, cwd=ROOT, env=path, capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == has_package
    assert ("error" in (done.stdout + done.stderr).lower()) != has_package
    assert ("error: no network" in done.stderr) != has_package
    assert (f"Fashion-MNIST: {tmp_path / 'data'}" in done.stdout) == has_package


def test_digits():
    data = digits()
    assert len(data.train) + len(data.test) == 1797
    assert data.train.images.shape[1:] == (1, 8, 8) and int(data.train.images.max()) == 255
    assert set(data.test.labels.tolist()) == set(range(10))


def test_synthetic_is_seeded_and_can_be_learned():
    draw = partial(synthetic, num_classes=4, in_channels=3, size=16, train=64, test=64, noise=0.1)
    first, again, other = draw(seed=1), draw(seed=1), draw(seed=2)
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    # The strongest frequency identifies the class; the phase is random.
    spectrum = lambda split: torch.fft.rfft2(split.images.float().mean(1)).abs().flatten(1)[:, 1:]  # noqa: E731
    train, test = spectrum(first.train), spectrum(first.test)
    nearest = torch.cdist(test, train).argmin(1)
    assert (first.train.labels[nearest] == first.test.labels).float().mean() > 0.9


def test_splits_are_disjoint_seeded_and_never_touch_the_test_set():
    images = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 1, 8, 8)
    labels = torch.arange(100) % 10

    def source():
        return Source("numbered", Images(images[:80], labels[:80]), Images(images[80:], labels[80:]), [])

    def ids(module, split):
        module.setup()
        return sorted(module.splits[split].images[:, 0, 0, 0].tolist())

    one = data_module(source, split={"val": 20}, batch_size=32)
    assert len(ids(one, "val")) == 20 and ids(one, "test") == list(range(80, 100))
    assert sorted(ids(one, "train") + ids(one, "val")) == list(range(80))
    assert ids(data_module(source, split={"val": 20}, batch_size=32), "val") == ids(one, "val")
    assert ids(data_module(source, split={"val": 20}, batch_size=32, seed=2), "val") != ids(one, "val")


def test_images_are_resized_once_and_normalized_per_batch():
    module = data_module(image_size=32)
    module.setup()
    assert module.splits["val"].images.shape == (200, 1, 32, 32) and module.splits["val"].images.dtype == torch.uint8
    raw = next(iter(module.val_dataloader()))
    images, labels = module.on_after_batch_transfer(raw, 0)
    assert torch.allclose(images, (raw[0].float() / 255 - 0.3) / 0.4)
    assert images.is_contiguous(memory_format=torch.channels_last) and len(labels) == 25  # an eighth of the split


def test_only_training_batches_are_augmented():
    moved = Augmentation(transforms={"shift": v2.RandomAffine(0, translate=[0.2, 0.2])})
    module = data_module(image_size=8, augmentation=moved, mean=[0.0], std=[1.0])
    module.setup()
    batch = next(iter(module.val_dataloader()))
    plain = batch[0].float() / 255
    for training in (False, True):
        module.trainer = at(training=training)
        assert torch.allclose(module.on_after_batch_transfer(batch, 0)[0], plain) is not training


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("count", "size"), [(101, 10), (7, 100), (3, 2), (64, 8)])
def test_evaluation_deals_every_image_once_in_the_same_batches(count, size, world_size):
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 8, 8)
    split = Images(images, torch.arange(count) % 2)
    seen = []
    for rank in range(world_size):
        module = data_module(lambda: Source("n", split, split, []), split={"val": 1}, batch_size=1, eval_batch_size=size)
        module.setup()
        module.trainer = SimpleNamespace(world_size=world_size, global_rank=rank)
        batches = [batch[0][:, 0, 0, 0].tolist() for batch in module.test_dataloader()]
        assert batches and len(batches) == len(module.test_dataloader())
        seen += batches
    assert sorted(row for batch in seen for row in batch) == list(range(count))
    whole = max(1, min(size, count // 8))
    assert sorted(seen) == [list(range(i, min(i + whole, count))) for i in range(0, count, whole)]


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_shares_out_an_order_of_the_epoch(world_size):
    def order(epoch, begun=0):
        shares = []
        for rank in range(world_size):
            module = data_module()
            module.setup()
            module.trainer = at(epoch, begun, world_size=world_size, global_rank=rank)
            shares.append([batch[0] for batch in module.train_dataloader()])
        assert len({len(share) for share in shares}) == 1
        return [torch.stack([share[step].sum(0) for share in shares]).sum(0) for step in range(len(shares[0]))]

    first, again, second = order(0), order(0), order(1)
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, second))
    rest = order(1, begun=3)  # a run resumed in mid-epoch
    assert len(rest) == len(second) - 3 and all(map(torch.equal, rest, second[3:]))


def test_progressive_resolution_by_epoch():
    module = data_module(image_size=32, progressive={2: 16, 5: 24})
    assert [module.training_size(epoch) for epoch in range(7)] == [32, 32, 16, 16, 16, 24, 24]
    module.setup()
    batch = next(iter(module.val_dataloader()))
    for epoch, training, side in ((1, True, 32), (2, True, 16), (2, False, 32), (6, True, 24)):
        module.trainer = at(epoch, training=training)
        assert module.on_after_batch_transfer(batch, 0)[0].shape == (25, 1, side, side)


@pytest.mark.parametrize("crops", [1, 2, 10])
def test_several_views_of_each_image(crops):
    module = data_module(image_size=28, crops=crops)
    module.setup()
    trainer = {"training": False, "current_epoch": 0, "lightning_module": SimpleNamespace(dtype=torch.float32)}
    batch = next(iter(module.val_dataloader()))
    for testing in (False, True):
        module.trainer = SimpleNamespace(testing=testing, **trainer)
        images, _ = module.on_after_batch_transfer(batch, 0)
        assert images.shape == ((25, crops, 1, 28, 28) if testing and crops > 1 else (25, 1, 28, 28))
    module.trainer = SimpleNamespace(world_size=1, global_rank=0)
    assert len(next(iter(module.test_dataloader()))[0]) == {1: 44, 2: 32, 10: 6}[crops]  # fewer images with more views of each


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 9}, "data.num_classes=9: digits has 10 classes; set data.num_classes=10"),
        ({"in_channels": 3}, "data.in_channels=3: digits has 1 image channels; set data.in_channels=1"),
        ({"split": {"val": 1438}}, "data.split.val=1438 must be from 1 to 1437"),
    ],
)
def test_data_that_does_not_fit_the_network(changes, message):
    with pytest.raises(ZooError) as error:
        data_module(**changes).prepare_data()
    assert message in str(error.value)


def test_a_batch_larger_than_the_training_set():
    with pytest.raises(
        ZooError, match=r"data.batch_size=5000 is more than the 1238 training images; set data.batch_size=1024 or less$"
    ):
        data_module(batch_size=5000).prepare_data()


def test_images_and_labels_must_match(tmp_path):
    write_set(tmp_path)
    write_idx(tmp_path / f"{FILES['test'][1]}.gz", torch.arange(11) % 10)
    with pytest.raises(ZooError, match="are not Fashion-MNIST"):
        fashion_mnist(str(tmp_path)).check(10, 1)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "cow", "dog"], "label 1 is 'dog', but in the data it is 'cow'"),
        (["cat"], "label 1 is 'dog', but in the data it is 'nothing'"),
    ],
)
def test_a_checkpoint_of_other_classes(classes, message):
    check_classes(Path("x.ckpt"), ["cat", "dog"], ["cat", "dog"])
    check_classes(Path("x.ckpt"), None, classes)
    with pytest.raises(ZooError) as error:
        check_classes(Path("x.ckpt"), ["cat", "dog"], classes)
    assert message in str(error.value)
