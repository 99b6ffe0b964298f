"""Data sources: labelled images for training, validation and test, in memory, in files or in chunks."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from inception_zoo.data.layout import check_names
from inception_zoo.data.reading import MODES, Read, read_image
from inception_zoo.errors import ZooError, shown
from inception_zoo.system.seeding import seed_all

# Images (N, C, H, W); labels int64 (N,), or float (N, classes) if several, soft or mixed; and in training, if there are some,
# the weights of the images, float (N,).
Batch = tuple[Tensor, ...]
View = Callable[[Read], Tensor]  # reads an image, whole or in part → uint8 tensor to be stacked into a batch


class Split(Protocol):
    """Labelled images. Images in memory are augmented in batches on the device, other images one by one in workers."""

    in_memory: bool

    def __len__(self) -> int: ...

    def dataset(self, channels: int, view: View, seed: int = 0, training: bool = False) -> Dataset:
        """Return a data set of (view of the image, label) by index.

        Index i + e * len(self) is image i in epoch e. Random draws of the view depend only on the seed and the index. Images
        in memory are returned in whole batches, without the view.

        Args:
            channels: 1 (grey) or 3 (RGB).
            view: reads an image and returns uint8 (…, C, H, W).
            seed: of the random draws.
            training: return soft labels and weights, if there are some, for the training loss.

        Returns:
            A data set of views, uint8 (…, C, H, W), and labels, int64 (); in memory, of batches as in `Images`.
        """


@dataclass(frozen=True)
class Images:
    """Images in memory, uint8 (N, C, H, W), and their labels, int64 (N,), or float (N, classes) of 0 and 1."""

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None  # int64 (N,), their numbers in the data set that they were chosen from
    in_memory = True

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        return Images(self.images[index], self.labels[index], rows[index])

    def dataset(self, channels: int, view: View, seed: int = 0, training: bool = False) -> Dataset:
        return _Rows(self)


class _Rows(Dataset):
    """Data set that returns a batch by one indexing operation, without work for each item."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, index: list[int]) -> Batch:
        rows = torch.tensor(index) % len(self)
        return self.images.images.index_select(0, rows), self.images.labels.index_select(0, rows)  # copies whole images at once


@dataclass(frozen=True)
class Files:
    """Image files, as paths (N,) relative to `root`, their labels as in `Images`, and optionally more columns.

    Paths are numpy strings, because a million Python objects would be copied into each worker.
    """

    root: Path
    paths: np.ndarray
    labels: Tensor
    groups: np.ndarray | None = field(default=None, kw_only=True)  # (N,), names of what may not be divided between splits
    subgroups: dict[str, np.ndarray] = field(default_factory=dict, kw_only=True)  # values (N,) by name, such as the sex
    soft: Tensor | None = field(default=None, kw_only=True)  # probabilities of the classes, float (N, classes), for training
    weights: Tensor | None = field(default=None, kw_only=True)  # of the images in the training loss, float (N,)
    in_memory = False

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Self:
        rows = index.numpy() if isinstance(index, Tensor) else index
        columns: dict[str, Any] = {"paths": self.paths[rows], "labels": self.labels[index]}
        columns |= {"groups": self.groups[rows]} if self.groups is not None else {}
        columns |= {"soft": self.soft[index]} if self.soft is not None else {}
        columns |= {"weights": self.weights[index]} if self.weights is not None else {}
        return replace(self, **columns, subgroups={name: values[rows] for name, values in self.subgroups.items()})

    def read(self, row: int, channels: int) -> Read:
        """Return the function that reads an image as uint8 (channels, H, W)."""
        return partial(read_image, self.root / str(self.paths[row]), channels)

    def dataset(self, channels: int, view: View, seed: int = 0, training: bool = False) -> Dataset:
        if not training:
            return _Read(self, channels, view, seed, (self.labels,))
        labels = self.labels if self.soft is None else self.soft
        return _Read(self, channels, view, seed, (labels,) if self.weights is None else (labels, self.weights))


def digest_of(split: Split) -> str:
    """Return a short digest of the labels, and of the images in memory or of the paths of files; a stream has none."""
    if not isinstance(split, Images | Files):
        return "stream"
    images: Any = (
        split.images.contiguous().numpy() if isinstance(split, Images) else os.fsencode("\0".join(split.paths.tolist()))
    )
    labels: Any = split.labels.contiguous().numpy()
    found = hashlib.blake2b(images, digest_size=6)
    found.update(labels)
    for column in (getattr(split, "soft", None), getattr(split, "weights", None)):
        if column is not None:
            found.update(column.contiguous().numpy())
    return found.hexdigest()


def too_large(batch_size: int, count: int, images: str) -> ZooError:
    """Return the error for a batch that is larger than the number of images, with the largest power of two that fits."""
    fits = f"set data.batch_size={1 << (count.bit_length() - 1)} or less"
    return ZooError(f"data.batch_size={batch_size} is more than the {count} {images}; {fits}")


