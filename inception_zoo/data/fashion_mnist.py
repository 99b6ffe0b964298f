"""Fashion-MNIST: Xiao et al., arXiv 1708.07747. 60,000 training and 10,000 test images of clothing, 28x28, gray."""

import gzip
import logging
import math
import struct
import sys
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from inception_zoo.errors import ZooError, fail
from inception_zoo.system.places import check_download
from inception_zoo.system.regular_files import opened

if TYPE_CHECKING:  # `make data` runs `main` without torch
    from torch import Tensor

    from inception_zoo.data.source import Images, Source

CLASSES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # folder of Debian's package dataset-fashion-mnist
RAW = Path("FashionMNIST", "raw")  # torchvision's folder for the download
LARGEST = 60_000 * 28 * 28  # bytes of data in the largest file
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

log = logging.getLogger(__name__)


def fashion_mnist(root: str) -> "Source":
    """Load Fashion-MNIST from `root` or the Debian package's folder; else download it into `root`.

    Empty files, which an interrupted download leaves, are not used.

    Args:
        root: folder of the files, or of the download.

    Returns:
        The data set: images uint8 (N, 1, 28, 28), labels int64 (N,).

    Raises:
        ZooError: the files are missing and cannot be downloaded, or one is damaged.
    """
    from inception_zoo.data.source import Source

    folder = find(Path(root)) or download(Path(root))
    train, test = (_split(folder, *names) for names in FILES.values())
    return Source("fashion_mnist", train, test, CLASSES)


def _split(folder: Path, images: str, labels: str) -> "Images":
    from inception_zoo.data.source import Images

    pixels, numbers = read_idx(folder, images), read_idx(folder, labels)
    if pixels.shape[1:] != (28, 28) or numbers.shape != pixels.shape[:1]:
        raise ZooError(f"{folder}: {images} {tuple(pixels.shape)} and {labels} {tuple(numbers.shape)} are not Fashion-MNIST")
    return Images(pixels.unsqueeze(1), numbers.long())


def find(root: Path) -> Path | None:
    """Return the first folder that contains all four files, gzipped or not; None if there is none."""
    folders = (root, root / "fashion-mnist", root / RAW, DEBIAN)
    names = [name for pair in FILES.values() for name in pair]
    return next((folder for folder in folders if None not in [_file(folder, name) for name in names]), None)


def _file(folder: Path, name: str) -> Path | None:
    """Return the file, or the gzipped one, without those that an interrupted download has left empty."""
    for path in (path for path in (folder / name, folder / f"{name}.gz") if path.exists()):
        if not path.is_file() or path.stat().st_size:
            return path
        log.warning("%s is empty, and not used; delete it", path)
    return None


def download(root: Path) -> Path:
    """Download the files into `root` with torchvision, and return their folder.

    Raises:
        ZooError: the download failed.
    """
    from torchvision.datasets import FashionMNIST

    check_download(root, "Fashion-MNIST")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="FashionMNIST.partial-", dir=root) as beside:  # an interrupted one is not found
            FashionMNIST(beside, download=True)
            root.joinpath(RAW).mkdir(parents=True, exist_ok=True)
            for file in Path(beside, RAW).iterdir():
                file.replace(root / RAW / file.name)
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        files = ", ".join(f"{name}.gz" for pair in FILES.values() for name in pair)
        raise ZooError(
            f"data.root={root}: no Fashion-MNIST there or in {DEBIAN}, and the download failed ({reason}); "
            f"run `make data`, or `apt-get install dataset-fashion-mnist`, or put {files} into {root}"
        ) from None
    return root / RAW


def read_idx(folder: Path, name: str) -> "Tensor":
    """Read a file in the IDX format: two zero bytes, a type (8 is uint8), the number of dimensions, their sizes, the data.

    Args:
        folder: contains the file.
        name: file name without `.gz`. If that file does not exist, the gzipped one is read.

    Returns:
        A uint8 tensor of the shape in the file.

    Raises:
        ZooError: the file is damaged, or not an IDX file of uint8.
    """
    import torch

    path = _file(folder, name) or folder / name
    try:
        with opened(path) as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
            head = file.read(4)
            if head[:3] != b"\0\0\x08":
                raise ValueError("the IDX header is missing")
            dims = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
            size = math.prod(dims)
            values = file.read(min(size, LARGEST) + 1)  # a limit, because a small file can unpack to any size
        if len(values) != size:
            raise ValueError(f"expected {size:,} values")
        return torch.frombuffer(bytearray(values), dtype=torch.uint8).view(dims)
    except (OSError, EOFError, ValueError, IndexError, struct.error, zlib.error) as error:
        raise ZooError(f"{path}: damaged, or not an IDX file ({error}); delete it and run `make data`") from None


def main() -> None:
    """Find or download the data set: ``python -m inception_zoo.data.fashion_mnist FOLDER``; exit status 2 if both fail."""
    root = Path(sys.argv[1])
    try:
        sys.stdout.write(f"Fashion-MNIST: {find(root) or download(root)}\n")
    except ZooError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
