"""Losses of logits, for images with one label each or with several, with weights of classes and of images.

Each loss is the mean over the images of the batch. With weights, it is still divided by the number of images and not by the
sum of their weights, so that it does not depend on the division of a batch among processes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.errors import ZooError

BETA = 0.999  # of the effective number of images


class LogitLoss(nn.Module):
    """Loss of logits (N, classes), targets, and optionally weights of the images (N,).

    Targets are labels int64 (N,), or float (N, classes): soft labels, or 1 for each label that an image has and 0 for the
    others.
    """

    several = False  # images have any number of labels: classes are independent, and their probabilities are sigmoids
    weight: Tensor | None = None  # (classes,), of the classes; with several labels, of their positive images
    label_smoothing = 0.0


class CrossEntropy(LogitLoss):
    """Cross entropy of the softmax."""

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if self.weight is None and weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        logits = wide(logits)
        of_classes = None if self.weight is None else self.weight.to(logits)
        losses = F.cross_entropy(logits, targets, of_classes, reduction="none", label_smoothing=self.label_smoothing)
        return mean(losses, weights)


class Focal(LogitLoss):
    """Focal loss of the softmax: the cross entropy, with each term times (1 - probability) ** gamma.

    Args:
        gamma: 0 is the cross entropy; the larger, the less well-classified images count.

    Source: arXiv 1708.02002.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        likelihoods = wide(logits).log_softmax(1)
        if targets.dim() == 1:
            targets = F.one_hot(targets, logits.shape[1]).to(likelihoods)
        targets = torch.lerp(targets, torch.full_like(targets, 1 / logits.shape[1]), self.label_smoothing)
        weight = 1.0 if self.weight is None else self.weight.to(likelihoods)
        losses = -(weight * targets * above_zero(1 - likelihoods.exp()) ** self.gamma * likelihoods).sum(1)
        return mean(losses, weights)


class BinaryCrossEntropy(LogitLoss):
    """Binary cross entropy of the sigmoids, the mean over the classes."""

    several = True

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        logits = wide(logits)
        targets = targets.to(logits)  # bfloat16 with a precision such as bf16-true
        return mean(self.weighted(self.each(logits, self.smoothed(targets)), targets), weights)

    def each(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each image and class, (N, classes)."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    def smoothed(self, targets: Tensor) -> Tensor:
        """Move targets towards a half by the label smoothing."""
        return torch.lerp(targets, torch.full_like(targets, 0.5), self.label_smoothing)

    def weighted(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Multiply the losses of positive images by the weights of their classes."""
        return losses if self.weight is None else losses * torch.lerp(torch.ones_like(targets), self.weight.to(losses), targets)


class BinaryFocal(BinaryCrossEntropy):
    """Focal loss of the sigmoids, the mean over the classes, without the balance factor alpha (see `class_weight`).

    Args:
        gamma: 0 is the binary cross entropy.

    Source: arXiv 1708.02002.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def each(self, logits: Tensor, targets: Tensor) -> Tensor:
        probabilities, losses = logits.sigmoid(), super().each(logits, targets)
        return above_zero(torch.lerp(probabilities, 1 - probabilities, targets)) ** self.gamma * losses


class Asymmetric(BinaryCrossEntropy):
    """Asymmetric loss of the sigmoids, the mean over the classes: easy negatives count less than positives.

    Args:
        gamma_positive: exponent of the focal factor of positives.
        gamma_negative: exponent of that of negatives.
        margin: negatives with a smaller probability than this one do not count.

    Source: arXiv 2009.14119.
    """

    def __init__(self, gamma_positive: float = 0.0, gamma_negative: float = 4.0, margin: float = 0.05) -> None:
        super().__init__()
        self.gamma_positive, self.gamma_negative, self.margin = gamma_positive, gamma_negative, margin

    def each(self, logits: Tensor, targets: Tensor) -> Tensor:
        probabilities = logits.sigmoid()
        shifted = above_zero(probabilities - self.margin)
        positive = above_zero(1 - probabilities) ** self.gamma_positive * F.logsigmoid(logits)
        negative = shifted**self.gamma_negative * torch.log1p(-shifted.clamp(max=1 - 1e-7))
        return -(targets * positive + (1 - targets) * negative)


def mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of losses (N,) or (N, classes), each times the weight of its image (N,)."""
    return losses.mean() if weights is None else (losses.movedim(0, -1) * weights.to(losses)).mean()


def wide(logits: Tensor) -> Tensor:
    """Return the logits in float32 at least: sigmoids and powers in bfloat16 have two or three digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def above_zero(base: Tensor) -> Tensor:
    """Return a base of a power, at least the rounding error: at 0, a power below 1 has an infinite derivative."""
    return base.clamp(min=torch.finfo(base.dtype).eps)


def class_weights(choice: str | Sequence[float], counts: Tensor, images: int | None) -> Tensor:
    """Return the weights of the classes, float (classes,).

    With one label for each image, ``balanced`` weights are inversely proportional to the numbers of images, as in
    scikit-learn; ``effective`` ones are inversely proportional to the effective numbers, (1 - 0.999 ** n) / 0.001, and their
    mean is 1. With several labels, the weight of a class's positive images is the number of its negatives divided by that of
    its positives, or the same ratio of the effective numbers.

    Args:
        choice: `balanced`, `effective`, or the weights themselves.
        counts: (classes,), number of training images with each label.
        images: number of training images, if they have any number of labels; None: they have one each.

    Raises:
        ZooError: a class has no training images, or another number of weights is given.

    Source: arXiv 1901.05555 (effective numbers).
    """
    if not isinstance(choice, str):
        if len(choice) != len(counts):
            raise ZooError(f"class_weight={choice}: the data has {len(counts)} classes; give one weight for each")
        return torch.tensor(choice, dtype=torch.float32)
    positive = counts.double()
    if (empty := (positive == 0).nonzero().flatten().tolist()) or images in counts.tolist():
        every = "" if empty else f"every training image has label {counts.tolist().index(images)}, so it has no negatives"
        what = f"class {empty[0]} has no training images" if empty else every
        raise ZooError(f"class_weight={choice}: {what}; add some, or give the weights as a list")
    sizes = [positive] if images is None else [positive, images - positive]
    if choice == "effective":
        sizes = [(1 - BETA**each) / (1 - BETA) for each in sizes]
    if images is not None:
        return (sizes[1] / sizes[0]).float()
    weights = 1 / sizes[0]
    return (weights / weights.mean() if choice == "effective" else weights * counts.sum() / len(counts)).float()
