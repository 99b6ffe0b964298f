"""Metrics for decisions with bootstrap intervals, exact for weighted images and for equal scores.

A class is compared with all others: the positive images of a class are those with its label. Every metric is computed for
many weightings of the images at once, since a bootstrap sample is a weighting by whole numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

OF_CLASSES = ("auroc", "ap", "sensitivity", "specificity", "precision", "f1")
OF_ALL = ("accuracy", "balanced_accuracy", "kappa", "brier", "ece")
CURVE = ("threshold", "sensitivity", "specificity", "precision")  # columns of a curve
OF_IMAGES = ("accuracy", "brier", "ece")  # of these, those that are not means over the classes
BINS = 15  # of the calibration error
SAMPLES = 1000  # of the bootstrap
FEW = 10  # images, or groups, that a bootstrap needs at least
CELLS = 10**6  # largest number of image weights in memory together
LEVEL = 95  # percent

Figures = dict[str, np.ndarray]  # by name: (samples, classes), or (samples,) for `OF_ALL`


@dataclass(frozen=True)
class Scored:
    """Images with their probabilities and labels.

    Attributes:
        probabilities: (N, classes), float64.
        labels: (N, classes), True for each label of an image.
        predicted: (N, classes), True for each predicted label.
        several: images have any number of labels; otherwise one each.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    several: bool

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] | None = None) -> "Scored":
        """Predict the most probable label, or with several labels each one whose probability reaches its threshold.

        Args:
            probabilities: (N, classes).
            labels: (N,) whole numbers, or (N, classes) of 0 and 1 with several labels.
            thresholds: of the classes, see `Decision`; None: none.
        """
        exact, classes = probabilities.astype(np.float64), np.arange(probabilities.shape[1])
        if labels.ndim == 2:
            return cls(exact, labels > 0.5, exact >= (0.5 if thresholds is None else np.asarray(thresholds)), True)
        chosen = (exact if thresholds is None else exact / np.asarray(thresholds)).argmax(1)
        return cls(exact, labels[:, None] == classes, chosen[:, None] == classes, False)

    def of_images(self, rows: np.ndarray) -> "Scored":
        """Return a selection of the images, given as indices or as a mask (N,)."""
        return Scored(self.probabilities[rows], self.labels[rows], self.predicted[rows], self.several)


def metrics(scored: Scored, weights: np.ndarray | None = None, ranks: Sequence["Ranking"] | None = None) -> Figures:
    """Return every metric of `OF_CLASSES` and `OF_ALL`, the same as scikit-learn's; NaN where it is not defined.

    `sensitivity` is also called recall, and `ap` is the average precision. `kappa` is Cohen's, without weights. `brier` is the
    squared difference of probabilities and labels: its sum over the classes, half of it for two classes, or with several
    labels the mean over the classes. `ece` is the calibration error of the predicted class in 15 bins of equal width, or with
    several labels the mean of those of the classes. With several labels, `accuracy` counts the images whose labels are all
    predicted correctly, and `balanced_accuracy` and `kappa` are means over the classes; so is `balanced_accuracy` otherwise,
    which then is the mean of the sensitivities. Classes without images, or without others, are left out of these means.

    Args:
        scored: the images.
        weights: (samples, N), of the images; None: one sample with weights of 1.
        ranks: result of `rankings`, if it is known.
    """
    if weights is None:
        weights = np.ones((1, len(scored.labels)))
    ranked = _ranked(rankings(scored) if ranks is None else ranks, weights)  # faster with whole numbers
    weights = weights.astype(np.float64)
    labels, predicted = scored.labels.astype(np.float64), scored.predicted.astype(np.float64)
    total = weights.sum(1)[:, None]
    hits, positives, claims = weights @ (labels * predicted), weights @ labels, weights @ predicted
    negatives, false = total - positives, claims - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = hits / positives, (negatives - false) / negatives
        found = {"sensitivity": sensitivity, "specificity": specificity, "precision": hits / claims}
        found["f1"] = 2 * hits / (positives + claims)
        found["auroc"], found["ap"] = ranked
        if scored.several:
            observed = (hits + negatives - false) / total
            chance = (positives * claims + negatives * (total - claims)) / total**2
            balanced, kappa = (sensitivity + specificity) / 2, (observed - chance) / (1 - chance)
            found["balanced_accuracy"], found["kappa"] = mean_of(balanced), mean_of(kappa)
        else:
            observed, chance = hits.sum(1) / total[:, 0], (positives * claims).sum(1) / total[:, 0] ** 2
            found["balanced_accuracy"], found["kappa"] = mean_of(sensitivity), (observed - chance) / (1 - chance)
        right = (scored.labels == scored.predicted).all(1)
        squares = (scored.probabilities - labels) ** 2
        brier = squares.mean(1) if scored.several else squares.sum(1) / (2 if labels.shape[1] == 2 else 1)
        found["accuracy"], found["brier"] = weights @ right / total[:, 0], weights @ brier / total[:, 0]
    found["ece"] = _calibration(scored, weights)
    return found


