import json
import shutil
import subprocess
import sys

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from inception_zoo import ZooError
from inception_zoo.data.optimize import optimize_folder
from inception_zoo.data.source import Files, Images, Source, collate
from inception_zoo.data.stream import stream

TRAIN, VAL, BATCH = 61, 17, 4
BATCHES = TRAIN // BATCH
CLASSES = ["ant", "bee", "cat"]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:Your `IterableDataset` has `__len__`")


def folder(root, count):
    """Write `count` JPEGs; image n is filled with gray level 4 n."""
    paths = [f"{CLASSES[number % 3]}/{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (4 * number,) * 3).save(root / path)
    return Files(root, np.array(paths), torch.arange(count) % 3)


def number_of(read):
    return (read()[0, 0, 0] / 4).round().long()


def numbers(loader, batches=None):
    """Return the image numbers of the next `batches` batches, or of a whole epoch."""
    reader = iter(loader)
    return [n for _ in range(len(loader) if batches is None else batches) for n in next(reader)[0].tolist()]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    return Source("images", folder(root / "train", TRAIN), None, CLASSES, folder(root / "val", VAL))


@pytest.fixture(scope="module")
def written(files, tmp_path_factory):
    root = tmp_path_factory.mktemp("chunks") / "set"
    optimize_folder(files, root, "4KB", workers=2)
    return root


@pytest.fixture
def chunks(written, tmp_path):
    """Copy the chunks, so that a test can damage them."""
    return shutil.copytree(written, tmp_path / "set")


def loader_of(root, workers=0, seed=1):
    return stream(str(root)).train.loader(3, number_of, BATCH, workers, seed)


def test_bytes_and_labels_survive(files, written):
    from litdata import StreamingDataset

    for name, split in {"train": files.train, "val": files.val}.items():
        items = StreamingDataset(str(written / name))
        found = {path: (label, data) for path, label, data in (items[i] for i in range(len(split)))}
        expected = zip(split.paths.tolist(), split.labels.tolist(), strict=True)
        assert found == {path: (label, (split.root / path).read_bytes()) for path, label in expected}
    assert json.loads((written / "classes.json").read_text()) == CLASSES
    assert len(list((written / "train").glob("*.bin"))) > 5 and not (written / "test").exists()


def test_chunks_are_of_mixed_images(written):
    images = stream(str(written)).train.dataset(3, number_of)
    first = [int(images[i][0]) for i in range(8)]
    assert max(first) - min(first) > 20


def test_a_test_split_of_its_own(files, tmp_path):
    optimize_folder(Source("images", files.train, folder(tmp_path / "test", 5), CLASSES, files.val), tmp_path / "set")
    source = stream(str(tmp_path / "set"))
    assert (len(source.train), len(source.val), len(source.test)) == (TRAIN, VAL, 5)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_has_its_index(written, workers):
    source = stream(str(written))
    assert source.classes == CLASSES and source.test is None
    batches = list(DataLoader(source.val.dataset(3, number_of), 5, num_workers=workers))
    assert torch.cat([images for images, _ in batches]).tolist() == list(range(VAL))
    assert torch.cat([labels for _, labels in batches]).tolist() == [n % 3 for n in range(VAL)]


def test_images_are_decoded_as_files_are(files, written):
    here, there = files.val.dataset(1, _whole), stream(str(written)).val.dataset(1, _whole)
    assert all(torch.equal(here[i][0], there[i][0]) and here[i][1] == there[i][1] for i in range(VAL))


def _whole(read):
    return read()


def test_batches_of_files_and_of_streams_have_channels_last(files, written):
    first, labels = next(iter(stream(str(written)).train.loader(3, _whole, BATCH, 0, seed=1)))
    numbers = (first[:, 0, 0, 0] / 4).round().long()
    second, _ = collate([files.train.dataset(3, _whole)[int(number)] for number in numbers])
    assert torch.equal(first, second) and labels.tolist() == (numbers % 3).tolist() and first.shape == (BATCH, 3, 16, 16)
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in (first, second))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_has_another_order(written, workers):
    loader = loader_of(written, workers)
    first, second = numbers(loader), numbers(loader)
    assert len(loader) == BATCHES and len(set(first)) == len(set(second)) == BATCHES * BATCH
    assert first != second and first == numbers(loader_of(written, workers)) != numbers(loader_of(written, workers, seed=2))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [1, 6, BATCHES])
