"""CIFAR-10 and CIFAR-100: Krizhevsky, "Learning multiple layers of features from tiny images", 2009. 32x32, in color."""

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from inception_zoo.data.source import Images, Source
from inception_zoo.errors import ZooError
from inception_zoo.system.places import check_download, may_download
from inception_zoo.system.regular_files import check_regular


def cifar10(root: str) -> Source:
    """Load CIFAR-10, 50,000 training and 10,000 test images of 10 classes, from `root`; else download it (170 MB).

    Args:
        root: folder of the files, or of the download.

    Returns:
        The data set: images uint8 (N, 3, 32, 32), labels int64 (N,).

    Raises:
        ZooError: the data set is missing or damaged, and cannot be downloaded.
    """
    return _read("cifar10", CIFAR10, root)


def cifar100(root: str) -> Source:
    """Load CIFAR-100, the same numbers of images of 100 classes; otherwise as `cifar10`."""
    return _read("cifar100", CIFAR100, root)


def _read(name: str, dataset: type[CIFAR10], root: str) -> Source:
    for path in (Path(root, dataset.filename), *Path(root, dataset.base_folder).glob("*")):
        check_regular(path)  # the download would be written into it
    try:
        # torchvision downloads files that are missing or have another MD5 sum.
        train, test = dataset(root, train=True, download=may_download(root)), dataset(root, train=False)
    except Exception as error:  # besides file and network errors, unpickling raises many types
        check_download(root, name)
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ZooError(
            f"data.root={root}: {name} is missing or damaged, and the download failed ({reason}); "
            f"put {dataset.filename} into {root}, and delete {dataset.base_folder} there if it exists"
        ) from None
    return Source(name, _images(train), _images(test), train.classes)


def _images(split: CIFAR10) -> Images:
    return Images(torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(split.targets))