def mean_of(values: np.ndarray) -> np.ndarray:
    """Return the means over the classes (samples,) of values (samples, classes), without those that are NaN."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


@dataclass(frozen=True)
class Ranking:
    """The images by falling probability of a class; positive ones with equal probabilities are a group.

    Attributes:
        order: (N,), the images.
        positive: (P,), the positive images, in this order.
        first: (G,), number of the first positive image of each group.
        start: (G,), position in `order` of the first image with the probability of the group.
        end: (G,), and of the last one.
    """

    order: np.ndarray
    positive: np.ndarray
    first: np.ndarray
    start: np.ndarray
    end: np.ndarray


def rankings(scored: Scored) -> list[Ranking]:
    """Return the ranking of each class."""
    found = []
    for scores, labels in zip(scored.probabilities.T, scored.labels.T, strict=True):
        order = np.argsort(-scores, kind="stable")
        starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan))
        rows = np.flatnonzero(labels[order])
        groups, first = np.unique(np.searchsorted(starts, rows, "right") - 1, return_index=True)
        found.append(Ranking(order, order[rows], first, starts[groups], np.append(starts[1:], len(order))[groups] - 1))
    return found


def _ranked(ranks: Sequence[Ranking], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the area under the ROC curve and the average precision, each (samples, classes)."""
    areas, precisions, by_image = [], [], np.ascontiguousarray(weights.T)
    for rank in ranks:
        if not len(rank.positive):
            areas.append(none := np.full(len(weights), np.nan))
            precisions.append(none)
            continue
        above = by_image[rank.order].cumsum(0, dtype=weights.dtype)  # weight of the images with this score or a higher one
        new = np.add.reduceat(by_image[rank.positive], rank.first, 0)  # weight of the positive images in each group
        hits = new.cumsum(0)
        false = above[rank.end] - hits
        false_before = np.where(rank.start[:, None] > 0, above[rank.start - 1], 0) - (hits - new)
        positives, negatives = hits[-1], above[-1] - hits[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            areas.append((new * (negatives - (false + false_before) / 2)).sum(0) / (positives * negatives.astype(float)))
            precisions.append((new * np.where(above[rank.end] > 0, hits / above[rank.end], 0)).sum(0) / positives)
    return np.stack(areas, 1), np.stack(precisions, 1)


def _calibration(scored: Scored, weights: np.ndarray) -> np.ndarray:
    """Return the expected calibration errors (samples,); see `metrics`."""
    if scored.several:
        columns = zip(scored.probabilities.T, scored.labels.T, strict=True)
    else:
        columns = zip(
            [(scored.probabilities * scored.predicted).sum(1)], [(scored.labels & scored.predicted).any(1)], strict=True
        )
    errors = []
    for confidence, right in columns:
        which = np.clip(np.ceil(confidence * BINS).astype(int), 1, BINS) - 1
        difference = (which[:, None] == np.arange(BINS)) * (right - confidence)[:, None]
        errors.append(np.abs(weights @ difference).sum(1) / weights.sum(1))
    return np.mean(errors, 0)


def curve(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the points of a class's ROC and precision-recall curve, as rows of `CURVE`, by falling threshold.

    At most 202 points are kept: for each percent, the first one whose sensitivity or false positive rate reaches it.

    Args:
        scores: (N,), probabilities of the class.
        positive: (N,), True for the images with its label.

    Returns:
        (P, 4), float64; without points if all images are positive, or none.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.nan))  # last image of each distinct probability
    hits = positive[order].cumsum()[last]
    false = last + 1 - hits
    if not hits[-1] or not false[-1]:
        return np.empty((0, len(CURVE)))
    sensitivity, rate = hits / hits[-1], false / false[-1]
    steps = np.linspace(0, 1, 101)
    kept = np.unique([each.searchsorted(steps) for each in (sensitivity, rate)])
    return np.stack([scores[order][last], sensitivity, 1 - rate, hits / (last + 1)], 1)[kept]


