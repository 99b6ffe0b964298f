"""ImageNet: Russakovsky et al., arXiv 1409.0575. 1,281,167 training and 50,000 validation images of 1,000 classes."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from inception_zoo.data.inspection import inspect
from inception_zoo.data.layout import SPLITS, class_folders, split_folders, splits_folder
from inception_zoo.data.source import Source
from inception_zoo.errors import ZooError
from inception_zoo.system.regular_files import opened, text_of

ID = re.compile(r"n\d{8}")  # WordNet's id of a class
SOLUTION = "LOC_val_solution.csv"  # Kaggle's labels: ImageId,PredictionString; "ILSVRC2012_val_00000001,n03995372 85 1 499 272"


def imagenet(root: str) -> Source:
    """Read root/train/n01440764/**/image and likewise `val`, or Kaggle's archive unpacked in `root`.

    A class has the first of its WordNet words as its name ("tench") if `root` has one of the files in `NAMES`, and otherwise
    its id. Images of `val` that are not in class folders are labelled by Kaggle's LOC_val_solution.csv in `root`.

    Args:
        root: folder that contains `train`, or Kaggle's `ILSVRC`.

    Returns:
        The data set, whose splits are of the class `Files`.

    Raises:
        ZooError: class folders that are not WordNet ids, images without labels, or an error of `inspect`.
    """
    folders = split_folders(Path(root))
    for folder in folders.values():
        if others := [name for name in class_folders(folder) if not ID.fullmatch(name)]:
            raise ZooError(f"{folder / others[0]} is not an ImageNet class (n and 8 digits); set data=imagefolder")
    flat = "val" in folders and not class_folders(folders["val"])
    # The test images in Kaggle's archive have no labels.
    splits = SPLITS if splits_folder(Path(root)) == Path(root) else ("train", "val")
    source = inspect("imagenet", Path(root), splits, _solution(Path(root)) if flat else None)
    return replace(source, classes=_unique(source.classes, _words(Path(root))))


def is_imagenet(root: Path) -> bool:
    """Return True if the training folders are named by WordNet ids."""
    names = class_folders(split_folders(root)["train"])
    return bool(names) and all(map(ID.fullmatch, names))


def _solution(root: Path) -> dict[str, str]:
    """Return the class ids by the names of the validation images."""
    path = root / SOLUTION
    try:
        with opened(path, "r", newline="", encoding="utf-8") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except FileNotFoundError:
        raise ZooError(
            f"data.root={root}: the images in {split_folders(root)['val']} are not in class folders; "
            f"put Kaggle's {SOLUTION} into {root}, or sort them into class folders as in train"
        ) from None
    except ZooError:
        raise
    except (OSError, ValueError, KeyError, IndexError, AttributeError, csv.Error) as error:
        raise ZooError(f"{path}: not Kaggle's file, or damaged ({type(error).__name__})") from None


def _lines(text: str) -> dict[str, str]:
    """Parse lines of an id, a space or a tab, and words."""
    return {words[0]: words[1] for line in text.splitlines() if len(words := line.split(maxsplit=1)) == 2}


def _index(text: str) -> dict[str, str]:
    """Parse Keras's JSON: {"0": ["n01440764", "tench"], …}."""
    return {name: words.replace("_", " ") for name, words in json.loads(text).values()}


NAMES: dict[str, Callable[[str], dict[str, str]]] = {  # files with class names; the first one that exists is used
    "LOC_synset_mapping.txt": _lines,  # Kaggle's
    "words.txt": _lines,  # WordNet's
    "imagenet_class_index.json": _index,
}


def _words(root: Path) -> dict[str, str]:
    path = next((root / name for name in NAMES if (root / name).exists()), None)
    if path is None:
        return {}
    text = text_of(path)
    try:
        return NAMES[path.name](text)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ZooError(f"{path}: no class names found ({type(error).__name__}); repair or delete the file") from None


def _unique(ids: list[str], words: Mapping[str, str]) -> list[str]:
    """Return unique class names: those that occur twice (crane, maillot) get their ids."""
    names = [words.get(name, name).split(",")[0].strip() for name in ids]
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({wordnet})" for name, wordnet in zip(names, ids, strict=True)]
