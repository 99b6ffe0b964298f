"""The DataModule: a source, its held-out validation split, batches that every process shares out exactly."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import call
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import suggested_max_num_workers
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, Sampler
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data.augmentation import Augmentation
from inception_zoo.data.crops import check_crops, views
from inception_zoo.data.pixels import centre, normalize
from inception_zoo.data.reading import Read
from inception_zoo.data.source import Batch, Files, Images, Source, Split, View, collate
from inception_zoo.data.stream import Stream
from inception_zoo.errors import ZooError
from inception_zoo.system.seeding import seed_all

SHARES = 8  # the batches of an evaluation are the same for so many processes, at least


class ImageData(L.LightningDataModule):
    """Labelled images from memory, files or a stream, augmented, normalized, and shared out among the processes.

    What is in memory is resized once, to squares, and augmented in batches on the device. Files and streams are decoded,
    augmented and cropped image by image in workers.

    Args:
        source: reads the data set; a function of `root` if that is given.
        num_classes, in_channels: what the network is built for; checked against the source.
        image_size: side in pixels that the network sees.
        batch_size: of training, global; divided by the number of processes.
        val_size: images held out from the training split for validation, where the source has no validation split.
        mean, std: per channel, of pixels in 0 to 1.
        seed: of the validation split, and of the order of training.
        root: folder of the files, for sources that have any.
        crop_pct: share of the resized image's shorter side that the centre crop of evaluation has, as 0.875 is 224 of 256.
        interpolation: `bilinear` or `bicubic`, antialiased; `nearest`.
        eval_batch_size: of validation and test, in each process, whatever their number; divided by `crops`.
        crops: views of each image that the test averages: 1, 2, 10 or 144, see `inception_zoo.data.crops`.
        workers: processes that read and decode for each process that trains; its share of the cores when left out.
        progressive: epoch → side in pixels of the training images from that epoch on; `image_size` before and without.
        classes: labels of the source that are used, labelled 0, 1, … in this order; all when left out.
        per_class: training images of each class, chosen by `seed`; all when left out.
        flip: probability of mirroring, for the augmentations of `conf` to read; 0 where a mirrored image is of another class.
        augmentation: of training images; none when left out.
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
        seed: int = 0,
        root: str | None = None,
        crop_pct: float = 1.0,
        interpolation: str = "bilinear",
        eval_batch_size: int = 100,
        crops: int = 1,
        workers: int | None = None,
        progressive: Mapping[int, int] | None = None,
        classes: Sequence[int] | None = None,
        per_class: int | None = None,
        flip: float = 0.0,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.source, self.root, self.seed = source, root, seed
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size
        resize = round(image_size / crop_pct)
        # what the network's images go through
        self.preprocessing = Preprocessing(image_size, tuple(mean), tuple(std), resize, interpolation)
        self.crops, self.workers, self.progressive = crops, workers, dict(progressive or {})
        self.labels, self.per_class, self.flip = classes, per_class, flip
        self.augmentation = augmentation or Augmentation()
        self.augmentation.interpolate(interpolation)
        check_crops(crops)
        self.splits: dict[str, Split] = {}
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
        train, val = self._held_out(data)
        train = self._few(train)
        if self.batch_size > len(train):
            raise ZooError(f"data.batch_size={self.batch_size} is more than the {len(train)} training images")
        self.classes = data.classes if len(data.classes) == self.num_classes else None
        self.splits = {"train": self._resized(train), "val": self._resized(val), "test": self._resized(data.test)}

    def check_batch(self, world_size: int) -> None:
        """ZooError if the training images cannot be augmented as they are asked to be, in batches of so many processes."""
        if not self.splits:
            return
        split = self.splits["train"]
        if isinstance(split, Images):
            image = split.images[0]
        elif isinstance(split, Stream):  # from a store, where a chunk would have to be downloaded for it
            image = torch.zeros(self.in_channels, *[self.preprocessing.resize] * 2, dtype=torch.uint8)
        else:
            image = split.dataset(self.in_channels, call)[0][0]  # as it is read
        self.augmentation.check(image, self.preprocessing, self.batch_size // world_size)

    def _held_out(self, data: Source) -> tuple[Split, Split]:
        if data.val is not None:
            return data.train, data.val
        train = data.train
        if not isinstance(train, Images | Files):
            raise ZooError(
                f"data.root={self.root}: a stream needs a validation split; make one in the folder that it is made of"
            )
        if not 0 < self.val_size < len(train):
            raise ZooError(f"data.val_size={self.val_size} must be from 1 to {len(train) - 1}")
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
        return train[order[self.val_size :]], train[order[: self.val_size]]

    def _few(self, split: Split) -> Split:
        """The first `per_class` images of every class."""
        if self.per_class is None:
            return split
        if not isinstance(split, Images | Files):
            raise ZooError(f"data.per_class={self.per_class}: a stream is read in its own order, whole; leave it out")
        rows = [(split.labels == label).nonzero().flatten()[: self.per_class] for label in range(self.num_classes)]
        if short := [label for label, found in enumerate(rows) if len(found) < self.per_class]:
            raise ZooError(f"data.per_class={self.per_class}: class {short[0]} has only {len(rows[short[0]])} training images")
        return split[torch.cat(rows)]

    def _resized(self, split: Split) -> Split:
        size = [self.preprocessing.resize] * 2
        if not isinstance(split, Images) or list(split.images.shape[-2:]) == size:
            return split
        how = InterpolationMode(self.preprocessing.interpolation)
        chunks = [T.resize(chunk, size, how, antialias=True) for chunk in split.images.split(4096)]
        return Images(torch.cat(chunks), split.labels)

    def train_dataloader(self) -> Any:
        split, size = self.splits["train"], self.batch_size // self._world_size
        if isinstance(split, Stream):
            return split.loader(self.in_channels, self._training_view, size, self._workers, self.seed)
        dataset = split.dataset(self.in_channels, self._training_view, self.seed)
        return DataLoader(dataset, size, sampler=self._order(*self._place), drop_last=True, **self._loading(split))

    def _order(self, epoch: int, batch: int) -> "Order":
        size = self.batch_size // self._world_size
        return Order(self.splits["train"], size, self._world_size, self._rank, self.seed, epoch, batch)

    @property
    def _place(self) -> tuple[int, int]:
        """The epoch and the number of the batch that training comes to next."""
        if not self.trainer:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.completed

    def training_rows(self, epoch: int, batch: int) -> str:
        """Name the images that this process had in a batch, for a message."""
        split = self.splits["train"]
        if isinstance(split, Stream):
            return "of a stream"
        rows = [row % len(split) for row in islice(self._order(epoch, batch), self.batch_size // self._world_size)]
        if isinstance(split, Files):
            return ", ".join(str(split.paths[row]) for row in rows)
        return f"training images {', '.join(map(str, rows))}"

    @property
    def _training_view(self) -> View:
        return partial(self.augmentation.of_picture, preprocessing=self.preprocessing)

    def val_dataloader(self) -> DataLoader:
        return self._evaluated("val")

    def test_dataloader(self) -> DataLoader:
        return self._evaluated("test")

    def _evaluated(self, name: str) -> DataLoader:
        """Every image once: the same batches for any number of processes, dealt to them in turn."""
        count = len(self.splits[name])
        if count < self._world_size:
            raise ZooError(f"the {name} split has {count} images, too few for {self._world_size} processes")
        crops = self.crops if name == "test" else 1
        share = count // max(SHARES, self._world_size)  # so that few images make a batch for every process, too
        size = max(1, min(self.eval_batch_size // crops, share))
        return self.batches(name, InTurn(count, size, self._world_size, self._rank), crops=crops)

    def batches(self, name: str, rows: Iterable[list[int]], training: bool = False, crops: int = 1) -> DataLoader:
        """Batches of the given rows of a split, as evaluation or as training reads them."""
        split = self.splits[name]
        seen = partial(_views_first, preprocessing=self.preprocessing, crops=crops)
        dataset = split.dataset(self.in_channels, self._training_view if training else seen, self.seed)
        return DataLoader(dataset, batch_sampler=rows, **self._loading(split))

    def _loading(self, split: Split) -> dict[str, Any]:
        if split.in_memory:
            return {"collate_fn": lambda batch: batch}
        workers = self._workers
        return {
            "collate_fn": collate,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    @property
    def _workers(self) -> int:
        processes = self.trainer.num_devices if self.trainer else 1
        return suggested_max_num_workers(processes) if self.workers is None else self.workers

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    def training_size(self, epoch: int) -> int:
        """Side in pixels of the training images of an epoch, counted from 0."""
        begun = [first for first in self.progressive if first <= epoch]
        return self.progressive[max(begun)] if begun else self.image_size

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if not self.trainer:
            return self.prepared(batch, training=False)
        if self.trainer.training:
            seed_all(self.seed, self._rank, *self._place)  # for what is drawn on the device, and dropout after it
        crops = self.crops if self.trainer.testing else 1
        images, labels = self.prepared(batch, self.trainer.training, self.trainer.current_epoch, crops)
        return images.to(self.trainer.lightning_module.dtype), labels  # bf16-true and its like

    def prepared(self, batch: Batch, training: bool, epoch: int = 0, crops: int = 1) -> Batch:
        """A batch as its loader gives it, on its device → what the network reads and learns from."""
        images, labels = batch
        if self.splits["train"].in_memory:
            images = self._in_memory(images, training, crops)
        images = normalize(images, self.preprocessing)
        if training:
            if (size := self.training_size(epoch)) != self.image_size:
                images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
            images, labels = self.augmentation.mix(images, labels, self.num_classes)
        if images.dim() == 4:  # else (N, V, C, H, W), several views of each image
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels

    def _in_memory(self, images: Tensor, training: bool, crops: int) -> Tensor:
        if training:
            return self.augmentation.of_batch(images if self.augmentation.crop else centre(images, self.preprocessing))
        seen = views(images, self.preprocessing, crops)
        return seen[0] if crops == 1 else seen.transpose(0, 1)


class Order(DistributedSampler):
    """torch's order of training, which follows from the seed and the epoch, from any batch of the first epoch on.

    That is all there is to going on in mid-epoch, with any number of workers and processes. The number of an image says
    the epoch, too: workers that live on from one epoch to the next learn of it in no other way. See `Split.dataset`.
    """

    def __init__(self, split: Any, size: int, world_size: int, rank: int, seed: int, epoch: int, begun: int) -> None:
        super().__init__(split, world_size, rank, shuffle=True, seed=seed, drop_last=True)
        self.images, self.first, self.done = len(split), epoch, begun * size
        self.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        rows = list(super().__iter__())
        return (self.epoch * self.images + row for row in rows[self.done if self.epoch == self.first else 0 :])


class InTurn(Sampler[list[int]]):
    """Batches of consecutive images; of `world_size` processes, each takes every so-manieth. Nothing is padded or repeated."""

    def __init__(self, count: int, size: int, world_size: int, rank: int) -> None:
        self.starts = range(rank * size, count, world_size * size)
        self.count, self.size = count, size

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(start, min(start + self.size, self.count))) for start in self.starts)

    def __len__(self) -> int:
        return len(self.starts)


def _views_first(read: Read, preprocessing: Preprocessing, crops: int) -> Tensor:
    seen = views(read(), preprocessing, crops)
    return seen[0] if crops == 1 else seen