def means(scored: Scored, names: Sequence[str]) -> dict[str, float]:
    """Return the defined ones of the named metrics, as means over the classes; see `metrics`."""
    found = {key: values if values.ndim == 1 else mean_of(values) for key, values in metrics(scored).items()}
    return {key: float(found[key][0]) for key in names if not np.isnan(found[key][0])}


@dataclass(frozen=True)
class Row:
    """A metric of one class, or of all, with the interval in which 95 % of the bootstrap samples are; NaN if there is none."""

    metric: str
    label: int | None  # None: all classes
    value: float
    low: float
    high: float


def intervals(scored: Scored, groups: np.ndarray | None = None, seed: int = 0) -> list[Row]:
    """Return every metric with its interval; undefined ones are left out. Fewer than `FEW` images or groups have no interval.

    Args:
        scored: the images.
        groups: (N,), such as the patients: samples draw whole groups; None: they draw images.
        seed: of the samples.
    """
    ranks, drawn = rankings(scored), _bootstrap(len(scored.labels), groups, seed)
    value, samples = _named(metrics(scored, ranks=ranks)), [_named(metrics(scored, weights, ranks)) for weights in drawn]
    enough, rows = len(scored.labels if groups is None else np.unique(groups)) >= FEW, []
    for (metric, label), known in value.items():
        every = np.concatenate([sample[metric, label] for sample in samples])
        every = every[~np.isnan(every)]
        if not np.isnan(known[0]) and len(every):
            low, high = np.percentile(every, [(100 - LEVEL) / 2, (100 + LEVEL) / 2]) if enough else (np.nan, np.nan)
            rows.append(Row(metric, label, float(known[0]), float(low), float(high)))
    return rows


def _named(figures: Figures) -> dict[tuple[str, int | None], np.ndarray]:
    """Return the values (samples,) by metric and class, the means over the classes first."""
    found: dict[tuple[str, int | None], np.ndarray] = {(key, None): figures[key] for key in OF_ALL}
    for key in OF_CLASSES:
        found[key, None] = mean_of(figures[key])
    found |= {(key, label): values for key in OF_CLASSES for label, values in enumerate(figures[key].T)}
    return found


def _bootstrap(count: int, groups: np.ndarray | None, seed: int) -> Iterator[np.ndarray]:
    """Yield weights (samples, N) of bootstrap samples: how often each image, or its group, was drawn."""
    names, group_of = np.unique(groups, return_inverse=True) if groups is not None else (np.arange(count), np.arange(count))
    draw, left = np.random.default_rng(seed), SAMPLES
    while left:
        size = min(left, max(1, CELLS // count))
        yield draw.multinomial(len(names), np.full(len(names), 1 / len(names)), size).astype(np.int32)[:, group_of]
        left -= size
