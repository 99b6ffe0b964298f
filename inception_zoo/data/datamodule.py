"""LightningDataModule that reads a source, holds out validation images, and divides batches exactly among processes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import call
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities import suggested_max_num_workers
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data.augmentation import Augmentation
from inception_zoo.data.crops import check_crops, views
from inception_zoo.data.division import Sizes, divide
from inception_zoo.data.inspection import treat_bad
from inception_zoo.data.labels import counts_of, strata
from inception_zoo.data.own import load_source
from inception_zoo.data.pixels import centre, normalize
from inception_zoo.data.reading import Read
from inception_zoo.data.samplers import InTurn, Order
from inception_zoo.data.source import Batch, Files, Images, Source, Split, View, collate, too_large
from inception_zoo.data.stream import Stream
from inception_zoo.errors import ZooError
from inception_zoo.system.seeding import seed_all
from inception_zoo.system.terminal import obey_parent

SHARES = 8  # evaluation has the same batches for any number of processes up to this one


class ImageData(L.LightningDataModule):
    """LightningDataModule of labelled images from memory, files or a stream.

    Images are augmented, normalized, and divided among the processes. Images in memory are resized to squares once and
    augmented in batches on the device. Images of files and streams are decoded, augmented and cropped one by one in workers.

    Args:
        source: reads the data set; called with `root` if that is given.
        num_classes: number of classes of the network; checked against the source.
        in_channels: number of image channels of the network; checked against the source.
        image_size: side of the network's input in pixels.
        batch_size: global batch size of training, which is divided by the number of processes.
        split: sizes of the splits `val` and `test` that are made where the source has none; see `divide`.
        mean: per channel, of pixels from 0 to 1.
        std: per channel, of pixels from 0 to 1.
        seed: of the validation split, the order of training and the augmentation.
        root: folder of the data set, for sources that need one.
        crop_pct: side of evaluation's centre crop, relative to the shorter side of the resized image: 0.875 for 224 of 256.
        interpolation: `bilinear` or `bicubic` with antialiasing, or `nearest`.
        eval_batch_size: batch size of validation and test in each process, for any number of processes; divided by `crops`.
        crops: views of each image that the test averages: 1, 2, 10 or 144, see `inception_zoo.data.crops`.
        workers: processes that read and decode images, for each training process. The default is its share of the cores.
        progressive: epoch → side in pixels of the training images from that epoch on. The default is `image_size`.
        classes: labels of the classes to use, which get the labels 0, 1, … in this order. The default is all classes.
        per_class: number of training images of each class, or a list of them, chosen by `seed`. The default is all images.
        flip: probability of a mirror image, which the configs in `conf/augmentation` use; 0 if mirroring changes the class.
        augmentation: of training images. The default is none.
        on_bad_file: `error`, or `skip` to leave out image files that cannot be read.
        sampler: `balanced` for epochs with the same number of images from each class; with several labels, see `strata`. The
            default is each image once.
    """

    def __init__(
        self,
        source: Callable[..., Source],
        num_classes: int,
        in_channels: int,
        image_size: int,
        batch_size: int,
        split: Sizes,
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
        per_class: int | Sequence[int] | None = None,
        flip: float = 0.0,
        augmentation: Augmentation | None = None,
        on_bad_file: str = "error",
        sampler: str | None = None,
    ) -> None:
        super().__init__()
        self.source, self.root, self.seed = source, root, seed
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.batch_size, self.eval_batch_size, self.sizes = batch_size, eval_batch_size, split
        resize = round(image_size / crop_pct)
        self.preprocessing = Preprocessing(image_size, tuple(mean), tuple(std), resize, interpolation)
        self.crops, self.workers, self.progressive = crops, workers, dict(progressive or {})
        self.labels, self.per_class, self.flip = classes, per_class, flip
        self.augmentation = augmentation or Augmentation()
        self.augmentation.interpolate(interpolation)
        check_crops(crops)
        self.on_bad_file, self.sampler = on_bad_file, sampler
        self.folder: Path | None = None  # run folder, for the tables of splits and of bad files
        self.before: Path | None = None  # run folder of the checkpoint that is tested or resumed
        self.splits: dict[str, Split] = {}
        self.trains = True  # see `Source`
        self.classes: list[str] | None = None  # names by label, set by `setup`

    def prepare_data(self) -> None:
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read and check the source, once."""
        if self.splits:
            return
        data = load_source(self.source, self.root)
        treat_bad(data, self.on_bad_file, str(self.root), self.folder)
        if self.labels is not None:
            data = data.only(list(self.labels))
        data.check(self.num_classes, self.in_channels)
        splits = divide(data, self.sizes, self.seed, self.folder, self.before)
        self.trains = data.trains
        train = self._few(splits["train"]) if data.trains else splits["train"]
        if self.batch_size > len(train) and data.trains:
            raise too_large(self.batch_size, len(train), "training images")
        if self.sampler == "balanced" and isinstance(train, Stream):
            raise ZooError("data.sampler=balanced: a stream decides the order of its images; use class_weight=balanced")
        self.classes = data.classes or None
        self.splits = {name: self._resized(split) for name, split in {**splits, "train": train}.items()}

    def check_batch(self, world_size: int) -> None:
        """Check that the training images can be augmented.

        Args:
            world_size: number of processes that share a batch.

        Raises:
            ZooError: see `Augmentation.check`.
        """
        if not self.splits:
            return
        split = self.splits["train"]
        if isinstance(split, Images):
            image = split.images[0]
        elif isinstance(split, Stream):  # a real image could require a download
            image = torch.zeros(self.in_channels, *[self.preprocessing.resize] * 2, dtype=torch.uint8)
        else:
            image = split.dataset(self.in_channels, call)[0][0]  # before augmentation
        self.augmentation.check(image, self.preprocessing, self.batch_size // world_size)

    def _few(self, split: Split) -> Split:
        """Return the first `per_class` images of each class."""
        if self.per_class is None:
            return split
        wanted = [self.per_class] * self.num_classes if isinstance(self.per_class, int) else self.per_class
        if not isinstance(split, Images | Files):
            raise ZooError(f"data.per_class={self.per_class}: images cannot be selected from a stream; remove data.per_class")
        if split.labels.dim() == 2:
            raise ZooError(f"data.per_class={self.per_class}: images have several labels; remove data.per_class")
        rows = [(split.labels == label).nonzero().flatten()[:count] for label, count in enumerate(wanted)]
        if short := [label for label, found in enumerate(rows) if len(found) < wanted[label]]:
            raise ZooError(f"data.per_class={self.per_class}: class {short[0]} has only {len(rows[short[0]])} training images")
        return split[torch.cat(rows)]

    def _resized(self, split: Split) -> Split:
        size = [self.preprocessing.resize] * 2
        if not isinstance(split, Images) or list(split.images.shape[-2:]) == size:
            return split
        how = InterpolationMode(self.preprocessing.interpolation)
        chunks = [T.resize(chunk, size, how, antialias=True) for chunk in split.images.split(4096)]
        return Images(torch.cat(chunks), split.labels, split.rows)

    def train_dataloader(self) -> Any:
        split, size = self.splits["train"], self.batch_size // self._world_size
        if isinstance(split, Stream):
            return split.loader(self.in_channels, self._training_view, size, self._workers, self.seed)
        dataset = split.dataset(self.in_channels, self._training_view, self.seed, training=True)
        return DataLoader(dataset, size, sampler=self.order(*self._place), drop_last=True, **self._loading(split))

    def order(self, epoch: int, batch: int) -> Order:
        """Return the order of this process's training images, from a batch of an epoch on; both count from 0."""
        split, size = self.splits["train"], self.batch_size // self._world_size
        classes = strata(split.labels) if self.sampler == "balanced" else None  # type: ignore[attr-defined] # not a stream
        return Order(split, size, self._world_size, self._rank, self.seed, epoch, batch, classes)

    @property
    def several(self) -> bool:
        """True if images have any number of labels."""
        split = self.splits["train"]
        return isinstance(split, Images | Files) and split.labels.dim() == 2

    def counts(self) -> tuple[Tensor, int | None]:
        """Return the numbers of training images by label, and the number of all if they have several labels, else None."""
        split = self.splits["train"]
        if isinstance(split, Stream):
            return torch.tensor(split.images_per_class), None
        return counts_of(split.labels, self.num_classes), len(split) if self.several else None  # type: ignore[attr-defined]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes by label; their numbers, if they have no names."""
        return self.classes or list(map(str, range(self.num_classes)))

    @property
    def _place(self) -> tuple[int, int]:
        """Epoch and number of the next training batch."""
        if not self.trainer:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.completed

    def training_rows(self, epoch: int, batch: int) -> str:
        """Return the names or numbers of this process's images in a training batch, for a message.

        Args:
            epoch: counted from 0.
            batch: number of the batch in the epoch, counted from 0.
        """
        split = self.splits["train"]
        if isinstance(split, Stream):
            return "unknown, because they are from a stream"
        rows = [row % len(split) for row in islice(self.order(epoch, batch), self.batch_size // self._world_size)]
        if isinstance(split, Files):
            return ", ".join(self.source_of("train", row) for row in rows)
        return f"training images {', '.join(map(str, rows))}"

    def source_of(self, name: str, row: int) -> str:
        """Return the path of an image's file, or its number in the data set that the split was made from."""
        split = self.splits[name]
        if isinstance(split, Images) and split.rows is not None:
            return str(int(split.rows[row]))
        return str(split.root / str(split.paths[row])) if isinstance(split, Files) else str(row)

    def files_of(self, name: str, rows: np.ndarray) -> Files | None:
        """Return these images of a split; None if they are not files."""
        split = self.splits[name]
        return split[torch.from_numpy(rows)] if isinstance(split, Files) else None

    @property
    def _training_view(self) -> View:
        return partial(self.augmentation.of_picture, preprocessing=self.preprocessing)

    def val_dataloader(self) -> DataLoader:
        return self._evaluated("val")

    def test_dataloader(self) -> DataLoader:
        return self._evaluated("test")

    def _evaluated(self, name: str) -> DataLoader:
        """Load each image once. The batches are the same for any number of processes, which take them in turn."""
        count = len(self.splits[name])
        if count < self._world_size:
            raise ZooError(f"the {name} split has {count} images, too few for {self._world_size} processes")
        crops = self.crops if name == "test" else 1
        share = count // max(SHARES, self._world_size)  # so that each process has a batch even with few images
        size = max(1, min(self.eval_batch_size // crops, share))
        return self.batches(name, InTurn(count, size, self._world_size, self._rank), crops=crops)

    def batches(self, name: str, rows: Iterable[list[int]], training: bool = False, crops: int = 1) -> DataLoader:
        """Return a loader of given rows of a split.

        Args:
            name: `train`, `val` or `test`.
            rows: indices of each batch, see `Split.dataset`.
            training: augment images as in training, instead of resizing and cropping as in evaluation.
            crops: views of each image in evaluation.

        Returns:
            A loader of uint8 images and int64 labels, for `prepared`.
        """
        split = self.splits[name]
        seen = partial(_views_first, preprocessing=self.preprocessing, crops=crops)
        dataset = split.dataset(self.in_channels, self._training_view if training else seen, self.seed, training)
        return DataLoader(dataset, batch_sampler=rows, **self._loading(split))

    def _loading(self, split: Split) -> dict[str, Any]:
        if split.in_memory:
            return {"collate_fn": lambda batch: batch}
        workers, pinned = self._workers, torch.cuda.is_available()
        loading = {"num_workers": workers, "persistent_workers": workers > 0, "worker_init_fn": obey_parent}
        return {"collate_fn": collate, "pin_memory": pinned, **loading}

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
        """Return the side in pixels of the training images in an epoch, counted from 0."""
        begun = [first for first in self.progressive if first <= epoch]
        return self.progressive[max(begun)] if begun else self.image_size

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Return the batch as the network reads it, see `prepared`, with images in the network's dtype."""
        if not self.trainer:
            return self.prepared(batch, training=False)
        if self.trainer.training:
            seed_all(self.seed, self._rank, *self._place)  # for augmentation on the device and for dropout
        crops = self.crops if self.trainer.testing else 1
        images, *others = self.prepared(batch, self.trainer.training, self.trainer.current_epoch, crops)
        return images.to(self.trainer.lightning_module.dtype), *others  # not float32 with a precision such as bf16-true

    def prepared(self, batch: Batch, training: bool, epoch: int = 0, crops: int = 1) -> Batch:
        """Augment and normalize a batch on its device.

        Args:
            batch: from the loader: images uint8 (N, C, H, W), or (N, V, C, S, S) for several views of image files; labels
                int64 (N,); and possibly weights, which are returned as they are.
            training: augment images in memory, and apply progressive resizing, mixup and cutmix.
            epoch: counted from 0; determines the size of the images with progressive resizing.
            crops: views of each image, without `training`.

        Returns:
            Images, normalized float32 (N, C, S, S) in channels-last memory format, or (N, V, C, S, S) for several views.
            Labels int64 (N,), or soft labels float (N, num_classes) after mixup or cutmix.
        """
        images, labels, *weights = batch
        if self.splits["train"].in_memory:
            images = self._in_memory(images, training, crops)
        images = normalize(images, self.preprocessing)
        if training:
            if (size := self.training_size(epoch)) != self.image_size:
                images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
            images, labels = self.augmentation.mix(images, labels, self.num_classes)
        if images.dim() == 4:  # else (N, V, C, H, W), several views of each image
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels, *weights

    def _in_memory(self, images: Tensor, training: bool, crops: int) -> Tensor:
        if training:
            return self.augmentation.of_batch(images if self.augmentation.crop else centre(images, self.preprocessing))
        seen = views(images, self.preprocessing, crops)
        return seen[0] if crops == 1 else seen.transpose(0, 1)


def _views_first(read: Read, preprocessing: Preprocessing, crops: int) -> Tensor:
    seen = views(read(), preprocessing, crops)
    return seen[0] if crops == 1 else seen
