"""What a source hands over: labelled images for training and for the test, held in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inception_zoo.errors import ZooError

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W), labels (N,)


@dataclass(frozen=True)
class Images:
    """uint8 images (N, C, H, W) and int64 labels (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Source:
    """A data set: the published training and test split, and the class names by label."""

    name: str
    train: Images
    test: Images
    classes: list[str]

    def only(self, labels: Sequence[int]) -> "Source":
        """The images of some classes, labelled 0, 1, … in that order; ZooError for a label that there is not."""
        unknown = [label for label in labels if not 0 <= label < len(self.classes)]
        if unknown:
            raise ZooError(f"data.classes: {unknown[0]} is no label; {self.name} has 0 to {len(self.classes) - 1}")
        new = torch.full((len(self.classes),), -1)
        new[list(labels)] = torch.arange(len(labels))

        def relabelled(split: Images) -> Images:
            kept = split[new[split.labels] >= 0]
            return Images(kept.images, new[kept.labels])

        return Source(self.name, relabelled(self.train), relabelled(self.test), [self.classes[label] for label in labels])

    def check(self, num_classes: int, in_channels: int) -> None:
        """ZooError if the network could not read these images or name these labels."""
        top = int(max(self.train.labels.max(), self.test.labels.max()))
        if top >= num_classes:
            raise ZooError(
                f"data.num_classes={num_classes}: {self.name} has labels up to {top}; set data.num_classes={top + 1}"
            )
        for split, rows in (("training", self.train), ("test", self.test)):
            if len(rows.images) != len(rows.labels):
                raise ZooError(f"{self.name}: {len(rows.images)} {split} images, but {len(rows.labels)} labels")
        channels = self.train.images.shape[1]
        if channels != in_channels:
            raise ZooError(
                f"data.in_channels={in_channels}: {self.name}'s images have {channels}; set data.in_channels={channels}"
            )
