"""Data sets of the Hugging Face Hub, and folders that its library `datasets` has saved."""

import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from inception_zoo.data.layout import SPLIT_OF
from inception_zoo.data.pictures import checked
from inception_zoo.errors import ZooError, check_installed, one_line, shown
from inception_zoo.system.places import check_download
from inception_zoo.system.ranks import is_first

UNKNOWN = -1  # label of the images of a test split whose labels are not published

log = logging.getLogger(__name__)


class Pairs(Dataset):
    """Pairs (PIL image, label) of one split, with the attributes `targets` and `classes`."""

    def __init__(self, rows: Any, image: str, label: str) -> None:
        self.rows, self.image, self.label = rows, image, label
        self.targets, self.classes = np.asarray(rows[label]), list(getattr(rows.features[label], "names", ()))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        item = self.rows[int(row)]
        stored = item[self.image]  # not decoded: `datasets` would open images of any format and size
        with checked(BytesIO(stored["bytes"]) if stored["bytes"] else Path(stored["path"])) as image:
            image.load()
            return image, item[self.label]


def hf(
    root: str, name: str | None = None, revision: str | None = None, image: str = "image", label: str = "label"
) -> dict[str, Pairs]:
    """Open a data set of images with one label each. Code in the data set is not executed.

    Args:
        root: ``owner/name`` on the Hub, which is downloaded to the cache of `datasets`; or a folder of `save_to_disk`.
        name: configuration of a data set that has several; None: the default one.
        revision: branch, tag or commit on the Hub; None: the newest.
        image: column of the images.
        label: column of the labels: whole numbers, or `datasets.ClassLabel`, whose names become the classes.

    Returns:
        The splits `train`, `val` (also named `valid` or `validation`) and `test`, as far as they exist and have labels.

    Raises:
        ZooError: the data set cannot be opened, has no training split, or a column is missing.
    """
    place = f"data.root={root}"
    check_installed("datasets", "hf", place)
    parts = _parts(root, name, revision, place)
    known: dict[str, Pairs] = {}
    unused = []
    for split, rows in parts.items():
        part = SPLIT_OF.get(split.casefold(), "")
        if part in known:
            raise ZooError(f"{place}: several splits are the split {part}: {', '.join(parts)}; choose another data set")
        pairs = _pairs(rows, image, label, place) if part else None
        if pairs is None:
            unused.append(split)
        elif part != "train" and (pairs.targets == UNKNOWN).all():
            unused.append(f"{split} (without labels)")
        else:
            known[part] = pairs
    if "train" not in known:
        raise ZooError(f"{place}: no split named train; its splits: {', '.join(parts)}; choose another data set")
    if unused and is_first():
        log.info("%s: not used: the splits %s", place, ", ".join(unused))
    return known


def _parts(root: str, name: str | None, revision: str | None, place: str) -> dict[str, Any]:
    """Return the splits by name; a data set without splits is `train`."""
    import datasets

    is_folder = Path(root).is_dir()
    if is_folder and (name or revision):
        raise ZooError(f"{place}: is a folder; remove data.source.name and data.source.revision")
    if not is_folder:
        check_download(root, "data set of datasets.save_to_disk")
    try:
        found = datasets.load_from_disk(root) if is_folder else datasets.load_dataset(root, name, revision=revision)
    except Exception as error:  # `datasets` raises exceptions of many types
        hint = "set data.root to owner/name on the Hub, or to a folder of save_to_disk"
        raise ZooError(f"{place}: cannot be opened: {one_line(error)}; {hint}") from None
    return dict(found) if isinstance(found, dict) else {"train": found}


def _pairs(rows: Any, image: str, label: str, place: str) -> Pairs:
    import datasets

    for key, column in (("image", image), ("label", label)):
        if column not in rows.features:
            columns = ", ".join(rows.features)
            raise ZooError(f"{place}: no column {shown(column)}; set data.source.{key} to one of {columns}")
    if not isinstance(rows.features[image], datasets.Image):
        raise ZooError(f"{place}: the column {shown(image)} does not hold images; set data.source.image")
    return Pairs(rows.select_columns([image, label]).cast_column(image, datasets.Image(decode=False)), image, label)
