"""Speed of our data pipelines and of torchvision's, from the file to the tensor that a network reads: images/s."""

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Contest, Measured, contested
from inception_zoo.data import Augmentation, ImageData
from inception_zoo.data.fashion_mnist import fashion_mnist
from inception_zoo.data.imagefolder import imagefolder
from inception_zoo.data.optimize import optimize_folder
from inception_zoo.data.stream import stream

Turn = Callable[[], float]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOS, BATCH = 128, 32  # images of the folder: three of four have 500x375 px, ImageNet's usual size, the others 1024x768


class Tutorial(Dataset):
    """Fashion-MNIST as the tutorial reads it with torchvision: each access resizes an image and converts it to a tensor."""

    def __init__(self, root: str) -> None:
        split = fashion_mnist(root).train
        self.images, self.labels = split.images[:, 0].numpy(), split.labels.tolist()  # type: ignore[attr-defined]
        self.transform = v2.Compose([v2.Resize(96), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def photographs(root: Path) -> None:
    """Write crops of scikit-learn's two photographs to ROOT/train/CLASS and ROOT/val/CLASS, as JPEG (quality 90, 4:2:0)."""
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    generator = np.random.default_rng(0)
    for number in range(PHOTOS):
        picture = pictures[number % 2]
        width = int(picture.width * generator.uniform(0.7, 0.88))
        height = width * 3 // 4
        left, top = (int(generator.integers(0, n + 1)) for n in (picture.width - width, picture.height - height))
        size = (1024, 768) if number % 4 == 0 else (500, 375)
        for split in ("train", "val"):
            file = root / split / f"class{number % 2}" / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            part = picture.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
            part.save(file, quality=90, subsampling="4:2:0")


def _of_zoo(data: ImageData, training: bool, loader: Callable[[], Iterable[Any]], batches: int) -> Turn:
    def turn() -> float:
        read = (data.prepared(batch, training)[1] for batch, _ in zip(loader(), range(batches), strict=False))
        return float(sum(map(len, read)))

    return turn


def _of_torchvision(dataset: Dataset, size: int, batches: int, shuffle: bool = True) -> Turn:
    def turn() -> float:
        loader = DataLoader(dataset, size, shuffle=shuffle)
        return float(sum(len(labels) for (_, labels), _ in zip(loader, range(batches), strict=False)))

    return turn


def measure(options: Options) -> Measured:
    """Measure ``data/PIPELINE/CONTENDER`` in images/s, with one thread: the speed of one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            for name, contest in _contests(str(options.data_root), Path(folder)).items():
                yield from contested(f"data/{name}", contest, options.rounds)
    finally:
        torch.set_num_threads(threads)


def _contests(data_root: str, root: Path) -> dict[str, Contest]:
    """Return the contest of each pipeline, in one process and without workers.

    Args:
        data_root: folder of Fashion-MNIST.
        root: empty folder for the photographs.
    """
    fashion = ImageData(fashion_mnist, 10, 1, 96, 128, {"val": 5000}, [0.0], [1.0], root=data_root)
    fashion.setup()
    photographs(root / "images")
    optimize_folder(imagefolder(str(root / "images")), root / "chunks")
    augmentation = Augmentation(v2.RandomResizedCrop(299, antialias=True), {"flip": v2.RandomHorizontalFlip()})
    options: dict[str, Any] = {"workers": 0, "crop_pct": 299 / 342, "augmentation": augmentation, "eval_batch_size": BATCH}
    folder = ImageData(imagefolder, 2, 3, 299, BATCH, {}, MEAN, STD, root=str(root / "images"), **options)
    chunks = ImageData(stream, 2, 3, 299, BATCH, {}, MEAN, STD, root=str(root / "chunks"), **options)
    folder.setup()
    chunks.setup()
    floats = v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)
    random = v2.RandomResizedCrop(299, antialias=True), v2.RandomHorizontalFlip()
    trained = ImageFolder(root / "images/train", v2.Compose([*random, *floats]))
    seen = ImageFolder(root / "images/val", v2.Compose([v2.Resize(342, antialias=True), v2.CenterCrop(299), *floats]))
    rows = [list(range(start, start + BATCH)) for start in range(0, PHOTOS, BATCH)]
    count = PHOTOS // BATCH
    ours = _of_zoo(folder, True, folder.train_dataloader, count)
    return {
        "fashion_mnist_96": {
            "inception_zoo": _of_zoo(fashion, True, fashion.train_dataloader, 400),
            "tutorial": _of_torchvision(Tutorial(data_root), 128, 20),
        },
        "jpeg_299": {"inception_zoo": ours, "torchvision": _of_torchvision(trained, BATCH, count)},
        "jpeg_299_eval": {
            "inception_zoo": _of_zoo(folder, False, lambda: folder.batches("val", rows), count),
            "torchvision": _of_torchvision(seen, BATCH, count, shuffle=False),
        },
        "stream": {"inception_zoo": _of_zoo(chunks, True, chunks.train_dataloader, count), "folder": ours},
    }
