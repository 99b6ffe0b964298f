"""What an evaluation measures: every image counts once, and no figure depends on the order or on the number of processes."""

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

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
