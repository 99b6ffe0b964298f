"""The DataModule: a source, its held-out validation split, batches on the device."""

from collections.abc import Callable, Sequence

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from inception_zoo.data.augment import random_flip, random_shift
from inception_zoo.data.pixels import normalize
from inception_zoo.data.source import Batch, Images, Source
from inception_zoo.errors import ZooError
from inception_zoo.preprocessing import Preprocessing


class _Rows(Dataset):
    """Images that are fetched a batch at a time: one indexing operation, no per-item work."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, index: list[int]) -> Batch:
        rows = self.images[torch.tensor(index)]
        return rows.images, rows.labels


class ImageData(L.LightningDataModule):
    """Images in memory as uint8, resized once; normalized and augmented in batches on the device.

    Args:
        source: reads the data set; a function of `root` if that is given.
        num_classes, in_channels: what the network is built for; checked against the source.
        image_size: side in pixels that the network sees.
        batch_size: global; divided by the number of processes.
        val_size: images held out from the training split for validation. The test split is never used for selection.
        mean, std: per channel, of pixels in 0 to 1.
        flip: mirror training images at random.
        shift: move training images by up to so many pixels.
        seed: of the validation split.
        root: folder of the files, for sources that have any.
        interpolation: `bilinear` or `bicubic`, antialiased; `nearest`.
        classes: labels of the source that are used, labelled 0, 1, … in this order; all when left out.
        per_class: training images of each class, chosen by `seed`; all when left out.
    """

    def __init__(
        self,
        source: Callable[..., Source],
        num_classes: int,
        in_channels: int,
        image_size: int,
        batch_size: int,
        val_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        flip: bool,
        shift: int,
        seed: int,
        root: str | None = None,
        interpolation: str = "bilinear",
        classes: Sequence[int] | None = None,
        per_class: int | None = None,
    ) -> None:
        super().__init__()
        self.source, self.root = source, root
        self.num_classes, self.in_channels = num_classes, in_channels
        self.image_size, self.batch_size, self.val_size = image_size, batch_size, val_size
        # what the network's images go through
        self.preprocessing = Preprocessing(image_size, tuple(mean), tuple(std), image_size, interpolation)
        self.flip, self.shift, self.seed = flip, shift, seed
        self.labels, self.per_class = classes, per_class
        self.splits: dict[str, Images] = {}
        self.classes: list[str] | None = None  # names by label, once the source is read

    def prepare_data(self) -> None:
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read and check the source, once."""
        if self.splits:
            return
        data = self.source() if self.root is None else self.source(self.root)
        if self.labels is not None:
            data = data.only(list(self.labels))
        data.check(self.num_classes, self.in_channels)
        if not 0 < self.val_size < len(data.train):
            raise ZooError(f"data.val_size={self.val_size} must be from 1 to {len(data.train) - 1}")
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(self.seed))
        train = self._few(data.train[order[self.val_size :]])
        if self.batch_size > len(train):
            raise ZooError(f"data.batch_size={self.batch_size} is more than the {len(train)} training images")
        self.classes = data.classes if len(data.classes) == self.num_classes else None
        self.splits = {
            "train": self._resized(train),
            "val": self._resized(data.train[order[: self.val_size]]),
            "test": self._resized(data.test),
        }

    def _few(self, split: Images) -> Images:
        """The first `per_class` images of every class."""
        if self.per_class is None:
            return split
        rows = [(split.labels == label).nonzero().flatten()[: self.per_class] for label in range(self.num_classes)]
        if short := [label for label, found in enumerate(rows) if len(found) < self.per_class]:
            raise ZooError(f"data.per_class={self.per_class}: class {short[0]} has only {len(rows[short[0]])} training images")
        return split[torch.cat(rows)]

    def _resized(self, split: Images) -> Images:
        size = [self.image_size, self.image_size]
        if list(split.images.shape[-2:]) == size:
            return split
        how = InterpolationMode(self.preprocessing.interpolation)
        chunks = [T.resize(chunk, size, how, antialias=True) for chunk in split.images.split(4096)]
        return Images(torch.cat(chunks), split.labels)

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")

    def _loader(self, split: str, drop_last: bool = False) -> DataLoader:
        rows = _Rows(self.splits[split])
        world_size = self.trainer.world_size if self.trainer else 1
        size = self.batch_size // world_size
        sampler = RandomSampler(rows) if split == "train" else SequentialSampler(rows)
        return DataLoader(rows, size, sampler=sampler, drop_last=drop_last, collate_fn=lambda batch: batch)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, labels = batch
        images = normalize(images, self.preprocessing)
        if self.trainer and self.trainer.training:
            images = random_flip(images) if self.flip else images
            images = random_shift(images, self.shift) if self.shift else images
        dtype = self.trainer.lightning_module.dtype if self.trainer else torch.float32  # bf16-true and its like
        return images.to(dtype).contiguous(memory_format=torch.channels_last), labels
