"""Order of the images in training and in evaluation, on any number of processes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, Sampler

from inception_zoo.data.labels import balanced

REPEAT_OFFSET = 2**20  # epochs, more than any training has, in the index of a repeated image, so that it is augmented anew


class Order(DistributedSampler):
    """DistributedSampler of training that can start at any batch of its first epoch.

    The order depends only on the seed and the epoch. A run can therefore be resumed in the middle of an epoch, with any
    number of workers and processes. The indices also contain the epoch, because persistent workers cannot learn it in
    another way, see `Split.dataset`.

    Args:
        split: the images.
        size: number of images in the batch of one process.
        world_size: number of processes.
        rank: of this process.
        seed: of the order.
        epoch: the first epoch.
        begun: number of batches of the first epoch to skip.
        classes: of the images, int64 (N,): an epoch has as many images of each one; None: each image once.
    """

    def __init__(
        self,
        split: Any,
        size: int,
        world_size: int,
        rank: int,
        seed: int,
        epoch: int,
        begun: int,
        classes: Tensor | None = None,
    ) -> None:
        super().__init__(split, world_size, rank, shuffle=True, seed=seed, drop_last=True)
        self.images, self.first, self.done, self.classes = len(split), epoch, begun * size, classes
        self.set_epoch(epoch)

    def _rows(self) -> list[int]:
        if self.classes is None:
            return list(super().__iter__())
        rows, repeats = balanced(self.classes, torch.Generator().manual_seed(self.seed + self.epoch))
        indices = (rows + repeats * REPEAT_OFFSET * self.images)[: self.total_size]
        return indices[self.rank :: self.num_replicas].tolist()

    def __iter__(self) -> Iterator[int]:
        rows = self._rows()
        return (self.epoch * self.images + row for row in rows[self.done if self.epoch == self.first else 0 :])


class InTurn(Sampler[list[int]]):
    """Sampler of batches of consecutive images. Rank r takes every `world_size`-th batch; nothing is padded or repeated.

    Args:
        count: number of images.
        size: number of images in a batch.
        world_size: number of processes.
        rank: of this process.
    """

    def __init__(self, count: int, size: int, world_size: int, rank: int) -> None:
        self.starts = range(rank * size, count, world_size * size)
        self.count, self.size = count, size

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(start, min(start + self.size, self.count))) for start in self.starts)

    def __len__(self) -> int:
        return len(self.starts)
