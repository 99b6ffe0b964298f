"""Class folders of an image data set. Imports nothing heavy: the config counts classes before torch is imported."""

import json
import os
import unicodedata
from pathlib import Path

CLASSES = "classes.json"  # class names by label, in a data set in chunks
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")  # folder in Kaggle's archive of ImageNet


def splits_folder(root: Path) -> Path:
    """Return the folder that contains `train`: `root`, or the one in Kaggle's archive. Return `root` if neither does."""
    return root / KAGGLE if not (root / "train").is_dir() and (root / KAGGLE / "train").is_dir() else root


def class_name(folder: str) -> str:
    """Return the class name of a folder, in Unicode's form NFC. Some systems store é as one character, others as two."""
    return unicodedata.normalize("NFC", folder)


def class_folders(split: Path) -> list[str]:
    """Return the class names of a split's folders in the order of labels, without hidden ones; none without such a split."""
    if not split.is_dir():
        return []
    with os.scandir(split) as entries:
        return sorted(class_name(entry.name) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def count_classes(root: str | None) -> int:
    """Return the number of classes of a data set in chunks, or of class folders in the training split; 0 if there are none."""
    if not root:
        return 0
    try:
        return len(json.loads(Path(root, CLASSES).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return len(class_folders(splits_folder(Path(root)) / "train"))
