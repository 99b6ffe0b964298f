"""Data sets in LitData's chunks, read in place from a folder, or downloaded from an object store during training.

LitData: https://github.com/Lightning-AI/litdata. The chunks are written by `inception-zoo data optimize`.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from inception_zoo.data.layout import SPLITS
from inception_zoo.data.reading import decode_image
from inception_zoo.data.source import Batch, Source, View, collate, too_large
from inception_zoo.errors import ZooError, check_installed, one_line
from inception_zoo.system.regular_files import opened, text_of
from inception_zoo.system.seeding import seed_all
from inception_zoo.system.terminal import obey_parent

if TYPE_CHECKING:  # its import takes seconds
    from litdata import StreamingDataLoader, StreamingDataset

STORES = ("s3://", "gs://", "azure://", "local:")  # `local:` treats a folder as a store
BEFORE = "before"  # a key in the state of a loader, see Epochs.state_dict
LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
FORMAT = {  # what `data optimize` writes to an index; other values would have LitData decompress, decrypt or unpickle
    "data_format": ["str", "int", "bytes"],
    "data_spec": json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [LEAF] * 3}]),
    "item_loader": "PyTreeLoader",
    **dict.fromkeys(("compression", "compression_level", "compression_batch_size", "encryption", "format")),
}
TABLE = 2**26  # most bytes of the offsets in a chunk: those of 2 GB of images of 120 bytes
PATIENCE = 600  # seconds to wait while another process downloads a chunk


def stream(root: str, cache: str | None = None) -> Source:
    """Open a data set that `inception-zoo data optimize` wrote.

    A folder is read in place. This function checks that each chunk exists and has the right size.

    From an object store, this function reads only the indexes. Each machine downloads the chunks that it needs, when it
    needs them, and keeps them in `cache`. Training chunks use at most 75% of the free disk and leave 50 GB free; the
    environment variable MAX_CACHE_SIZE, such as `200GB`, sets another limit. Chunks of validation and test are not deleted.

    Args:
        root: a folder, or a URL such as `s3://bucket/path`.
        cache: folder for downloads. The default is the environment variable LITDATA_CACHE_DIR, or `~/.lightning/chunks`.

    Returns:
        The data set, whose splits are of the class `Stream`.

    Raises:
        ZooError: `root` cannot be reached or is not such a data set, or chunks are missing or truncated.
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
            _check_chunks(Path(root), name, index)
    found = {name: Stream(f"{root}/{name}", i["images_per_class"], classes, cache) for name, i in indexes.items()}
    return Source("stream", found["train"], found.get("test"), classes, found.get("val"))


@dataclass(frozen=True)
class Stream:
    """The chunks of one split. In training, LitData shuffles them and distributes them among the processes."""

    root: str
    images_per_class: list[int]
    classes: list[str]
    cache: str | None = None
    in_memory = False

    def __len__(self) -> int:
        return sum(self.images_per_class)

    def dataset(self, channels: int, view: View, seed: int = 0, training: bool = False) -> Dataset:
        """Return all images by index, the same in each process; see `Split.dataset`."""
        return _Indexed(self, _Decode(self, channels, view, seed))

    def loader(self, channels: int, view: View, batch_size: int, workers: int, seed: int) -> Iterable[Batch]:
        """Return the training batches of this process. Their order changes with each iteration.

        All processes have the same number of batches. The remaining images, fewer than one batch for each process, differ
        between epochs.

        Lightning saves the loader's state in its checkpoints. A run that is resumed with the same number of processes reads
        the images of the epoch that it has not seen yet, with as many workers as before. With another number of processes,
        the remaining batches of the epoch are drawn from all images.

        Args:
            channels: 1 (grey) or 3 (RGB).
            view: reads an image and returns uint8 (C, S, S).
            batch_size: of this process.
            workers: number of processes that decode images; 0: this process.
            seed: of the order and of the random draws in `view`.

        Returns:
            An iterable of batches: images uint8 (N, C, S, S) and labels int64 (N,).

        Raises:
            ZooError: there are too few images for a batch in each process.
        """
        from litdata import StreamingDataLoader
        from litdata.utilities.env import _DistributedEnv

        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        world, rank = (torch.distributed.get_world_size(), torch.distributed.get_rank()) if distributed else (1, 0)
        if batch_size * world > len(self):
            raise too_large(batch_size * world, len(self), f"images of {self.root}")

        def make(workers: int) -> StreamingDataLoader:
            decode = _Decode(self, channels, view, seed)
            chunks = decode.chunks = self._open(decode, shuffle=True, seed=seed)
            # Pass one node for any number of nodes. Otherwise LitData keeps chunks on their nodes from the second epoch on.
            # Nodes then have different numbers of images, and some processes wait for others that have no more.
            chunks.distributed_env = _DistributedEnv(world, rank, num_nodes=1)
            # Workers are not persistent, because persistent workers would not notice the next epoch.
            pinned = torch.cuda.is_available()
            loading = {"num_workers": workers, "pin_memory": pinned, "worker_init_fn": obey_parent}
            return StreamingDataLoader(chunks, batch_size=batch_size, collate_fn=collate, **loading)

        return Epochs(make, workers)

    def _open(self, decode: "_Decode | None" = None, shuffle: bool = False, seed: int = 0) -> "StreamingDataset":
        from litdata import StreamingDataset

        from inception_zoo.data.chunks import PyTreeLoader

        order: dict[str, Any] = {"shuffle": shuffle, "drop_last": True, "seed": seed, "item_shuffle_window": "full"}
        chunks = StreamingDataset(self.root, self.cache, PyTreeLoader(), transform=decode, **order)
        if chunks.posix_fast is not None:
            # Treat network file systems as a local disk. LitData's other shuffle for them assigns whole chunks to workers
            # and truncates all shares to the smallest one. With fewer chunks than workers, some workers have no images.
            chunks.posix_fast = replace(chunks.posix_fast, kind="posix")
        return chunks


