"""Packing of image folders into LitData's chunks, which `inception_zoo.data.stream` reads.

LitData: https://github.com/Lightning-AI/litdata.
"""

import os
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import track

from inception_zoo.data.source import Files, Source
from inception_zoo.errors import ZooError, check_installed, check_whole
from inception_zoo.system.atomic_files import sweep_up, whole_file
from inception_zoo.system.records import read_json, write_json
from inception_zoo.system.regular_files import opened
from inception_zoo.system.terminal import console

SEED = 0  # of the order of the training images in the chunks
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
LARGEST = 2 * UNITS["GB"]  # bytes in a chunk; LitData's offsets have 32 bits
AHEAD = 256  # most files that are read ahead of the writer

Item = tuple[str, int, bytes]  # path in the folder, label, bytes of the file


def optimize_folder(source: Source, out: Path, chunk_bytes: str = "64MB", workers: int = 8) -> None:
    """Pack the splits of an image folder into LitData's chunks. `out` is written atomically.

    A chunk has the unchanged image files with their labels and paths. `out` contains a LitData data set in each of the
    folders `train`, `val` and `test` (if they exist). LitData's `index.json` in these folders also lists the splits, the class
    names by label, and the number of images of each class. `classes.json` in `out` has only the class names. Training images
    are in random order, so that each chunk has many classes. Any tool can copy the folder to an object store.

    Args:
        source: a data set whose splits are image files.
        out: a folder that does not exist yet or is empty.
        chunk_bytes: size of a chunk, such as `64MB`; at most `2GB`.
        workers: number of threads that read files.

    Raises:
        ZooError: `out` is not empty, a file cannot be read or is empty, or `out` cannot be written.
    """
    check_installed("litdata", "stream", "data optimize")
    check_whole("workers", workers, at_least=1)
    size = _size(chunk_bytes)
    sweep_up(out.parent, out.name)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ZooError(f"{out}: already exists and is not an empty folder; choose another path, or delete it")
    files = {name: split for name, split in source.splits().items() if split is not None}
    if len(files) == 1:
        raise ZooError(f"{source.name}: chunks cannot be divided later; give the images of validation a folder `val`")
    try:
        with whole_file(out, parents=True) as partial_out:
            partial_out.mkdir()
            for name, split in files.items():
                more = [getattr(split, "soft", None), getattr(split, "weights", None)]
                if not isinstance(split, Files) or split.labels.dim() == 2 or any(column is not None for column in more):
                    what = "one label for each image, and no weights, can be packed into chunks"
                    raise ZooError(f"{source.name}: only image folders, with {what}")
                _write(split, partial_out / name, size, workers)
                _add(partial_out / name / "index.json", split, list(files), source.classes)
            write_json(partial_out / "classes.json", source.classes)
    except OSError as error:
        raise ZooError(f"{out}: cannot be written ({error.strerror or error})") from None


def _size(text: str) -> int:
    match = re.fullmatch(r"([1-9]\d*)(KB|MB|GB)", text.upper())
    size = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < size <= LARGEST:
        raise ZooError(f"chunk size {text} must be a number with the unit KB, MB or GB, at most 2GB")
    return size


def _write(split: Files, folder: Path, size: int, workers: int) -> None:
    """Write one LitData data set in this process. Reading takes most of the time, and threads do that."""
    from litdata import complete_dataset
    from litdata.streaming import Cache

    order = np.arange(len(split))
    if folder.name == "train":
        order = np.random.default_rng(SEED).permutation(order)
    cache = Cache(str(folder), chunk_bytes=size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "An item was larger than the target chunk size")
        items = track(_read(split, order, workers), folder.name, len(split), console=console(stderr=True))
        for number, item in enumerate(items):
            cache[number] = item
        cache.done()
    complete_dataset(str(folder))


def _add(index: Path, split: Files, splits: list[str], classes: list[str]) -> None:
    counts = np.bincount(split.labels.numpy(), minlength=len(classes)).tolist()
    added = {"splits": splits, "classes": classes, "images_per_class": counts}
    write_json(index, {**read_json(index, {}), **added})


def _read(split: Files, order: np.ndarray, workers: int) -> Iterator[Item]:
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(order), AHEAD):
            yield from pool.map(partial(_item, split), order[start : start + AHEAD])


def _item(split: Files, index: int) -> Item:
    name = str(split.paths[index])
    try:
        with opened(split.root / name) as file:
            data = file.read()
    except OSError as error:
        raise ZooError(f"{split.root / name}: cannot be read ({error.strerror})") from None
    if not data:
        raise ZooError(f"{split.root / name}: is empty")
    return os.fsencode(name).decode(errors="backslashreplace"), int(split.labels[index]), data  # the text must be UTF-8
