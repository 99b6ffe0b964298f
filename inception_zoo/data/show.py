"""Contact sheet of training images, before and after augmentation."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torchvision.utils import make_grid

from inception_zoo.data.datamodule import ImageData
from inception_zoo.data.pixels import denormalize
from inception_zoo.errors import ZooError

SUFFIXES = (".png", ".jpg", ".svg", ".pdf")


def contact_sheet(data: ImageData, out: Path, images: int = 8, draws: int = 7) -> None:
    """Draw one row for each training image: as in evaluation, and then augmented several times.

    Args:
        data: not set up yet; its `batch_size` and `progressive` are changed.
        out: file to write; ends in .png, .jpg, .svg or .pdf.
        images: number of rows.
        draws: number of augmented versions in each row.

    Raises:
        ZooError: the file cannot be written there, or the images cannot be augmented.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ZooError(f"--out {out}: must end in one of {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise ZooError(f"--out {out}: there is no folder {out.parent}")
    data.batch_size, data.progressive = 2, {}  # passes the checks, and gives all columns one image size
    data.setup()
    data.check_batch(world_size=1)
    order = torch.randperm(len(data.splits["train"]), generator=torch.Generator().manual_seed(data.seed))
    rows = order[:images].tolist()
    columns, labels = zip(*(_batch(data, rows, training) for training in [False] + [True] * draws), strict=True)
    side, gap = data.image_size, max(2, data.image_size // 32)
    sheet = make_grid(torch.stack(columns, 1).flatten(0, 1), nrow=1 + draws, padding=gap, pad_value=1.0)
    size = 1 + draws, len(rows)
    figure, axes = plt.subplots(figsize=(1.1 * size[0] + 1, 1.1 * size[1] + 0.4), layout="constrained")
    axes.imshow(sheet.permute(1, 2, 0).numpy(), interpolation="nearest")
    names = data.classes or [str(label) for label in range(data.num_classes)]
    step = side + gap
    axes.set_xticks([gap + side / 2, gap + step * size[0] / 2], ["evaluation", "training"])
    axes.set_yticks([gap + side / 2 + step * row for row in range(size[1])], [names[label] for label in labels[0].tolist()])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(out, dpi=150, bbox_inches="tight")
    plt.close(figure)


def _batch(data: ImageData, rows: list[int], training: bool) -> tuple[Tensor, Tensor]:
    """Return the network's input before normalization, float (N, C, S, S) from 0 to 1; and labels (N,) before mixing."""
    (batch,) = data.batches("train", [rows], training)
    seen, _ = data.prepared(batch, training)
    return denormalize(seen, data.preprocessing), batch[1]
