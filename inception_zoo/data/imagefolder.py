"""Data set of your own image files, in one folder for each class."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from inception_zoo.data.inspection import SPLITS, inspect
from inception_zoo.data.source import Source

log = logging.getLogger(__name__)


def imagefolder(root: str) -> Source:
    """Read root/train/CLASS/**/image, and the same in `val`, `test` or both.

    Classes have the names of their folders. Without `test`, the test uses `val`. Without `val`, the source has no validation
    split, and `ImageData` holds out training images.

    Args:
        root: folder that contains `train`.

    Returns:
        The data set, whose splits are of the class `Files`.

    Raises:
        ZooError: another layout, or images that cannot be read; see `inspect`.
    """
    return from_folders("imagefolder", root)


def from_folders(name: str, root: str, splits: Sequence[str] = SPLITS, solution: Mapping[str, str] | None = None) -> Source:
    """Return the result of `inspect` as a source.

    Args:
        name: of the source.
        root: see `inspect`.
        splits: see `inspect`.
        solution: see `inspect`.
    """
    classes, found = inspect(Path(root), splits, solution)
    if "test" not in found:
        log.info("%s has no test split: testing on the validation split", name)
    return Source(name, found["train"], found["test" if "test" in found else "val"], classes, found.get("val"))