class Epochs:
    """Adapter of LitData's loader to Lightning: one epoch per iteration, not read to its end, with a state for checkpoints."""

    def __init__(self, make: Callable[[int], "StreamingDataLoader"], workers: int) -> None:
        self._make, self._resumed = make, False
        self.loader = make(workers)
        self._before = self.loader.state_dict()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        # Lightning stops after the last batch, but LitData notices the end of an epoch only when it is asked for one more.
        # Without a reset, LitData would treat each later epoch as the one that it was resumed in.
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
        """Return the state, with the state before the last batch for checkpoints that are taken before that batch is used."""
        return {**self.loader.state_dict(), BEFORE: self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state; from its epoch only, if the number of processes or the batch size differs."""
        was = state["dataset"]
        if was["num_workers"] != (self.loader.num_workers or 1):
            self.loader = self._make(was["num_workers"])  # the order depends on the number of workers
        chunks = self.loader.dataset
        self.loader.current_epoch = chunks.current_epoch = state["current_epoch"]  # LitData would save 1 for that of `chunks`
        if (was["world_size"], was["batch_size"]) != (chunks.distributed_env.world_size, chunks.batch_size):
            return  # the remaining batches of the epoch are drawn from all images
        # the data set may have moved, but LitData rejects a state with another folder or cache
        here = {"input_dir_path": chunks.input_dir.path, "input_dir_url": chunks.input_dir.url}
        here |= {"cache_dir_path": chunks.cache_dir.path, "item_loader": chunks.item_loader.state_dict()}
        self.loader.load_state_dict({**state, "dataset": {**was, **here}})
        self._resumed = self.loader.restore


@dataclass
class _Decode:
    """Convert an item of a chunk to a view (C, H, W) and a label. Random draws depend on the seed, the epoch and the name."""

    split: Stream
    channels: int
    view: View
    seed: int = 0
    chunks: "StreamingDataset | None" = None  # knows the epoch in training; LitData counts from 1

    def __call__(self, item: tuple[str, int, bytes], epoch: int = 0) -> tuple[Tensor, Tensor]:
        name, label, data = item
        place = f"{self.split.root}: {name}"
        if not 0 <= label < len(self.split.classes):
            raise ZooError(f"{place}: has label {label}, but there are {len(self.split.classes)} classes")
        seed_all(self.seed, self.chunks.current_epoch if self.chunks else epoch + 1, name)
        return self.view(partial(decode_image, BytesIO(data), self.channels, place)), torch.tensor(label)


class _Indexed(Dataset):
    """Access by index, the same in each process, whereas the length of LitData's data set differs between processes."""

    def __init__(self, split: Stream, decode: _Decode) -> None:
        self.split, self.decode, self.chunks = split, decode, split._open()

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        epoch, row = divmod(int(index), len(self))
        self._download(row)
        return self.decode(self.chunks[row], epoch)

    def _download(self, index: int) -> None:
        """Download the whole chunk, once per machine. LitData itself would send two requests to the store for each image.

        Do nothing in the process that forks workers: once LitData's fast client was used there, it fails in the workers.
        """
        if self.chunks.input_dir.url is None or get_worker_info() is None:
            return
        if self.chunks.cache is None:
            self.chunks.cache = self.chunks._create_cache(None)
        reader = self.chunks.cache._reader
        _, chunk = reader._get_chunk_index_from_index(index)
        file, begun = Path(reader.config.download_filepath(chunk)), time.monotonic()
        while not file.exists():
            reader.config.download_chunk_from_index(chunk, skip_lock=True)  # returns at once if another process is doing it
            if time.monotonic() > begun + PATIENCE:
                raise ZooError(f"{self.split.root}/{file.name}: cannot be downloaded; if {file}.lock is stale, delete it")
            if not file.exists():
                time.sleep(0.05)


def _check_chunks(root: Path, split: str, index: dict[str, Any]) -> None:
    for chunk in index["chunks"]:
        path, size = root / split / chunk["filename"], chunk["chunk_bytes"]
        if not path.exists():
            raise ZooError(f"{path}: missing; it should have {size:,} bytes")
        if not path.resolve().is_relative_to(root.resolve()):
            raise ZooError(f"{path} links to a file outside of {root}; copy it there")
        check_chunk(path, chunk["chunk_size"], size)


def check_chunk(path: Path, items: int, size: int) -> None:
    """Check the size of a chunk and its first numbers: how many items it has, where each one begins and the last one ends.

    Raises:
        ZooError: they are not those of a chunk with this number of items and bytes.
    """
    with opened(path) as file:
        if (found := path.stat().st_size) != size:
            raise ZooError(f"{path}: has {found:,} bytes instead of {size:,}; copy it again")
        words = np.frombuffer(file.read(4 * (items + 2)), "<u4").astype(np.int64)
    if [*words[:2], words[-1]] != [items, 4 * (items + 2), size] or (np.diff(words[1:]) <= 0).any():
        raise ZooError(f"{path}: not the chunk that index.json describes, or damaged; copy it again")


def _odd(index: dict[str, Any]) -> str | None:
    """Return the first key of an index with a value that `data optimize` does not write."""
    config, classes, counts, chunks = (index[key] for key in ("config", "classes", "images_per_class", "chunks"))
    config = {"item_loader": FORMAT["item_loader"], **config}  # older versions of LitData did not write it
    faults = {
        **{f"config.{key}": config.get(key) != value for key, value in FORMAT.items()},
        "splits": not {"train"} <= set(index["splits"]) <= SPLITS.keys(),
        "classes": not all(isinstance(name, str) for name in classes),
        **{f"chunks[{number}]": not _is_plain(**chunk) for number, chunk in enumerate(chunks)},
        "images_per_class": not all(type(count) is int and count >= 0 for count in counts)
        or (len(counts), sum(counts)) != (len(classes), sum(chunk["chunk_size"] for chunk in chunks)),
    }
    return next((key for key, odd in faults.items() if odd), None)


def _is_plain(filename: str, chunk_size: int, chunk_bytes: int, **_: Any) -> bool:
    """Return True for a file name, not a path, and possible numbers of items and bytes."""
    whole = type(chunk_size) is type(chunk_bytes) is int and chunk_size > 0
    return bool(re.fullmatch(r"[\w-][\w.-]*", filename)) and whole and 4 * (chunk_size + 2) < min(chunk_bytes, TABLE)


def _index(root: str, name: str) -> dict[str, Any]:
    """Read the index of a split, and check all keys that decide how it is read."""
    place = f"{root}/{name}/index.json"
    try:
        index = json.loads(_download(place) if root.startswith(STORES) else text_of(place))
        odd = _odd(index)
    except FileNotFoundError:
        raise ZooError(f"data.root={root}: no such file {place}; set another, or run `inception-zoo data optimize`") from None
    except json.JSONDecodeError as error:
        raise ZooError(f"{place}: damaged ({error})") from None
    except ZooError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        odd = one_line(error)
    except Exception as error:  # each store raises its own types
        reason = one_line(error) or type(error).__name__
        raise ZooError(f"{place}: cannot be read ({reason})") from None
    if odd:
        raise ZooError(f"{place}: not written by `inception-zoo data optimize`, or changed since ({odd}); pack it again")
    return index


def _download(address: str) -> str:
    from litdata.streaming.downloader import get_downloader

    options = {}
    if address.startswith("s3://"):
        from botocore.config import Config

        # LitData makes a thousand attempts, too many for this check
        options["config"] = Config(retries={"total_max_attempts": 3}, connect_timeout=10, read_timeout=30)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "index.json"
        get_downloader(address, folder, [], options).download_file(address, str(file))
        return file.read_text("utf-8")
