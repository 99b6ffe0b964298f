"""Data set of your own image files, in one folder for each class."""

from collections.abc import Collection, Mapping
from pathlib import Path

from inception_zoo.data.inspection import inspect
from inception_zoo.data.layout import SPLITS
from inception_zoo.data.source import Source


def imagefolder(root: str) -> Source:
    """Read root/CLASS/**/image; or root/train/CLASS/**/image, and the same in `val` (`valid`, `validation`) and `test`.

    Classes have the names of their folders. A folder `train` decides which of the layouts it is. `ImageData` makes the
    splits that are missing.

    Args:
        root: folder of the images.

    Returns:
        The data set, whose splits are of the class `Files`.

    Raises:
        ZooError: another layout; see `inspect`.
    """
    return from_folders("imagefolder", root)


def from_folders(name: str, root: str, splits: Collection[str] = SPLITS, solution: Mapping[str, str] | None = None) -> Source:
    """Return the result of `inspect` as a source.

    Args:
        name: of the source.
        root: see `inspect`.
        splits: see `inspect`.
        solution: see `inspect`.
    """
    classes, found, bad = inspect(Path(root), splits, solution)
    return Source(name, found["train"], found.get("test"), classes, found.get("val"), bad)
