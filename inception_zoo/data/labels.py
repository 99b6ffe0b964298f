"""Labels of images: one each, int64 (N,), or any number, float (N, classes) of 0 and 1."""

from collections.abc import Sequence

import torch
from torch import Tensor


def counts_of(labels: Tensor, classes: int = 0) -> Tensor:
    """Return the number of images with each label, int64, for labels up to the last one that an image has, or `classes`."""
    return labels.sum(0).long() if labels.dim() == 2 else labels.bincount(minlength=classes)


def present(labels: Tensor) -> set[int]:
    """Return the labels that at least one image has."""
    return {*counts_of(labels).nonzero().flatten().tolist()}


def strata(labels: Tensor) -> Tensor:
    """Return one class for each image, int64 (N,): with several labels, the one that the fewest images have.

    Images without a label have a class of their own, after the others.
    """
    if labels.dim() == 1:
        return labels
    rank = labels.sum(0).argsort(stable=True)
    ordered = labels[:, rank] > 0
    first = ordered.int().argmax(1)
    return torch.where(ordered.any(1), rank[first], labels.shape[1])


def names_of(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the class names of each image, those of several labels separated by `; `."""
    if labels.dim() == 1:
        return [classes[label] for label in labels.tolist()]
    return ["; ".join(classes[label] for label in row.nonzero().flatten().tolist()) for row in labels]


def balanced(classes: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the rows of an epoch in which all classes have the same number of images, or one more or less.

    The images of a class are drawn without replacement, again and again until there are enough.

    Args:
        classes: of each image, int64 (N,).
        draw: generator of the random numbers.

    Returns:
        The rows, int64 (N,), and how often each one's image has been drawn before in this epoch.
    """
    found = classes.unique()
    share, rest = divmod(len(classes), len(found))
    more = set(torch.randperm(len(found), generator=draw)[:rest].tolist())
    rows, repeats = [], []
    for number, each in enumerate(found):
        own, wanted = (classes == each).nonzero().flatten(), share + (number in more)
        passes = [own[torch.randperm(len(own), generator=draw)] for _ in range(-(-wanted // len(own)))]
        rows.append(torch.cat(passes)[:wanted])
        repeats.append(torch.arange(wanted) // len(own))
    order = torch.randperm(len(classes), generator=draw)
    return torch.cat(rows)[order], torch.cat(repeats)[order]
