"""CIFAR-10 and CIFAR-100: Krizhevsky, "Learning multiple layers of features from tiny images", 2009. 32x32, in color."""

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from inception_zoo.data.source import Images, Source
from inception_zoo.errors import ZooError


def cifar10(root: str) -> Source:
    """50,000 training and 10,000 test images of 10 classes, read from `root`, else downloaded into it (170 MB).

    Raises:
        ZooError: the set is not in `root` or is damaged, and cannot be downloaded.
    """
    return _read("cifar10", CIFAR10, root)


def cifar100(root: str) -> Source:
    """The same numbers of images of 100 classes; otherwise as `cifar10`."""
    return _read("cifar100", CIFAR100, root)


def _read(name: str, dataset: type[CIFAR10], root: str) -> Source:
    try:
        # torchvision downloads what is missing or fails its MD5 sum.
        train, test = dataset(root, train=True, download=True), dataset(root, train=False)
    except Exception as error:  # besides those of files and networks, unpickling raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ZooError(
            f"data.root={root}: {name} is not there or is damaged, and downloading it failed ({reason}); "
            f"put {dataset.filename} into {root}, and delete {dataset.base_folder} there if there is one"
        ) from None
    return Source(name, _images(train), _images(test), train.classes)


def _images(split: CIFAR10) -> Images:
    return Images(torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(split.targets))
