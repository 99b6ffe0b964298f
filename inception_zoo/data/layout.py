"""The class folders of an image data set. Imports nothing heavy: the configuration counts classes before torch."""

import json
import os
from pathlib import Path

CLASSES = "classes.json"  # of a set in chunks: the names by label
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")  # inside ImageNet's archive from Kaggle


def splits_folder(root: Path) -> Path:
    """The folder that holds `train`: root, or the inner one of Kaggle's archive; root if neither does."""
    return root / KAGGLE if not (root / "train").is_dir() and (root / KAGGLE / "train").is_dir() else root


def class_folders(split: Path) -> list[str]:
    """The folders in a split, sorted: label 0 is the first. Hidden ones are left out; none if there is no such split."""
    if not split.is_dir():
        return []
    with os.scandir(split) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def count_classes(root: str | None) -> int:
    """The number of class folders of root's training split, or of classes in a root of chunks; 0 if there are none."""
    if not root:
        return 0
    try:
        return len(json.loads(Path(root, CLASSES).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return len(class_folders(splits_folder(Path(root)) / "train"))
