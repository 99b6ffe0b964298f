"""What an evaluation measures: every image counts once, and no figure depends on the order or on the number of processes."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

# Sums of float64, rounded to float32, do not depend on their order. Apple's GPUs have no float64.
EXACT = torch.float32 if torch.backends.mps.is_available() else torch.float64


class Calibration(Metric):
    """Expected calibration error (arXiv 1706.04599): of `bins` by confidence, the mean distance from confidence to accuracy.

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
        return ((self.hits - self.confidence).abs().sum() / self.images.sum()).float()


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
    With `tables` the confusion matrix too, and the top-5 accuracy of each class.
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
                "ece": Calibration(),
            },
            compute_groups=False,
        )
        self.tables: MetricCollection | None = None
        if tables:
            confusion, by_class = MulticlassConfusionMatrix(classes), MulticlassAccuracy(classes, top_k=top5, average=None)
            self.tables = MetricCollection({"confusion": confusion, "top5": by_class}, compute_groups=False)

    def update(self, logits: Tensor, labels: Tensor) -> dict[str, Metric]:
        """Add a batch: logits (N, classes), or (N, V, classes) of several views, whose probabilities are averaged.

        Returns:
            The metrics by name.
        """
        likelihoods = logits.float().log_softmax(-1)
        if logits.dim() == 3:
            likelihoods = likelihoods.logsumexp(1) - torch.tensor(logits.shape[1]).log()
        self.loss.update(nn.functional.nll_loss(likelihoods.to(EXACT), labels), weight=len(labels))
        probabilities = likelihoods.to(EXACT).exp()
        self.scores.update(probabilities, labels)
        if self.tables is not None:
            self.tables.update(probabilities, labels)
        return {"loss": self.loss, **dict(self.scores.items())}


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


def write_tables(folder: Path, names: Sequence[str], confusion: Tensor, top5: Tensor) -> None:
    """`per_class.csv` and `confusion.csv` (rows are the true classes) in a run folder."""
    matrix = confusion.tolist()
    predicted = confusion.sum(0).tolist()
    with (folder / "confusion.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *names])
        writer.writerows([name, *row] for name, row in zip(names, matrix, strict=True))
    with (folder / "per_class.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "images", "top1", "top5", "precision", "f1"])
        for label, name in enumerate(names):
            hits, images = matrix[label][label], sum(matrix[label])
            figures = hits / images if images else None, float(top5[label]) if images else None
            precision = hits / predicted[label] if predicted[label] else None
            f1 = 2 * hits / (images + predicted[label]) if images + predicted[label] else None
            writer.writerow([name, images, *figures, precision, f1])
