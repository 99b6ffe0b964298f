"""Contact sheet of training images, before and after augmentation."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from inception_zoo.data.datamodule import ImageData
from inception_zoo.data.labels import names_of
from inception_zoo.data.pixels import denormalize
from inception_zoo.data.stream import Stream
from inception_zoo.errors import ZooError, printable
from inception_zoo.system.atomic_files import check_file, whole_file
from inception_zoo.system.seeding import seed_all

SUFFIXES = (".png", ".jpg", ".svg", ".pdf")


def contact_sheet(data: ImageData, out: Path, images: int = 8, draws: int = 7) -> None:
    """Draw one row for each training image: as in evaluation, and then as in the first epochs of training.

    Args:
        data: not set up yet; its `batch_size` is lowered to the number of training images.
        out: file to write; ends in .png, .jpg, .svg or .pdf.
        images: number of rows.
        draws: number of augmented versions in each row, see `training_views`.

    Raises:
        ZooError: the file cannot be written there, or the images cannot be augmented.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ZooError(f"--out {out}: must end in one of {', '.join(SUFFIXES)}")
    check_file(f"--out {out}", out)
    size, data.batch_size = data.batch_size, 1  # any number of training images passes the check
    data.setup()
    if not data.trains:
        raise ZooError(f"data.root={data.root}: has no training images to show")
    count = len(data.splits["train"])
    data.batch_size = min(size, count)
    data.check_batch(world_size=1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(data.seed))
    rows = order[:images].tolist()
    (batch,) = data.batches("train", [rows])
    seen, labels = data.prepared(batch, training=False)
    columns = {row: [view] for row, view in zip(rows, seen, strict=True)}
    for row, view in training_views(data, rows, draws):
        columns[row].append(F.interpolate(view[None], data.image_size)[0])  # with `progressive` it may be smaller
    pixels = denormalize(torch.stack([view for row in rows for view in columns[row]]), data.preprocessing)
    side, gap = data.image_size, max(2, data.image_size // 32)
    sheet = make_grid(pixels, nrow=1 + draws, padding=gap, pad_value=1.0)
    figure, axes = plt.subplots(figsize=(1.1 * (1 + draws) + 1, 1.1 * len(rows) + 0.4), layout="constrained")
    axes.imshow(sheet.permute(1, 2, 0).numpy(), interpolation="nearest")
    step = side + gap
    axes.set_xticks([gap + side / 2, gap + step * (1 + draws) / 2], ["evaluation", "training"])
    labelled = list(map(printable, names_of(labels, data.class_names)))
    axes.set_yticks([gap + side / 2 + step * row for row in range(len(rows))], labelled, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    with whole_file(Path(out)) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")
    plt.close(figure)


def training_views(data: ImageData, rows: Sequence[int], number: int) -> Iterator[tuple[int, Tensor]]:
    """Yield training images exactly as a training in one process on the CPU sees them, from its first epoch on.

    An epoch does not use the images after its last whole batch. With a stream, LitData chooses those images and the order:
    epochs are not left out here, and mixup and cutmix have other partners.

    Args:
        data: set up.
        rows: row numbers in the training split.
        number: of views of each image, each from another epoch.

    Yields:
        Row number and view, normalized float (C, S, S), in the order of the epochs.
    """
    split, size, left = data.splits["train"], data.batch_size, dict.fromkeys(rows, number)
    places, chosen = [], []
    for epoch in count():
        order = list(data.order(epoch, 0))
        for row in [row for row in rows if left[row]]:
            if (index := epoch * len(split) + row) not in order:  # with a balanced sampler
                continue
            batch, position = divmod(order.index(index), size)
            if batch == len(split) // size and not isinstance(split, Stream):
                continue
            indices = order[batch * size : (batch + 1) * size]
            if not split.in_memory:  # drawn by itself; mixup and cutmix take the image before it
                indices, position = [indices[position - 1], indices[position]], 1
            left[row] -= 1
            places.append((row, epoch, batch, position))
            chosen.append(indices)
        if not any(left.values()):
            break
    for (row, epoch, batch, position), loaded in zip(places, data.batches("train", chosen, training=True), strict=True):
        seed_all(data.seed, 0, epoch, batch)  # as in `on_after_batch_transfer`
        yield row, data.prepared(loaded, training=True, epoch=epoch)[0][position]
