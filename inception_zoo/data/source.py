"""Data sources: labelled images for training, validation and the test, in memory, in files or in chunks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from inception_zoo.data.reading import MODES, Read, read_image
from inception_zoo.errors import ZooError
from inception_zoo.system.seeding import seed_all

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W), labels (N,); after mixup and cutmix labels (N, classes)
View = Callable[[Read], Tensor]  # reads an image, whole or in part → the uint8 tensor that is stacked into a batch


class Split(Protocol):
    """Labelled images. What is in memory is changed in batches, on the device; the rest image by image, in workers."""

    in_memory: bool

    def __len__(self) -> int: ...

    def dataset(self, channels: int, view: View, seed: int = 0) -> Dataset:
        """By index: what `view` makes of the image, label. What is in memory gives whole batches, and leaves `view` alone.

        Index i + e * len(self) is image i as epoch e sees it: what the view draws follows from the seed and the index.
        """


@dataclass(frozen=True)
class Images:
    """uint8 images (N, C, H, W) and int64 labels (N,)."""

    images: Tensor
    labels: Tensor
    in_memory = True

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.images[index], self.labels[index])

    def dataset(self, channels: int, view: View, seed: int = 0) -> Dataset:
        return _Rows(self)


class _Rows(Dataset):
    """Images that are fetched a batch at a time: one indexing operation, no work per item."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, index: list[int]) -> Batch:
        rows = torch.tensor(index) % len(self)
        return self.images.images.index_select(0, rows), self.images.labels.index_select(0, rows)  # copies whole images


@dataclass(frozen=True)
class Files:
    """Image files, as paths relative to `root` (numpy strings: a million Python objects would be copied into each worker)."""

    root: Path
    paths: np.ndarray
    labels: Tensor
    in_memory = False

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Files":
        return Files(self.root, self.paths[index.numpy() if isinstance(index, Tensor) else index], self.labels[index])

    def dataset(self, channels: int, view: View, seed: int = 0) -> Dataset:
        return _Read(self, channels, view, seed)


def collate(items: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Views of images (…, C, H, W) and their labels as one batch, channels last, as decoders and networks have them."""
    images, labels = (list(each) for each in zip(*items, strict=True))
    if images[0].dim() < 3:  # what a view made is no image
        return torch.stack(images), torch.stack(labels)
    return torch.stack([image.movedim(-3, -1) for image in images]).movedim(-1, -3), torch.stack(labels)


class _Read(Dataset):
    def __init__(self, files: Files, channels: int, view: View, seed: int) -> None:
        self.files, self.channels, self.view, self.seed = files, channels, view, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = index % len(self)
        read = partial(read_image, self.files.root / str(self.files.paths[row]), self.channels)
        seed_all(self.seed, index)
        return self.view(read), self.files.labels[row]


@dataclass(frozen=True)
class Source:
    """A data set: its splits, and the class names by label. Without `val`, some training images are held out."""

    name: str
    train: Split
    test: Split
    classes: list[str]
    val: Split | None = None

    def only(self, labels: Sequence[int]) -> "Source":
        """The images of some classes, labelled 0, 1, … in that order; ZooError for a label that there is not."""
        unknown = [label for label in labels if not 0 <= label < len(self.classes)]
        if unknown:
            raise ZooError(f"data.classes: {unknown[0]} is no label; {self.name} has 0 to {len(self.classes) - 1}")
        new = torch.full((len(self.classes),), -1)
        new[list(labels)] = torch.arange(len(labels))

        def relabelled(split: Split) -> Split:
            if isinstance(split, Images):
                kept = split[new[split.labels] >= 0]
                return Images(kept.images, new[kept.labels])
            if isinstance(split, Files):
                files = split[(new[split.labels] >= 0).nonzero().flatten()]
                return Files(files.root, files.paths, new[files.labels])
            raise ZooError(f"data.classes: {self.name} is read in its own order and has all of its classes; leave it out")

        val = None if self.val is None else relabelled(self.val)
        return Source(self.name, relabelled(self.train), relabelled(self.test), [self.classes[i] for i in labels], val)

    def check(self, num_classes: int, in_channels: int) -> None:
        """ZooError if the network could not read these images or name these labels."""
        splits = {"training": self.train, "validation": self.val, "test": self.test}
        for name, split in splits.items():
            if not isinstance(split, Images | Files):  # whose labels are within its classes
                if (count := len(self.classes)) > num_classes:
                    raise ZooError(
                        f"data.num_classes={num_classes}: {self.name} has {count} classes; set data.num_classes={count}"
                    )
                continue
            count = len(split.images if isinstance(split, Images) else split.paths)
            if count != len(split.labels):
                raise ZooError(f"{self.name}: {count} {name} images, but {len(split.labels)} labels")
            top = int(split.labels.max())
            if top >= num_classes:
                raise ZooError(
                    f"data.num_classes={num_classes}: {self.name} has labels up to {top}; set data.num_classes={top + 1}"
                )
        if not isinstance(self.train, Images):
            if in_channels not in MODES:
                raise ZooError(f"data.in_channels={in_channels}: image files are read as 1 or 3 channels")
        elif (channels := self.train.images.shape[1]) != in_channels:
            raise ZooError(
                f"data.in_channels={in_channels}: {self.name}'s images have {channels}; set data.in_channels={channels}"
            )
