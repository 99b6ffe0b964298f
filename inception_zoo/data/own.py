"""Data sets of the user's own code: map-style Datasets of (image, label)."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from inception_zoo.data.layout import SPLITS
from inception_zoo.data.pictures import upright
from inception_zoo.data.reading import MODES, Draw, Read, part_of, pixels_of
from inception_zoo.data.source import Files, Source
from inception_zoo.errors import ZooError, one_line, shown
from inception_zoo.system.ranks import is_first
from inception_zoo.system.regular_files import check_regular

DATASET = "a Dataset with __len__ and __getitem__ (not an IterableDataset), or a mapping of them by train, val and test"
ITEM = "a pair (image, label); the image is a PIL image, a uint8 tensor (C, H, W) or a uint8 array (H, W, C)"

log = logging.getLogger(__name__)


def load_source(source: Callable[..., Any], root: str | None) -> Source:
    """Call the function or class of a data set, and return its result as a `Source`.

    Args:
        source: returns a `Source`; a map-style Dataset of (image, label), whose images `ImageData` divides; or a mapping of
            such Datasets with the keys `train` and, if they exist, `val` and `test`.
        root: its argument; None: it is called without one.

    Raises:
        ZooError: it cannot be called in this way, or returns something else.
    """
    function, arguments = getattr(source, "func", source), () if root is None else (root,)
    name = f"data.source={function.__module__}.{function.__qualname__}"
    try:
        signature(source).bind(*arguments)
    except TypeError as error:
        raise ZooError(f"{name}, data.root={shown(root)}: {error}; set data.root, or +data.source.NAME=VALUE") from None
    found = source(*arguments)
    if isinstance(found, Source):
        return found
    parts = dict(found) if isinstance(found, Mapping) else {"train": found}
    if "train" not in parts or not parts.keys() <= SPLITS.keys():
        raise ZooError(f"{name}: has the keys {', '.join(map(str, parts))}; expected train, and optionally val and test")
    splits = {key: _items(dataset, name) for key, dataset in parts.items()}
    names = [list(map(str, getattr(dataset, "classes", ()))) for dataset in parts.values()]
    if any(each != names[0] for each in names):
        raise ZooError(f"{name}: the attribute `classes` differs between {', '.join(parts)}; make it the same")
    classes = names[0] or [str(label) for label in range(1 + max(int(split.labels.max()) for split in splits.values()))]
    return Source(function.__qualname__, splits["train"], splits.get("test"), classes, splits.get("val"))


@dataclass(frozen=True)
class Items(Files):
    """Images of a Dataset: `paths` has their paths or numbers, `rows` (N,) their indices in it. None: 1 or 3 channels."""

    item: Callable[..., Any]  # see `_item`
    rows: Tensor
    channels: int | None

    def __getitem__(self, index: Tensor | slice) -> Self:
        return replace(super().__getitem__(index), rows=self.rows[index])

    def read(self, row: int, channels: int) -> Read:
        return partial(self._image, int(self.rows[row]), str(self.paths[row]), channels)

    def _image(self, row: int, path: str, channels: int, draw: Draw | None = None) -> Tensor:
        if (pixels := _tensor(self.item(row, path, channels)[0])) is None or len(pixels) != channels:
            raise ZooError(f"data.source: image {row} is not uint8 with {channels} channels")
        return part_of(pixels, draw)


def _item(dataset: Any, name: str, row: int, path: str = "", channels: int = 0) -> Any:
    """Return an item, with a PIL image decoded if `channels` is given. An error names the item, and its path if known."""
    if known := path not in ("", str(row)):
        check_regular(path)
    try:
        item = dataset[row]
        if channels and isinstance(item[0], Image.Image):
            return pixels_of(upright(item[0], MODES[channels]), channels), item[1]
    except Exception as error:
        place = f"item {row} ({path})" if known else f"item {row}"
        raise ZooError(f"{name}: {place}: {type(error).__name__}: {one_line(error)}") from error
    return item


def _samples(dataset: Any) -> Sequence[Any]:
    """Return the pairs (path, label) of the items, as torchvision's data sets of files have them; empty if there are none."""
    found = getattr(dataset, "samples", getattr(dataset, "imgs", ()))
    pairs = isinstance(found, list | tuple) and all(isinstance(each, list | tuple) and len(each) == 2 for each in found)
    return found if pairs and len(found) == len(dataset) else ()


def _items(dataset: Any, name: str) -> Items:
    usable = not isinstance(dataset, IterableDataset) and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not usable or not len(dataset):
        raise ZooError(f"{name}: returned {type(dataset).__name__}; expected {DATASET}")
    paths = [str(path) for path, _ in _samples(dataset)] or list(map(str, range(len(dataset))))
    item = _item(dataset, name, 0, paths[0])
    image = item[0] if isinstance(item, tuple | list) and len(item) == 2 else None
    pixels = _tensor(image)
    if pixels is None and not isinstance(image, Image.Image):
        kind = type(item if image is None else image).__name__
        raise ZooError(f"{name}: item 0 has the type {kind}; expected {ITEM}, without ToTensor and Normalize")
    rows, channels = torch.arange(len(dataset)), None if pixels is None else len(pixels)
    return Items(Path(), np.array(paths), _labels(dataset, name, paths), partial(_item, dataset, name), rows, channels)


def _labels(dataset: Any, name: str, paths: Sequence[str]) -> Tensor:
    """Return the labels from `targets`, `labels`, `samples` or `imgs`, as in torchvision; otherwise read all items."""
    known = *(getattr(dataset, key, ()) for key in ("targets", "labels")), [label for _, label in _samples(dataset)]
    labels = next((each for each in map(np.asarray, known) if each.shape == (len(dataset),) and each.dtype.kind in "iu"), None)
    if labels is None:
        if is_first():
            log.info("%s: reading all %d items for their labels; the attribute `targets` would save this", name, len(dataset))
        labels = np.asarray([_item(dataset, name, row, path)[1] for row, path in enumerate(paths)])
    whole = labels.ndim == 1 and labels.dtype.kind in "iu" and labels.min() >= 0
    if not whole or any(_item(dataset, name, row, paths[row])[1] != labels[row] for row in (0, len(dataset) - 1)):
        raise ZooError(f"{name}: the labels must be whole numbers from 0, in `targets` or `samples` the same as in the items")
    return torch.from_numpy(labels.astype(np.int64))


def _tensor(image: Any) -> Tensor | None:
    """Return uint8 (C, H, W); None for another type or shape."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        return torch.from_numpy(np.array(np.atleast_3d(image))).permute(2, 0, 1)
    return image.as_subclass(Tensor) if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.dim() == 3 else None
