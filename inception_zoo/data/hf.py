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

    is_folder = Path(root).is_dir()
    if is_folder and (name or revision):
        raise ZooError(f"{place}: is a folder; remove data.source.name and data.source.revision")
    try:
        found = datasets.load_from_disk(root) if is_folder else datasets.load_dataset(root, name, revision=revision)
    except Exception as error:  # `datasets` raises exceptions of many types
        hint = "set data.root to owner/name on the Hub, or to a folder of save_to_disk"
        raise ZooError(f"{place}: cannot be opened: {one_line(error)}; {hint}") from None
    parts = found if isinstance(found, dict) else {"train": found}
    known: dict[str, Pairs] = {}
    for split, rows in parts.items():
        if (part := SPLIT_OF.get(split.casefold())) in known:
            raise ZooError(f"{place}: several splits are the split {part}: {', '.join(parts)}; choose another data set")
        for key, column in (("image", image), ("label", label)):
            if part and column not in rows.features:
                columns = ", ".join(rows.features)
                raise ZooError(f"{place}: no column {shown(column)}; set data.source.{key} to one of {columns}")
        if part:
            known[part] = Pairs(rows, image, label, list(getattr(rows.features[label], "names", ())))
    if "train" not in known:
        raise ZooError(f"{place}: no split named train; its splits: {', '.join(parts)}; choose another data set")
    if is_first() and (left := [split for split in parts if split.casefold() not in SPLIT_OF]):
        log.info("%s: not used: the splits %s", place, ", ".join(left))
    return known