def test_resume_goes_on_with_what_is_left(written, workers, done):
    whole = loader_of(written, workers)
    epochs = [numbers(whole) for _ in range(3)]
    cut = loader_of(written, workers)
    numbers(cut)
    assert numbers(cut, done) == epochs[1][: done * BATCH]
    resumed = loader_of(written, workers)
    resumed.load_state_dict(cut.state_dict())
    left = (epochs[1][done * BATCH :] or epochs[2])[: 2 * BATCH]
    assert numbers(resumed, 2) == left
    again = loader_of(written, workers)  # interrupted and resumed a second time
    again.load_state_dict(resumed.state_dict())
    rest = epochs[1][(done + 2) * BATCH :] if done < BATCHES else epochs[2][2 * BATCH :]
    assert numbers(again, len(rest) // BATCH) == rest
    if done < BATCHES:
        assert numbers(again) == epochs[2]  # Lightning never reads past the last batch


def test_a_set_that_moved_is_resumed(written, chunks):
    here = loader_of(written)
    epoch = numbers(here)
    cut = loader_of(written)
    numbers(cut, 5)
    there = loader_of(chunks)
    there.load_state_dict(cut.state_dict())
    assert numbers(there, BATCHES - 5) == epoch[5 * BATCH :]


def test_resume_with_other_workers_goes_on_as_before(written):
    whole, cut = loader_of(written, 2), loader_of(written, 2)
    epochs = [numbers(whole) for _ in range(2)]
    numbers(cut, 5)
    resumed = loader_of(written, 0)
    resumed.load_state_dict(cut.state_dict())
    assert numbers(resumed, BATCHES - 5) == epochs[0][5 * BATCH :] and numbers(resumed) == epochs[1]


def test_resume_with_another_batch_size_draws_anew(written):
    cut = loader_of(written)
    numbers(cut, 5)
    resumed = stream(str(written)).train.loader(3, number_of, 2, 0, seed=1)
    resumed.load_state_dict(cut.state_dict())
    first, second = numbers(resumed), numbers(resumed)
    assert len(set(first)) == len(set(second)) == 60 and first != second


class Seen(L.LightningModule):
    def __init__(self, save_at):
        super().__init__()
        self.layer, self.seen, self.save_at = torch.nn.Linear(1, 1), [], save_at

    def training_step(self, batch, index):
        self.seen += batch[0].tolist()
        return self.layer(batch[0][:, None].float()).mean()

    def on_train_batch_end(self, *_):
        if self.trainer.global_step in self.save_at:
            self.trainer.save_checkpoint(f"{self.trainer.default_root_dir}/{self.trainer.global_step}.ckpt")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes(written, tmp_path):
    def fit(checkpoint=None, save_at=()):
        quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        trainer = L.Trainer(accelerator="cpu", max_epochs=3, default_root_dir=tmp_path, **dict.fromkeys(quiet, False))
        model = Seen(save_at)
        trainer.fit(model, loader_of(written), ckpt_path=checkpoint)
        return model.seen

    steps = (BATCHES + 5, 2 * BATCHES)  # in mid-epoch, and after the last batch of an epoch
    whole = fit(save_at=steps)
    assert [len(set(whole[start : start + 60])) for start in (0, 60, 120)] == [60] * 3 and whole[:60] != whole[60:120]
    for step in steps:
        assert fit(tmp_path / f"{step}.ckpt") == whole[step * BATCH :]


def _rank(rank, root, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meet", world_size=2, rank=rank)
    images = stream(str(root)).val.dataset(3, number_of)
    seen = {"val": [int(images[i][0]) for i in range(len(images))]}
    for workers in (0, 2):
        loader = loader_of(root, workers)
        seen[str(workers)] = [[batch.tolist() for batch, _ in loader] for _ in range(2)]
    cut, resumed = loader_of(root), loader_of(root)
    numbers(cut, 3)
    state = [cut.state_dict()]  # Lightning saves the state of rank 0 for all ranks
    torch.distributed.broadcast_object_list(state)
    resumed.load_state_dict(state[0])
    seen["resumed"] = numbers(resumed, len(resumed) - 3)
    (out / f"{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


def test_two_processes_share_each_epoch(written, tmp_path):
    torch.multiprocessing.start_processes(_rank, (written, tmp_path), nprocs=2, start_method="fork")
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert all(rank["val"] == list(range(VAL)) for rank in ranks)
    assert all(rank["resumed"] == [number for batch in rank["0"][0][3:] for number in batch] for rank in ranks)
    for workers in ("0", "2"):
        for one, two in zip(ranks[0][workers], ranks[1][workers], strict=True):
            assert len(one) == len(two) == TRAIN // (2 * BATCH) and {len(batch) for batch in one + two} == {BATCH}
            assert len({number for batch in one + two for number in batch}) == len(one + two) * BATCH


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_is_read_through_a_cache(written, tmp_path, workers):
    source = stream(f"local:{written}", cache=str(tmp_path))
    loader = source.train.loader(3, number_of, BATCH, workers, seed=1)
    assert [numbers(loader) for _ in range(2)] == [numbers(again) for again in [loader_of(written, workers)] for _ in range(2)]
    batches = DataLoader(source.val.dataset(3, number_of), 5, num_workers=workers)
    assert torch.cat([images for images, _ in batches]).tolist() == list(range(VAL))
    assert len(list(tmp_path.rglob("*.bin"))) == len(list(written.rglob("*.bin")))


def test_a_store_that_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with pytest.raises(ZooError, match=r"^s3://bucket/set/train/index.json: cannot be read \(Could not connect[^\n]*$"):
        stream("s3://bucket/set")
    with pytest.raises(ZooError, match=r"data.root=http://host/set: must be a folder, or begin with s3://, gs://, azure://"):
        stream("http://host/set")


def cut(root):
    chunk = root / "val" / "chunk-0-1.bin"
    chunk.write_bytes(chunk.read_bytes()[:-1])


def edit(root, split, **changes):
    index = root / split / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"val/chunk-0-1.bin: has [\d,]+ bytes instead of [\d,]+; copy it again"),
        (
            lambda root: (root / "train" / "chunk-0-3.bin").unlink(),
            r"train/chunk-0-3.bin: missing; it should have [\d,]+ bytes",
        ),
        (
            lambda root: (root / "train" / "index.json").unlink(),
            r"^data.root=.*: no such file .*train/index.json; set another, or run `inception-zoo data optimize",
        ),
        (lambda root: (root / "val" / "index.json").write_text("{"), r"val/index.json: damaged \(Expecting property name"),
        (lambda root: (root / "val" / "index.json").write_text("[]"), "val/index.json: not written by `inception-zoo data"),
        (
            lambda root: edit(root, "val", images_per_class=[6, 6, 6]),
            "val/index.json: not written by `inception-zoo data optimize`, or",
        ),
        (
            lambda root: edit(root, "val", classes=["ant", "bee", "dog"]),
            "val/index.json: has other classes than .*train/index.json",
        ),
    ],
)
def test_damage_is_named(chunks, damage, message):
    damage(chunks)
    with pytest.raises(ZooError, match=message) as error:
        stream(str(chunks))
    assert "\n" not in str(error.value)


