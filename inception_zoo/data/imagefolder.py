"""Image files of your own, in a folder for each class."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from inception_zoo.data.inspection import SPLITS, inspect
from inception_zoo.data.source import Source

log = logging.getLogger(__name__)


def imagefolder(root: str) -> Source:
    """Read root/train/CLASS/**/image, and the same in val, in test, or in both; a class is named as its folder.

    Without `test` the test is on `val`; without `val` the source has none, and training images are to be held out.

    Raises:
        ZooError: another layout, or images that cannot be read; see `inspect`.
    """
    return from_folders("imagefolder", root)


def from_folders(name: str, root: str, splits: Sequence[str] = SPLITS, solution: Mapping[str, str] | None = None) -> Source:
    """Return the result of `inspect` as a source."""
    classes, found = inspect(Path(root), splits, solution)
    if "test" not in found:
        log.info("%s has no test split: the test is on its validation split", name)
    return Source(name, found["train"], found["test" if "test" in found else "val"], classes, found.get("val"))
