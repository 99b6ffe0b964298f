"""Metrics of an evaluation. Every image counts once; no result depends on the order or on the number of processes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from inception_zoo.architecture.decision import LOGGED, MANY, Decision
from inception_zoo.training.decisions import BINS, Scored, means

# Sums of float64, rounded to float32, do not depend on their order. Apple's GPUs have no float64.
EXACT = torch.float32 if torch.backends.mps.is_available() else torch.float64
UNCHECKED: Any = {"validate_args": False}  # the data are checked; torchmetrics would wait for the device at each batch
ROW = ("loss", "image", "label", "predicted", "probability", "probability_of_label")  # columns of `Worst.rows`


class Calibration(Metric):
    """Number of images, number of hits and sum of the confidences per confidence bin, a tensor (3, bins).

    torchmetrics' own metric stores every confidence as float32, in the order of the processes. The last digits of its result
    depend on this order.

    Args:
        bins: number of confidence bins of equal width.
    """

    full_state_update = False
    images: Tensor
    hits: Tensor
    confidence: Tensor

    def __init__(self, bins: int = BINS) -> None:
        super().__init__()
        self.bins = bins
        for name in ("images", "hits", "confidence"):
            self.add_state(name, torch.zeros(bins, dtype=EXACT), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            probabilities: (N, classes), of dtype `EXACT`.
            labels: (N,), int64.
        """
        confidence, predicted = probabilities.max(1)
        which = (confidence * self.bins).ceil().long().clamp(1, self.bins) - 1
        self.images.index_add_(0, which, torch.ones_like(confidence))
        self.hits.index_add_(0, which, (predicted == labels).to(EXACT))
        self.confidence.index_add_(0, which, confidence)

    def compute(self) -> Tensor:
        return torch.stack([self.images, self.hits, self.confidence])


class CalibrationError(Calibration):
    """Expected calibration error: |accuracy - confidence| averaged over the bins, weighted by images; a scalar.

    Source: arXiv 1706.04599.
    """

    def compute(self) -> Tensor:
        images, hits, confidence = super().compute()
        return ((hits - confidence).abs().sum() / images.sum()).float()


class Worst(Metric):
    """The images with the highest loss.

    The result is a table (K, 6) with the columns `ROW`, and the normalized images (K, C, S, S). Each process stores its own
    `count` worst images. Images with equal losses are sorted by their order in the data, for any number of processes.

    Args:
        count: number of images (K).
        side: largest image side in pixels; larger images are resized.
    """

    full_state_update = False
    rows: list[Tensor]
    pictures: list[Tensor]

    def __init__(self, count: int = 24, side: int = 96) -> None:
        super().__init__()
        self.count, self.side = count, side
        for name in ("rows", "pictures"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, labels: Tensor, losses: Tensor, images: Tensor, first: int) -> None:
        """Add a batch; call in ascending order of the images.

        Args:
            probabilities: (N, classes).
            labels: (N,), int64.
            losses: (N,).
            images: (N, C, S, S), normalized.
            first: number of the first image in the split.
        """
        confidence, predicted = probabilities.max(1)
        known = probabilities.gather(1, labels[:, None])[:, 0]
        columns = losses, torch.arange(first, first + len(losses), device=losses.device), labels, predicted, confidence, known
        rows = torch.stack([column.to(EXACT) for column in columns], 1)
        worst = _falling(losses)[: self.count]
        pictures = images[worst].float()
        if pictures.shape[-1] > self.side:
            pictures = nn.functional.interpolate(pictures, (self.side, self.side), mode="bilinear", antialias=True)
        rows, pictures = torch.cat([*self.rows, rows[worst]]), torch.cat([*self.pictures, pictures])
        worst = _falling(rows[:, 0])[: self.count]
        self.rows, self.pictures = [rows[worst]], [pictures[worst]]

    def compute(self) -> tuple[Tensor, Tensor]:
        rows, pictures = dim_zero_cat(self.rows), dim_zero_cat(self.pictures)  # concatenated by rank
        order = rows[:, 1].sort().indices  # in the order of the data
        order = order[_falling(rows[order, 0])][: self.count]
        return rows[order], pictures[order]


