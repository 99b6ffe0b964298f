"""Data set of your own image files, in one folder for each class."""

from pathlib import Path

from inception_zoo.data.inspection import inspect
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
    return inspect("imagefolder", Path(root))
