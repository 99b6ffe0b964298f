"""Temperature and thresholds of a classifier, chosen on its validation images."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from inception_zoo.architecture.decision import Decision
from inception_zoo.errors import ZooError

LIMITS = (0.05, 20.0)  # of the temperature
TINY = 1e-6  # thresholds are at least this far from 0 and 1
HALVINGS = 60


def decision_for(several: bool, saved: Decision | None) -> Decision:
    """Return how the network decides.

    Args:
        several: the loss is for several labels for each image.
        saved: of the weights that are tested; None for a training.

    Raises:
        ZooError: the weights were trained for the other kind of labels.
    """
    if saved and saved.several != several:
        was, use = ("several labels", "loss=bce") if saved.several else ("one label", "loss=cross_entropy")
        raise ZooError(
            f"loss: the weights were trained for {was} for each image; set {use}, and use data with {was} for each image"
        )
    return saved or Decision(several)


def chooser(options: Mapping[str, Any], names: Sequence[str]) -> Callable[[np.ndarray, np.ndarray], Decision] | None:
    """Return the function of probabilities and labels, see `choose`, that the config asks for; None if it asks for none.

    Args:
        options: the config node `decision`.
        names: class names of the data.

    Raises:
        ZooError: `decision.positive` is not one of the classes.
    """
    if not options["calibrate"] and options["threshold"] is None:
        return None
    positive = options["positive"]
    if positive is not None and str(positive) not in names:
        raise ZooError(f"decision.positive={positive} is not a class; the classes are {', '.join(names)}")
    label = None if positive is None else list(names).index(str(positive))
    return partial(choose, calibrate=options["calibrate"], rule=options["threshold"], positive=label)


def choose(
    probabilities: np.ndarray, labels: np.ndarray, calibrate: bool, rule: str | None, positive: int | None = None
) -> Decision:
    """Return the temperature and the thresholds for validation images.

    Args:
        probabilities: (N, classes), float64, with a temperature of 1.
        labels: (N,), or (N, classes) of 0 and 1 with several labels.
        calibrate: choose the temperature with the lowest loss (arXiv 1706.04599), within `LIMITS`.
        rule: of the thresholds, see `threshold`; None: no thresholds. A class without positive images, or without negative
            ones, keeps 0.5.
        positive: with one label and two classes, the class to which the threshold belongs.
    """
    several = labels.ndim == 2
    if not np.isfinite(probabilities).all():  # the training diverges
        return Decision(several)
    known = probabilities.clip(np.finfo(probabilities.dtype).tiny, 1 - np.finfo(probabilities.dtype).epsneg).astype(np.float64)
    scores = np.log(known) - (np.log1p(-known) if several else 0)
    temperature = fit_temperature(scores, labels) if calibrate else 1.0
    if rule is None:
        return Decision(several, temperature)
    if several:
        calibrated = 1 / (1 + np.exp(-scores / temperature))
        return Decision(several, temperature, [threshold(*each, rule) for each in zip(calibrated.T, labels.T > 0, strict=True)])
    assert positive is not None
    of_positive = threshold(_softmax(scores / temperature)[:, positive], labels == positive, rule)
    return Decision(several, temperature, [of_positive if label == positive else 1 - of_positive for label in (0, 1)])


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with the lowest loss: the loss is convex in its inverse, whose derivative is halved to zero.

    Args:
        scores: (N, classes), logits.
        labels: (N,), or (N, classes) of 0 and 1 with several labels.
    """
    targets = labels if labels.ndim == 2 else labels[:, None] == np.arange(scores.shape[1])

    def slope(inverse: float) -> float:
        scaled = scores * inverse
        probabilities = 1 / (1 + np.exp(-scaled.clip(-700, 700))) if labels.ndim == 2 else _softmax(scaled)
        return float(((probabilities - targets) * scores).sum())

    low, high = 1 / LIMITS[1], 1 / LIMITS[0]
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / (low * high) ** 0.5)


def threshold(scores: np.ndarray, positive: np.ndarray, rule: str) -> float:
    """Return the threshold of one class.

    Args:
        scores: (N,), probabilities of the class.
        positive: (N,), True for images of the class.
        rule: ``youden`` for the largest sum of sensitivity and specificity; ``f1`` for the largest F1;
            ``sensitivity@0.95`` for the highest threshold with this sensitivity, and ``specificity@0.95`` for the lowest
            threshold with this specificity.

    Returns:
        The middle between the lowest probability that counts as positive and the next lower one.
    """
    count, total = int(positive.sum()), len(positive)
    if count in (0, total):
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan))
    hits = positive[order].cumsum()[ends]
    false = ends + 1 - hits
    sensitivity, specificity = hits / count, 1 - false / (total - count)
    name, _, least = rule.partition("@")
    if name == "sensitivity":
        best = int(np.argmax(sensitivity >= float(least) - 1e-12))
    elif name == "specificity":
        fits = np.flatnonzero(specificity >= float(least) - 1e-12)
        best = int(fits[-1]) if len(fits) else -1  # -1: above the highest probability
    else:
        best = int(np.argmax(sensitivity + specificity if name == "youden" else 2 * hits / (count + ends + 1)))
    chosen = scores[order][ends]
    edges = [1.0, *chosen.tolist(), 0.0]
    return float(np.clip((edges[best + 1] + edges[best + 2]) / 2, TINY, 1 - TINY))


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
