"""Checks of the labels, soft labels and weights of the data together with the loss."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from inception_zoo.data import ImageData
from inception_zoo.errors import ZooError, shown
from inception_zoo.training.embedding import Embedder
from inception_zoo.training.losses import class_weights
from inception_zoo.training.module import Classifier
from inception_zoo.training.operating_points import chooser


def check_labels(config: Mapping[str, Any], data: ImageData, module: Classifier | Embedder) -> None:
    """Check that the loss can train with the labels of the data.

    Args:
        config: the final config of the job, as plain containers.
        data: the data, after `setup`.
        module: has the loss.

    Raises:
        ZooError: the data cannot train, has another kind of labels than the loss, or classes or images cannot be weighted.
    """
    several = not isinstance(module, Embedder) and module.criterion.several
    if config["task"] == "fit" and not data.trains:
        raise ZooError(
            f"data.root={data.root}: has no training images; add some, or evaluate a network with task=test ckpt=RUN"
        )
    if data.several and not several:
        raise ZooError("loss: the data has several labels for each image; set loss=bce, binary_focal or asl")
    if several and not data.several:
        raise ZooError(
            "loss: the data has one label for each image; set loss=cross_entropy, or list data.source.label's columns"
        )
    if config["task"] == "fit":
        _check_columns(config, data, module)
    if config["class_weight"] is not None and config["task"] == "fit":
        class_weights(config["class_weight"], *data.counts())
    chooser(config["decision"], data.class_names)  # raises for a positive class that does not exist


def _check_columns(config: Mapping[str, Any], data: ImageData, module: Classifier | Embedder) -> None:
    """Raise ZooError if the loss cannot use the soft labels, or the weights of images, that the training images have."""
    split = data.splits["train"]
    given = {"probabilities": getattr(split, "soft", None), "weight": getattr(split, "weights", None)}
    for key in [key for key, column in given.items() if column is not None]:
        place = f"data.source.{key}={shown(config['data']['source'].get(key))}"
        if isinstance(module, Embedder):
            raise ZooError(f"{place} cannot be combined with a metric-learning loss; remove it")
        if key == "weight" and (data.augmentation.mixup or data.augmentation.cutmix):
            raise ZooError(f"{place} cannot be combined with mixup and cutmix, which mix images; remove one of them")
        if key == "weight" and "weights" not in signature(module.criterion.forward).parameters:
            raise ZooError(f"{place}: {type(module.criterion).__name__}.forward has no argument `weights`; add it")
