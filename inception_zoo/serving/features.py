"""Features of images: as a module for metrics and other tools, and of many files at once."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn

from inception_zoo.architecture.choices import ALIKE
from inception_zoo.architecture.preprocessing import NOTHING_STATED, Preprocessing, Stated
from inception_zoo.data.pixels import centre, normalize, prepare
from inception_zoo.data.reading import read_image
from inception_zoo.errors import ZooError, check_installed, did_you_mean
from inception_zoo.network.inception import Inception
from inception_zoo.serving.classifier import open_classifier
from inception_zoo.serving.folding import fuse
from inception_zoo.serving.images import read_ahead
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.terminal import console

POOL = "pool"  # layer whose features the classifier reads
SHARE = 256  # images that a process extracts at a time


class Features(nn.Module):
    """Features of images as a module: (N, C, H, W) → (N, num_features). The network stays in evaluation mode.

    Metrics such as torchmetrics' `FrechetInceptionDistance(feature=…)` call the module that they are given; a classifier would
    give them its logits.

    Args:
        model: The network.
        layer: `pool`: what the classifier reads; or an endpoint, whose feature maps are averaged over the grid.
        preprocessing: Applied to images of uint8; None: the network's own.

    Raises:
        ZooError: `layer` is neither `pool` nor an endpoint.
    """

    def __init__(self, model: Inception, layer: str = POOL, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        channels = {POOL: model.num_features, **{block.name: block.c_out for block in model.plan.blocks}}
        if layer not in channels:
            raise ZooError(f"{model.plan.net.name}: layer {layer} is unknown; {did_you_mean(layer, channels, ALIKE)}")
        self.model, self.layer, self.num_features = model.eval(), layer, channels[layer]
        self.preprocessing = preprocessing or model.preprocessing

    def train(self, mode: bool = True) -> "Features":
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return features, float (N, num_features).

        Args:
            images: uint8 (N, C, H, W), which are resized, cropped and normalized; or float, as the network reads them.

        Raises:
            ZooError: `images` are uint8, and neither the network nor the user states the preprocessing.
        """
        if images.dtype == torch.uint8:
            if self.preprocessing is None:
                raise ZooError(f"{self.model.plan.net.name} states no preprocessing; give it, or float images")
            dtype = next((weight.dtype for weight in self.model.parameters()), torch.float32)  # metrics convert the network
            images = normalize(centre(images, self.preprocessing), self.preprocessing).to(dtype)
        if self.layer == POOL:
            return self.model.features(images)
        return self.model.endpoints(images, [self.layer])[self.layer].mean((2, 3))


def extract(
    source: str | Path,
    paths: Sequence[Path],
    layer: str = POOL,
    batch_size: int = 32,
    processes: int = 1,
    trust: bool = False,
    stated: Stated = NOTHING_STATED,
) -> Tensor:
    """Return features, float32 (N, num_features), of image files, in their order.

    Args:
        source: Weights, see `open_classifier`.
        paths: Image files.
        layer: See `Features`.
        batch_size: Images per forward pass.
        processes: Processes that share the images; each opens the network.
        trust: Allow a block function of the user's own, see `load_model`.
        stated: Facts about the file.

    Raises:
        ZooError: The file or an image cannot be read, or the layer is unknown.
    """
    _opened(source, layer, trust, stated)  # mistakes are reported before a process starts
    job = source, layer, batch_size, trust, stated
    shares = [paths[start : start + SHARE] for start in range(0, len(paths), SHARE)]
    bar = console(stderr=True)

    def shown(found: Iterable[Tensor]) -> Tensor:
        if bar.is_terminal:
            found = track(found, total=len(shares), description="images", console=bar, transient=True)
        return torch.cat(list(found))

    if processes == 1:
        return shown(_extracted(*job, share) for share in shares)
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        return shown(pool.map(_extracted, *([each] * len(shares) for each in job), shares))


@cache
def _opened(source: str | Path, layer: str, trust: bool, stated: Stated) -> tuple[Features, int]:
    """Return the features of a file's network, fused, and the number of image channels."""
    classifier = open_classifier(source, trust, stated)
    if classifier.model is None:
        raise ZooError(f"{source} is an exported network, which gives logits only; give its checkpoint or weights")
    Features(classifier.model, layer)
    return Features(fuse(classifier.model), layer, classifier.preprocessing), classifier.channels


def _extracted(source: str | Path, layer: str, batch_size: int, trust: bool, stated: Stated, paths: Sequence[Path]) -> Tensor:
    features, channels = _opened(source, layer, trust, stated)
    assert features.preprocessing is not None
    known = features.preprocessing
    found = []
    with torch.inference_mode():
        for _, images in read_ahead(paths, lambda path: prepare(read_image(path, channels), known), batch_size):
            found.append(features(torch.stack(images).contiguous(memory_format=torch.channels_last)))
    return torch.cat(found).float()


def check_output(path: Path) -> None:
    """Raise ZooError unless `write` knows the format."""
    if path.suffix not in WRITERS:
        raise ZooError(f"--output {path}: the name must end in {', '.join(WRITERS)}")
    if path.suffix == ".parquet":
        check_installed("pyarrow", "parquet", f"--output {path}")


def write(path: Path, features: Tensor, files: Sequence[Path]) -> None:
    """Write features in the format of the suffix; `.parquet` and `.safetensors` also have the names of the files."""
    with whole_file(path) as temporary:
        WRITERS[path.suffix](temporary, features, [str(file) for file in files])


def _npy(path: Path, features: Tensor, files: Sequence[str]) -> None:
    import numpy as np

    np.save(path, features.numpy())


def _safetensors(path: Path, features: Tensor, files: Sequence[str]) -> None:
    import json

    from safetensors.torch import save_file

    save_file({"features": features}, path, {"files": json.dumps(files)})


def _parquet(path: Path, features: Tensor, files: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = pa.FixedSizeListArray.from_arrays(features.flatten().numpy(), features.shape[1])
    parquet.write_table(pa.table({"file": files, "features": rows}), path)


WRITERS = {".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet}
