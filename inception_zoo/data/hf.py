"""Data sets of the Hugging Face Hub, and folders that its library `datasets` has saved."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from inception_zoo.data.layout import SPLIT_OF
from inception_zoo.errors import ZooError, check_installed, one_line, shown
from inception_zoo.system.ranks import is_first

log = logging.getLogger(__name__)


class Pairs(Dataset):
    """Pairs (PIL image, label) of one split, with the attributes `targets` and `classes`."""

    def __init__(self, rows: Any, image: str, label: str, classes: list[str]) -> None:
        self.rows, self.image, self.label, self.classes = rows, image, label, classes
        self.targets = np.asarray(rows[label])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        item = self.rows[int(row)]
        return item[self.image], item[self.label]


def hf(
    root: str, name: str | None = None, revision: str | None = None, image: str = "image", label: str = "label"
) -> dict[str, Pairs]:
    """Open a data set of images with one label each. No code of the data set is run.

    Args:
        root: ``owner/name`` on the Hub, which is downloaded to the cache of `datasets`; or a folder of `save_to_disk`.
        name: configuration of a data set that has several; None: the default one.
        revision: branch, tag or commit on the Hub; None: the newest.
        image: column of the images.
        label: column of the labels: whole numbers, or `datasets.ClassLabel`, whose names become the classes.

    Returns:
        The splits `train`, `val` (also named `valid` or `validation`) and `test`, as far as they exist.

    Raises:
        ZooError: the data set cannot be opened, has no training split, or a column is missing.
    """
    place = f"data.root={root}"
    check_installed("datasets", "hf", place)
    import datasets

    try:
        found = datasets.load_from_disk(root) if Path(root).is_dir() else datasets.load_dataset(root, name, revision=revision)
    except Exception as error:  # the library raises errors of many types
        raise ZooError(f"{place}: {one_line(error)}") from None
    parts = found if isinstance(found, dict) else {"train": found}
    known = {SPLIT_OF[split]: part for split, part in parts.items() if split in SPLIT_OF}
    if "train" not in known:
        raise ZooError(f"{place}: has the splits {', '.join(parts)}, but no train")
    for part in known.values():
        for key, column in (("image", image), ("label", label)):
            if column not in part.features:
                columns = ", ".join(part.features)
                raise ZooError(f"{place}: no column {shown(column)}; set data.source.{key} to one of {columns}")
    if is_first() and (left := [split for split in parts if split not in SPLIT_OF]):
        log.info("%s: not used: the splits %s", place, ", ".join(left))
    classes = list(getattr(known["train"].features[label], "names", ()))
    return {split: Pairs(part, image, label, classes) for split, part in known.items()}