def collate(items: Sequence[tuple[Tensor, ...]]) -> Batch:
    """Stack views and labels into a batch in the channels-last memory format, which decoders and networks use.

    Args:
        items: of each image, a view, uint8 (…, C, H, W), its label, int64 (), and possibly its weight, float ().

    Returns:
        Images uint8 (N, …, C, H, W), labels int64 (N,), or float (N, classes), and possibly weights float (N,).
    """
    images, *others = (list(each) for each in zip(*items, strict=True))
    columns = [torch.stack(each) for each in others]
    if images[0].dim() < 3:  # the views are not images
        return torch.stack(images), *columns
    return torch.stack([image.movedim(-3, -1) for image in images]).movedim(-1, -3), *columns


class _Read(Dataset):
    def __init__(self, files: Files, channels: int, view: View, seed: int, columns: tuple[Tensor, ...]) -> None:
        self.files, self.channels, self.view, self.seed, self.columns = files, channels, view, seed, columns

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        row = index % len(self)
        seed_all(self.seed, index)
        return self.view(self.files.read(row, self.channels)), *(column[row] for column in self.columns)


@dataclass(frozen=True)
class Source:
    """A data set: its splits and the class names by label, if any. `ImageData` makes the splits that are None.

    `bad` has the paths of files that cannot be read, each with the reason; the splits are without them. `lost` has the splits
    and labels of which no file can be read. If `trains` is False, there are no training images, and `train` is the test split.
    """

    name: str
    train: Split
    test: Split | None
    classes: list[str]
    val: Split | None = None
    bad: Sequence[str] = ()
    lost: Sequence[tuple[str, int]] = ()
    trains: bool = True

    def __post_init__(self) -> None:
        check_names(self.name, self.classes)

    def splits(self) -> dict[str, Split | None]:
        """Return the splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def only(self, labels: Sequence[int]) -> "Source":
        """Return the images of some classes, with new labels 0, 1, … in the given order.

        Args:
            labels: labels of the classes to keep.

        Raises:
            ZooError: an unknown label, or the data set is a stream.
        """
        unknown = [label for label in labels if not 0 <= label < len(self.classes)]
        if unknown:
            raise ZooError(f"data.classes: unknown label {unknown[0]}; {self.name} has labels 0 to {len(self.classes) - 1}")
        new = torch.full((len(self.classes),), -1)
        new[list(labels)] = torch.arange(len(labels))

        def relabelled(split: Split) -> Split:
            if getattr(split, "soft", None) is not None:
                given = f"data.classes={shown(list(labels))}"
                raise ZooError(f"{given}: cannot be combined with data.source.probabilities; remove one of them")
            if isinstance(split, Images | Files) and split.labels.dim() == 2:
                return replace(split, labels=split.labels[:, list(labels)])
            if isinstance(split, Images | Files):
                kept = split[(new[split.labels] >= 0).nonzero().flatten()]
                if not len(kept):
                    raise ZooError(f"data.classes={shown(list(labels))}: a split of {self.name} has no images of these classes")
                return replace(kept, labels=new[kept.labels])
            raise ZooError(f"data.classes: classes cannot be selected from a {self.name}; remove data.classes")

        splits: dict[str, Any] = {name: split and relabelled(split) for name, split in self.splits().items()}
        return replace(self, classes=[self.classes[i] for i in labels], **splits)

    def check(self, num_classes: int, in_channels: int) -> None:
        """Check that a network fits these images and labels.

        Args:
            num_classes: number of classes of the network.
            in_channels: number of image channels of the network.

        Raises:
            ZooError: there is another number of classes or channels, or another number of labels than images.
        """
        has = f"data.num_classes={num_classes}: {self.name} has"
        if self.classes and (count := len(self.classes)) != num_classes:
            larger = f", and model.num_classes={num_classes} for a larger network" if num_classes > count else ""
            raise ZooError(f"{has} {count} classes; set data.num_classes={count}{larger}")
        for name, split in self.splits().items():
            if not isinstance(split, Images | Files):  # a stream, whose labels are checked when they are read
                continue
            count = len(split.images if isinstance(split, Images) else split.paths)
            if count != len(split.labels):
                raise ZooError(f"{self.name}: {count} {name} images, but {len(split.labels)} labels")
            top = split.labels.shape[1] - 1 if split.labels.dim() == 2 else int(split.labels.max())
            if top >= num_classes:
                raise ZooError(f"{has} labels up to {top}; set data.num_classes={top + 1}")
        channels = self.train.images.shape[1] if isinstance(self.train, Images) else getattr(self.train, "channels", None)
        if channels is None:
            if in_channels not in MODES:
                raise ZooError(f"data.in_channels={in_channels}: image files are read as 1 or 3 channels")
        elif channels != in_channels:
            other = f"{self.name} has {channels} image channels"
            raise ZooError(f"data.in_channels={in_channels}: {other}; set data.in_channels={channels}")