def _falling(losses: Tensor) -> Tensor:
    """Return the indices that sort losses in descending order; equal losses keep their order."""
    return losses.sort(descending=True, stable=True).indices


class WeightedMean(MeanMetric):
    """Weighted mean of scalars, NaN if one of them is.

    torchmetrics' own leaves out NaN, and waits for the device at each update to look for it; without this search, it leaves
    out the weights (version 1.9).
    """

    def update(self, value: Tensor, weight: float = 1.0) -> None:  # type: ignore[override]
        """Add a scalar."""
        self.mean_value += value.to(self.mean_value) * weight
        self.weight += weight


class Mean(WeightedMean):
    """Weighted mean that does not depend on the order of its terms."""

    def __init__(self) -> None:
        super().__init__()
        self.set_dtype(EXACT)

    def compute(self) -> Tensor:
        return super().compute().float()


def keep_exact(module: nn.Module) -> None:
    """Restore the dtypes of the metrics after the whole module was converted to half precision."""
    for part in module.modules():
        if isinstance(part, Mean | Calibration):
            part.set_dtype(EXACT)
        elif isinstance(part, MeanMetric):
            part.set_dtype(torch.float32)


class Scores(Metric):
    """Probabilities and labels of all images of a split, in the order of the data; see `inception_zoo.training.decisions`."""

    full_state_update = False
    images: list[Tensor]
    probabilities: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("images", "probabilities", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, labels: Tensor, first: int) -> None:
        """Add a batch.

        Args:
            probabilities: (N, classes), of dtype `EXACT`.
            labels: (N,), int64; or (N, classes), float, with several labels.
            first: number of the first image in the split.
        """
        self.images.append(torch.arange(first, first + len(labels), device=labels.device))
        self.probabilities.append(probabilities)
        self.labels.append(labels.to(EXACT) if labels.is_floating_point() else labels)  # not bfloat16, which numpy lacks

    def compute(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the numbers of the images (N,), their probabilities (N, classes) and their labels."""
        columns = (dim_zero_cat(each).cpu().numpy() for each in (self.images, self.probabilities, self.labels))
        images, probabilities, labels = columns
        order = images.argsort()
        return images[order], probabilities[order], labels[order]


class Evaluation(nn.Module):
    """Loss, top-1, top-5 and macro accuracy, calibration error, and the metrics for decisions, of one split.

    The loss is the negative log-likelihood. Macro accuracy is the mean of the accuracies of the classes. For the metrics for
    decisions, see `inception_zoo.training.decisions`; with more than `MANY` classes, there are none.

    Args:
        classes: number of classes.
        tables: compute the metrics that `write_tables` needs, too.
        more: metrics of the user by name, which are copied. They get probabilities (N, classes) and labels (N,).
    """

    logged: tuple[str, ...] = LOGGED  # from `scores`
    several = False

    def __init__(self, classes: int, tables: bool, more: Mapping[str, Metric] | None = None) -> None:
        super().__init__()
        self.classes, self.loss = classes, Mean()
        self.scores = Scores() if self.several or classes <= MANY else None
        own: Any = {**self._means(), **{name: metric.clone() for name, metric in (more or {}).items()}}
        self.means = MetricCollection(own, compute_groups=False)
        self.tables = MetricCollection(self._tables(), compute_groups=False) if tables else None

    def _means(self) -> dict[str, Metric]:
        return {
            "top1": MulticlassAccuracy(self.classes, average="micro", **UNCHECKED),
            "top5": MulticlassAccuracy(self.classes, top_k=min(5, self.classes), average="micro", **UNCHECKED),
            "macro": MulticlassAccuracy(self.classes, average="macro", **UNCHECKED),
            "ece": CalibrationError(),
        }

    def _tables(self) -> dict[str, Any]:
        return {
            "confusion": MulticlassConfusionMatrix(self.classes, **UNCHECKED),
            "top5": MulticlassAccuracy(self.classes, top_k=min(5, self.classes), average=None, **UNCHECKED),
            "calibration": Calibration(),
            "worst": Worst(),
        }

    def decided(self, decision: Decision) -> Scored | None:
        """Return all images with their probabilities, labels and predicted labels; None without `scores`."""
        return None if self.scores is None else Scored.of(*self.scores.compute()[1:], decision.thresholds)

    def figures(self, decision: Decision) -> dict[str, float]:
        """Return the defined ones of the metrics `logged`, without those that the user's own metrics replace."""
        scored = self.decided(decision)
        return means(scored, [name for name in self.logged if name not in self.metrics]) if scored else {}

    @property
    def metrics(self) -> dict[str, Metric]:
        """Metrics by name, without those of the tables."""
        return {"loss": self.loss, **dict(self.means.items())}

    def update(self, logits: Tensor, labels: Tensor, images: Tensor, first: int) -> None:
        """Add a batch.

        Args:
            logits: (N, classes), or (N, V, classes) for V views per image; the probabilities of the views are averaged.
            labels: (N,), int64.
            images: (N, C, S, S), or (N, V, C, S, S); the pictures show the first view.
            first: number of the first image in the split, for the tables.
        """
        likelihoods = logits.float().log_softmax(-1)
        if logits.dim() == 3:
            likelihoods = likelihoods.logsumexp(1) - torch.tensor(logits.shape[1]).log()
        exact = likelihoods.to(EXACT)
        self.loss.update(nn.functional.nll_loss(exact, labels), weight=len(labels))
        probabilities = exact.exp()
        self.means.update(probabilities, labels)
        if self.scores is not None:
            self.scores.update(probabilities, labels, first)
        if self.tables is not None:
            losses = nn.functional.nll_loss(exact, labels, reduction="none")
            shown = images[:, 0] if images.dim() == 5 else images
            self.tables.update(probabilities, labels, losses=losses, images=shown, first=first)


class SeveralLabels(Evaluation):
    """Loss and metrics for decisions of one split whose images have any number of labels.

    The loss is the binary cross entropy, the mean over the classes.

    Args:
        classes: number of classes.
        tables: compute the metrics that `write_tables` needs, too.
        more: metrics of the user by name, which are copied. They get probabilities and labels int64, both (N, classes).
    """

    logged = (*LOGGED, "accuracy", "ece")
    several = True

    def _means(self) -> dict[str, Metric]:
        return {}

    def _tables(self) -> dict[str, Any]:
        return {"worst": Worst()}

    def update(self, logits: Tensor, labels: Tensor, images: Tensor, first: int) -> None:
        """Add a batch.

        Args:
            logits: (N, classes), or (N, V, classes) for V views per image; the probabilities of the views are averaged.
            labels: (N, classes), float, 0 or 1.
            images: (N, C, S, S), or (N, V, C, S, S); the pictures show the first view.
            first: number of the first image in the split.
        """
        exact = logits.float().to(EXACT)
        exact = exact if logits.dim() == 2 else exact.sigmoid().mean(1).logit(eps=torch.finfo(EXACT).eps)
        losses = nn.functional.binary_cross_entropy_with_logits(exact, labels.to(EXACT), reduction="none")
        self.loss.update(losses.mean(), weight=len(labels))
        probabilities = exact.sigmoid()
        if self.means:
            self.means.update(probabilities, labels.long())
        assert self.scores is not None
        self.scores.update(probabilities, labels, first)
        if self.tables is not None:
            shown = images[:, 0] if images.dim() == 5 else images
            self.tables.update(probabilities, losses.argmax(1), losses=losses.mean(1), images=shown, first=first)


def soft_accuracy(logits: Tensor, targets: Tensor, k: int) -> Tensor:
    """Return the top-k accuracy, also for mixed labels.

    For mixed labels it is the mean share of the target probability in the k classes with the highest logits.

    Args:
        logits: (N, classes).
        targets: labels (N,), int64, or probabilities (N, classes) after mixup and cutmix.
        k: number of classes.

    Returns:
        A scalar, from 0 to 1.
    """
    best = logits.topk(min(k, logits.shape[1])).indices
    if targets.dim() == 1:
        return (best == targets[:, None]).any(1).float().mean()
    return targets.gather(1, best).sum(1).mean()