def test_damaged_images_and_labels_are_named(files, tmp_path):
    (tmp_path / "text.jpg").write_text("text")
    bad = Files(tmp_path, np.array(["text.jpg"]), torch.tensor([0]))
    optimize_folder(Source("images", files.train, None, CLASSES, bad), tmp_path / "set")
    with pytest.raises(ZooError, match=r"set/val: text.jpg: not a valid image, or corrupt"):
        list(stream(str(tmp_path / "set")).val.dataset(3, number_of))
    for split, counts in {"train": [TRAIN, 0], "val": [1, 0]}.items():
        edit(tmp_path / "set", split, classes=["ant", "bee"], images_per_class=counts)
    with pytest.raises(ZooError, match=r"set/train: cat/[0-9]+.jpg: has label 2, but there are 2 classes"):
        list(stream(str(tmp_path / "set")).train.dataset(3, number_of))


def test_too_few_images(written):
    with pytest.raises(
        ZooError, match=r"data.batch_size=62 is more than the 61 images of .*train; set data.batch_size=32 or less$"
    ):
        stream(str(written)).train.loader(3, number_of, 62, 0, 1)


def test_what_is_there_is_not_overwritten(files, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").touch()
    for out in (tmp_path / "set", tmp_path / "set" / "file"):
        with pytest.raises(ZooError, match=f"{out}: already exists and is not an empty folder"):
            optimize_folder(files, out)


@pytest.mark.parametrize(
    ("size", "workers", "message"),
    [("64", 1, "chunk size 64 must be"), ("3GB", 1, "at most 2GB"), ("0MB", 1, "must be"), ("1MB", 0, "workers=0 must be")],
)
def test_sizes_and_workers(files, tmp_path, size, workers, message):
    with pytest.raises(ZooError, match=message):
        optimize_folder(files, tmp_path / "set", size, workers)


def test_nothing_is_left_of_an_interrupted_run(files, tmp_path, monkeypatch):
    def interrupted(split, index):
        if index == 30:
            raise KeyboardInterrupt
        return "name", 0, b"data"

    monkeypatch.setattr("inception_zoo.data.optimize._item", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimize_folder(files, tmp_path / "set", "1KB")
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_written(files, tmp_path):
    (tmp_path / "empty.jpg").touch()
    for name, message in {"empty.jpg": "empty.jpg: is empty", "none.jpg": "none.jpg: cannot be read \\(No such file"}.items():
        gone = Files(tmp_path, np.array([name]), torch.tensor([0]))
        with pytest.raises(ZooError, match=message):
            optimize_folder(Source("images", files.train, gone, CLASSES, gone), tmp_path / "set")
    images = Images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(ZooError, match="digits: only image folders, with one label for each image"):
        optimize_folder(Source("digits", images, images, ["0", "1"]), tmp_path / "set")


def test_litdata_is_imported_only_where_it_is_used():
    modules = "inception_zoo.data, inception_zoo.data.stream, inception_zoo.data.optimize"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; assert 'litdata' not in sys.modules"], check=True)
