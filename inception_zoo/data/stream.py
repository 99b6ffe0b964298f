"""Data sets in LitData's chunks, read from a folder in place or from an object store as training goes on.

LitData: https://github.com/Lightning-AI/litdata. The chunks are written by `inception-zoo data optimize`.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from inception_zoo.data.reading import decode_image
from inception_zoo.data.source import Batch, Source, View, collate
from inception_zoo.errors import ZooError, check_installed, one_line
from inception_zoo.system.seeding import seed_all

if TYPE_CHECKING:  # its import takes seconds
    from litdata import StreamingDataLoader, StreamingDataset

STORES = ("s3://", "gs://", "azure://", "local:")  # the last: a folder that is treated as a store
BEFORE = "before"  # key of the state of a loader, see Epochs.state_dict
PATIENCE = 600  # seconds for another process to download the chunk that this one needs, too


def stream(root: str, cache: str | None = None) -> Source:
    """The data set that `inception-zoo data optimize` wrote to `root`, a folder or an address as `s3://bucket/path`.

    A folder is checked up front: every chunk is there and has its size. It is read in place. Of a store, only the indexes
    are read up front; chunks are downloaded as they are needed, each by the machines that need it, and kept in `cache`:
    those of training in 75% of the free disk at most, with 50 GB left free (the environment variable MAX_CACHE_SIZE, as
    `200GB`, sets another limit), those of validation and test for good.

    Args:
        root: folder or address.
        cache: folder for what is downloaded; `~/.lightning/chunks`, or the environment variable LITDATA_CACHE_DIR, when
            left out.

    Raises:
        ZooError: `root` cannot be reached, is no such data set, or has chunks that are missing or cut short.
    """
    check_installed("litdata", "stream", f"data.root={root}")
    if "://" in root and not root.startswith(STORES):
        raise ZooError(f"data.root={root}: must be a folder, or begin with {', '.join(STORES[:-1])}")
    root = root.rstrip("/")
    train = _index(root, "train")
    classes = train["classes"]
    indexes = {name: train if name == "train" else _index(root, name) for name in train["splits"]}
    for name, index in indexes.items():
        if index["classes"] != classes:
            raise ZooError(f"{root}/{name}/index.json: has other classes than {root}/train/index.json")
        if not root.startswith(STORES):
            _check_chunks(Path(root) / name, index)
    found = {name: Stream(f"{root}/{name}", sum(i["images_per_class"]), classes, cache) for name, i in indexes.items()}
    val = found.get("val")
    test = found.get("test", val)
    if test is None:
        raise ZooError(f"{root}/train/index.json: names no split but train; one is needed for the test")
    return Source("stream", found["train"], test, classes, val)


@dataclass(frozen=True)
class Stream:
    """The chunks of one split at `root`. In training they are shuffled and shared out by LitData."""

    root: str
    size: int
    classes: list[str]
    cache: str | None = None
    in_memory = False

    def __len__(self) -> int:
        return self.size

    def dataset(self, channels: int, view: View, seed: int = 0) -> Dataset:
        """Every image by its index, in every process."""
        return _Indexed(self, _Decode(self, channels, view))

    def loader(self, channels: int, view: View, batch_size: int, workers: int, seed: int) -> Iterable[Batch]:
        """This process's batches of `batch_size` images, in an order that changes with each iteration.

        Every process has the same number of them; the images that are left over, fewer than one batch for each process,
        are others in each epoch. The loader's state goes into Lightning's checkpoints: a run that is resumed with as many
        processes goes on with the images of the epoch that it has not seen, and with as many workers as it had. With
        another number of processes, what is left of the epoch is drawn from all images.

        Raises:
            ZooError: there are too few images for a batch in each process.
        """
        from litdata import StreamingDataLoader
        from litdata.utilities.env import _DistributedEnv

        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        world, rank = (torch.distributed.get_world_size(), torch.distributed.get_rank()) if distributed else (1, 0)
        if batch_size * world > self.size:
            raise ZooError(f"data.batch_size={batch_size * world} is more than the {self.size} images of {self.root}")

        def make(workers: int) -> StreamingDataLoader:
            decode = _Decode(self, channels, view, seed)
            chunks = decode.chunks = self._open(decode, shuffle=True, seed=seed)
            # One node, whatever their number: LitData would otherwise keep chunks on their nodes from the second epoch on,
            # and as those hold different numbers of images, some processes would wait for others that have no more.
            chunks.distributed_env = _DistributedEnv(world, rank, num_nodes=1)
            # Not persistent: workers that live on do not learn of the next epoch.
            pinned = torch.cuda.is_available()
            return StreamingDataLoader(
                chunks, batch_size=batch_size, num_workers=workers, pin_memory=pinned, collate_fn=collate
            )

        return Epochs(make, workers)

    def _open(self, decode: "_Decode", shuffle: bool = False, seed: int = 0) -> "StreamingDataset":
        from litdata import StreamingDataset

        chunks = StreamingDataset(
            self.root, self.cache, shuffle=shuffle, drop_last=True, seed=seed, transform=decode, item_shuffle_window="full"
        )
        if chunks.posix_fast is not None:
            # As on a local disk. For network file systems LitData has another shuffle, which gives whole chunks to workers,
            # cuts all to the smallest share, and leaves some without any if there are fewer chunks than workers.
            chunks.posix_fast = replace(chunks.posix_fast, kind="posix")
        return chunks


class Epochs:
    """LitData's loader as Lightning drives it: an epoch per iteration, none read to its end, a state in the checkpoint."""

    def __init__(self, make: Callable[[int], "StreamingDataLoader"], workers: int) -> None:
        self._make, self._resumed = make, False
        self.loader = make(workers)
        self._before = self.loader.state_dict()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        # Lightning stops at the last batch, and LitData learns only from what follows it that the epoch is over: it would
        # take every later epoch for the one that it was resumed in.
        self.loader.restore, self._resumed = self._resumed, False
        batches = iter(self.loader)
        while True:
            self._before = self.loader.state_dict()
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """With the state before the batch that was read last, for checkpoints that are taken before it is used."""
        return {**self.loader.state_dict(), BEFORE: self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        was = state["dataset"]
        if was["num_workers"] != (self.loader.num_workers or 1):
            self.loader = self._make(was["num_workers"])  # the order depends on it
        chunks = self.loader.dataset
        self.loader.current_epoch = chunks.current_epoch = state["current_epoch"]  # LitData would save 1 for the latter
        if (was["world_size"], was["batch_size"]) != (chunks.distributed_env.world_size, chunks.batch_size):
            return  # what is left of the epoch is drawn from all images
        # the set may have moved: LitData would refuse another folder, or another cache
        here = {"input_dir_path": chunks.input_dir.path, "input_dir_url": chunks.input_dir.url}
        here["cache_dir_path"] = chunks.cache_dir.path
        self.loader.load_state_dict({**state, "dataset": {**was, **here}})
        self._resumed = self.loader.restore


@dataclass
class _Decode:
    """An item of a chunk → view of the image (C, H, W), label. What the view draws follows from the seed, epoch and name."""

    split: Stream
    channels: int
    view: View
    seed: int = 0
    chunks: "StreamingDataset | None" = None  # that knows the epoch

    def __call__(self, item: tuple[str, int, bytes]) -> tuple[Tensor, Tensor]:
        name, label, data = item
        place = f"{self.split.root}: {name}"
        if not 0 <= label < len(self.split.classes):
            raise ZooError(f"{place}: has label {label}, but there are {len(self.split.classes)} classes")
        seed_all(self.seed, self.chunks.current_epoch if self.chunks else 0, name)
        return self.view(partial(decode_image, BytesIO(data), self.channels, place)), torch.tensor(label)


class _Indexed(Dataset):
    """LitData's random access, which is the same in every process, unlike the length of its data set."""

    def __init__(self, split: Stream, decode: _Decode) -> None:
        self.split, self.chunks = split, split._open(decode)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        self._download(int(index))
        return self.chunks[int(index)]

    def _download(self, index: int) -> None:
        """The whole chunk, once per machine: LitData would ask the store twice for every image.

        Not in the process that forks workers: LitData's fast client, once used there, is of no use in them.
        """
        if self.chunks.input_dir.url is None or get_worker_info() is None:
            return
        if self.chunks.cache is None:
            self.chunks.cache = self.chunks._create_cache(None)
        reader = self.chunks.cache._reader
        _, chunk = reader._get_chunk_index_from_index(index)
        file, begun = Path(reader.config.download_filepath(chunk)), time.monotonic()
        while not file.exists():
            reader.config.download_chunk_from_index(chunk, skip_lock=True)  # returns at once if another process does it
            if time.monotonic() > begun + PATIENCE:
                raise ZooError(f"{self.split.root}/{file.name}: cannot be downloaded; a stale {file}.lock may be the cause")
            if not file.exists():
                time.sleep(0.05)


def _check_chunks(folder: Path, index: dict[str, Any]) -> None:
    for chunk in index["chunks"]:
        path, size = folder / chunk["filename"], chunk["chunk_bytes"]
        if not path.is_file():
            raise ZooError(f"{path}: missing; it should have {size:,} bytes")
        if (found := path.stat().st_size) != size:
            raise ZooError(f"{path}: has {found:,} bytes instead of {size:,}; copy it again")


def _index(root: str, name: str) -> dict[str, Any]:
    """The index of a split, with what `optimize_folder` wrote in it."""
    place = f"{root}/{name}/index.json"
    try:
        text = _download(place) if root.startswith(STORES) else Path(place).read_text("utf-8")
        index = json.loads(text)
        whole = (
            index["config"]["data_format"] == ["str", "int", "bytes"]
            and len(index["classes"]) == len(index["images_per_class"])
            and sum(index["images_per_class"]) == sum(chunk["chunk_size"] for chunk in index["chunks"])
            and "train" in index["splits"]
        )
    except FileNotFoundError:
        raise ZooError(
            f"{place}: no such file; `inception-zoo data optimize FOLDER OUT` writes the data sets to read"
        ) from None
    except json.JSONDecodeError as error:
        raise ZooError(f"{place}: damaged ({error})") from None
    except (KeyError, TypeError):
        whole = False
    except Exception as error:  # each store has its own kinds
        reason = one_line(error) or type(error).__name__
        raise ZooError(f"{place}: cannot be read ({reason})") from None
    if not whole:
        raise ZooError(f"{place}: not written by `inception-zoo data optimize`, or changed since")
    return index


def _download(address: str) -> str:
    from litdata.streaming.downloader import get_downloader

    options = {}
    if address.startswith("s3://"):
        from botocore.config import Config

        # LitData asks a thousand times, which is right once training runs
        options["config"] = Config(retries={"total_max_attempts": 3}, connect_timeout=10, read_timeout=30)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "index.json"
        get_downloader(address, folder, [], options).download_file(address, str(file))
        return file.read_text("utf-8")
