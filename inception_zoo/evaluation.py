"""What an evaluation measures: every image counts once, and no figure depends on the order or on the number of processes."""

import csv
import shutil
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from inception_zoo.data.pixels import denormalize
from inception_zoo.preprocessing import Preprocessing

# Sums of float64, rounded to float32, do not depend on their order. Apple's GPUs have no float64.
EXACT = torch.float32 if torch.backends.mps.is_available() else torch.float64
ROW = ("loss", "batch", "label", "predicted", "probability", "probability_of_label")  # of `Worst`


class Calibration(Metric):
    """Of `bins` by confidence: images, hits and the sum of the confidences, (3, bins).

    torchmetrics' own keeps every confidence, as float32 in the order of the processes, on which its last digits depend.
    """

    full_state_update = False
    images: Tensor
    hits: Tensor
    confidence: Tensor

    def __init__(self, bins: int = 15) -> None:
        super().__init__()
        self.bins = bins
        for name in ("images", "hits", "confidence"):
            self.add_state(name, torch.zeros(bins, dtype=EXACT), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add probabilities (N, classes) and labels (N,)."""
        confidence, predicted = probabilities.max(1)
        which = (confidence * self.bins).ceil().long().clamp(1, self.bins) - 1
        self.images.index_add_(0, which, torch.ones_like(confidence))
        self.hits.index_add_(0, which, (predicted == labels).to(EXACT))
        self.confidence.index_add_(0, which, confidence)

    def compute(self) -> Tensor:
        return torch.stack([self.images, self.hits, self.confidence])


class CalibrationError(Calibration):
    """Expected calibration error (arXiv 1706.04599): the mean distance from confidence to accuracy."""

    def compute(self) -> Tensor:
        images, hits, confidence = super().compute()
        return ((hits - confidence).abs().sum() / images.sum()).float()


class Worst(Metric):
    """The images with the highest loss: rows (K, 6) as `ROW` names them, and pictures (K, C, S, S), still normalized.

    Each process keeps its own `count`. Equal losses stand in the order of the images, whatever the number of processes.
    """

    full_state_update = False
    rows: list[Tensor]
    pictures: list[Tensor]

    def __init__(self, count: int = 24, side: int = 96) -> None:
        super().__init__()
        self.count, self.side = count, side
        for name in ("rows", "pictures"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, labels: Tensor, losses: Tensor, images: Tensor, batch: int) -> None:
        """Add images (N, C, S, S) of this process's batch of that number, in ascending order of the numbers."""
        confidence, predicted = probabilities.max(1)
        known = probabilities.gather(1, labels[:, None])[:, 0]
        columns = losses, torch.full_like(losses, batch), labels, predicted, confidence, known
        rows = torch.stack([column.to(EXACT) for column in columns], 1)
        worst = _falling(losses)[: self.count]
        pictures = images[worst].float()
        if pictures.shape[-1] > self.side:
            pictures = nn.functional.interpolate(pictures, (self.side, self.side), mode="bilinear", antialias=True)
        rows, pictures = torch.cat([*self.rows, rows[worst]]), torch.cat([*self.pictures, pictures])
        worst = _falling(rows[:, 0])[: self.count]
        self.rows, self.pictures = [rows[worst]], [pictures[worst]]

    def compute(self) -> tuple[Tensor, Tensor]:
        rows, pictures = dim_zero_cat(self.rows), dim_zero_cat(self.pictures)  # those of process 0, 1, …
        order = rows[:, 1].sort(stable=True).indices  # the batches were dealt in turn
        order = order[_falling(rows[order, 0])][: self.count]
        return rows[order], pictures[order]


def _falling(losses: Tensor) -> Tensor:
    """Indices from the highest to the lowest; of equals, the first stays first."""
    return losses.sort(descending=True, stable=True).indices


class Mean(MeanMetric):
    """A mean that is the same in whatever order its parts come."""

    def __init__(self) -> None:
        super().__init__()
        self.set_dtype(EXACT)

    def compute(self) -> Tensor:
        return super().compute().float()


def keep_exact(module: nn.Module) -> None:
    """Undo what a conversion of the whole module to half precision did to its sums."""
    for part in module.modules():
        if isinstance(part, Mean | Calibration):
            part.set_dtype(EXACT)
        elif isinstance(part, MeanMetric):
            part.set_dtype(torch.float32)


class Evaluation(nn.Module):
    """Loss (the negative log-likelihood), top-1, top-5, macro accuracy and calibration error of one split.

    Macro accuracy is the mean over the classes.
    With `tables` what `write_tables` writes, too.
    """

    def __init__(self, classes: int, tables: bool) -> None:
        super().__init__()
        top5 = min(5, classes)
        self.loss = Mean()
        self.scores = MetricCollection(
            {
                "top1": MulticlassAccuracy(classes, average="micro"),
                "top5": MulticlassAccuracy(classes, top_k=top5, average="micro"),
                "macro": MulticlassAccuracy(classes, average="macro"),
                "ece": CalibrationError(),
            },
            compute_groups=False,
        )
        self.tables: MetricCollection | None = None
        if tables:
            self.tables = MetricCollection(
                {
                    "confusion": MulticlassConfusionMatrix(classes),
                    "top5": MulticlassAccuracy(classes, top_k=top5, average=None),
                    "calibration": Calibration(),
                    "worst": Worst(),
                },
                compute_groups=False,
            )

    @property
    def metrics(self) -> dict[str, Metric]:
        """By name, without the tables."""
        return {"loss": self.loss, **dict(self.scores.items())}

    def update(self, logits: Tensor, labels: Tensor, images: Tensor, batch: int) -> None:
        """Add a batch.

        Args:
            logits: (N, classes), or (N, V, classes) of several views, whose probabilities are averaged.
            labels: (N,).
            images: (N, C, S, S), or (N, V, C, S, S), of which the first view is shown.
            batch: its number in this process.
        """
        likelihoods = logits.float().log_softmax(-1)
        if logits.dim() == 3:
            likelihoods = likelihoods.logsumexp(1) - torch.tensor(logits.shape[1]).log()
        exact = likelihoods.to(EXACT)
        self.loss.update(nn.functional.nll_loss(exact, labels), weight=len(labels))
        probabilities = exact.exp()
        self.scores.update(probabilities, labels)
        if self.tables is not None:
            losses = nn.functional.nll_loss(exact, labels, reduction="none")
            shown = images[:, 0] if images.dim() == 5 else images
            self.tables.update(probabilities, labels, losses=losses, images=shown, batch=batch)


def soft_accuracy(logits: Tensor, targets: Tensor, k: int) -> Tensor:
    """Share of the targets that the k highest logits hit, averaged: plain top-k accuracy where labels are not mixed.

    Args:
        logits: (N, classes).
        targets: labels (N,), or probabilities (N, classes) after mixup and cutmix.
    """
    best = logits.topk(min(k, logits.shape[1])).indices
    if targets.dim() == 1:
        return (best == targets[:, None]).any(1).float().mean()
    return targets.gather(1, best).sum(1).mean()


def as_pictures(images: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """What the network reads, (N, C, H, W) → uint8 pixels (N, H, W, 3), or (N, H, W) unless there are three channels.

    Images that were not preprocessed have pixels from 0 to 1.
    """
    images = images.float()
    if preprocessing:
        images = denormalize(images, preprocessing)
    pixels = images.permute(0, 2, 3, 1) if images.shape[1] == 3 else images.mean(1)
    return (pixels.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def write_tables(
    folder: Path,
    names: Sequence[str],
    confusion: Tensor,
    top5: Tensor,
    calibration: Tensor,
    worst: tuple[Tensor, Tensor],
    preprocessing: Preprocessing | None = None,
) -> None:
    """The tables of a test, in its run folder: each class, the confusion matrix, calibration, and the worst mistakes.

    Args:
        folder: gets per_class.csv, confusion.csv (rows are the true classes), calibration.csv, worst.csv and worst/*.png.
        names: of the classes.
        confusion, top5, calibration, worst: what `Evaluation.tables` has computed.
        preprocessing: what the network's images went through.
    """
    matrix = confusion.tolist()
    predicted = confusion.sum(0).tolist()
    rows = ([name, *row] for name, row in zip(names, matrix, strict=True))
    _write(folder / "confusion.csv", ["class", *names], rows)
    classes = []
    for label, name in enumerate(names):
        hits, images = matrix[label][label], sum(matrix[label])
        figures = hits / images if images else None, float(top5[label]) if images else None
        precision = hits / predicted[label] if predicted[label] else None
        f1 = 2 * hits / (images + predicted[label]) if images + predicted[label] else None
        classes.append([name, images, *figures, precision, f1])
    _write(folder / "per_class.csv", ["class", "images", "top1", "top5", "precision", "f1"], classes)
    edges = [round(k / calibration.shape[1], 4) for k in range(calibration.shape[1] + 1)]
    shares = (calibration[1:] / calibration[0]).T.tolist()
    reliability = (
        [*ends, int(images), *(round(share, 6) if images else None for share in pair)]  # their last digits are of an order
        for ends, images, pair in zip(pairwise(edges), calibration[0].tolist(), shares, strict=True)
    )
    _write(folder / "calibration.csv", ["bin_low", "bin_high", "images", "accuracy", "confidence"], reliability)
    _write_worst(folder, names, worst[0], as_pictures(worst[1], preprocessing))


def _write_worst(folder: Path, names: Sequence[str], rows: Tensor, pictures: Tensor) -> None:
    shutil.rmtree(folder / "worst", ignore_errors=True)  # of an earlier test
    (folder / "worst").mkdir()
    table = []
    for number, (row, pixels) in enumerate(zip(rows.tolist(), pictures.numpy(), strict=True)):
        picture = f"worst/{number}.png"
        Image.fromarray(pixels).save(folder / picture)
        found = dict(zip(ROW, row, strict=True))
        who = [names[int(found[key])] for key in ("label", "predicted")]
        table.append([picture, *who, *(f"{found[key]:.6g}" for key in ("probability", "probability_of_label", "loss"))])
    _write(folder / "worst.csv", ["picture", "label", "predicted", "probability", "probability_of_label", "loss"], table)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
