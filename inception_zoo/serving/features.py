"""Features of images: as a module for metrics and other tools, and of many files at once."""

import json
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from safetensors.numpy import save_file
from torch import Tensor, nn

from inception_zoo.architecture.choices import ALIKE
from inception_zoo.architecture.preprocessing import NOTHING_STATED, Preprocessing, Stated
from inception_zoo.data.pixels import centre, normalize, prepare
from inception_zoo.data.reading import read_image
from inception_zoo.errors import ZooError, check_installed, did_you_mean, printable
from inception_zoo.network.inception import Inception
from inception_zoo.serving.classifier import open_classifier
from inception_zoo.serving.folding import fuse
from inception_zoo.serving.images import read_ahead
from inception_zoo.serving.pool import in_processes
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.terminal import console

FORMATS = ".npy", ".safetensors", ".parquet"
POOL, EMBEDDING = "pool", "embedding"  # layers behind the last endpoint


class Features(nn.Module):
    """Features of images as a module: (N, C, H, W) → (N, num_features).

    Metrics such as torchmetrics' `FrechetInceptionDistance(feature=…)` call the module that they are given; a classifier would
    give them its logits. The module has its own copy of the network, which always stays in evaluation mode: metrics move and
    convert it.

    Args:
        model: The network; not changed.
        layer: `pool`: the pooled features; `embedding`: the embedding, of length 1; or an endpoint, whose feature maps are
            averaged over the grid.
        preprocessing: Applied to images of uint8; None: the network's own.

    Raises:
        ZooError: The network does not have `layer`.
    """

    def __init__(self, model: Inception, layer: str = POOL, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.num_features = channels_of(model, layer)
        self.model, self.layer = deepcopy(model).eval(), layer
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
        if self.layer == EMBEDDING:
            return self.model.embed(images)
        return self.model.endpoints(images, [self.layer])[self.layer].mean((2, 3))


def channels_of(model: Inception, layer: str) -> int:
    """Return the number of features of a layer.

    Raises:
        ZooError: The network does not have the layer.
    """
    embedding = {EMBEDDING: model.plan.embedding} if model.plan.embedding else {}
    channels = {POOL: model.num_features, **embedding, **{block.name: block.c_out for block in model.plan.blocks}}
    if layer not in channels:
        raise ZooError(f"{model.plan.net.name}: layer {layer} is unknown; {did_you_mean(layer, channels, ALIKE)}")
    return channels[layer]


def extract(
    source: str | Path,
    paths: Sequence[Path],
    layer: str = POOL,
    batch_size: int = 32,
    processes: int = 1,
    trust: bool = False,
    stated: Stated = NOTHING_STATED,
) -> np.ndarray:
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
        ZooError: The file or an image cannot be read, the layer is unknown, or a process was killed.
    """
    open_network = partial(_opened, source, layer, trust, stated)
    features = open_network()
    found = in_processes(paths, processes, features, open_network, partial(_extracted, batch_size))
    return np.concatenate([np.empty((0, features.num_features), np.float32), *with_progress(found, len(paths))])


def _opened(source: str | Path, layer: str, trust: bool, stated: Stated) -> Features:
    classifier = open_classifier(source, trust, stated)
    model = classifier.network()
    channels_of(model, layer)  # before the slow part
    return Features(fuse(model), layer, classifier.preprocessing)


def _extracted(batch_size: int, features: Features, paths: Sequence[Path]) -> np.ndarray:
    channels, known = features.model.plan.in_channels, features.preprocessing
    assert known is not None
    batches = read_ahead(paths, lambda path: prepare(read_image(path, channels), known), batch_size)
    return np.concatenate(list(extract_from(features, batches)))


def extract_from(features: Features, batches: Iterable[tuple[object, list[Tensor]]]) -> Iterator[np.ndarray]:
    """Yield the features, float32 (N, num_features), of each batch of `read_ahead`, whose images are the network's input."""
    with torch.inference_mode():
        for _, images in batches:
            yield features(torch.stack(images).contiguous(memory_format=torch.channels_last)).float().numpy()


def with_progress(found: Iterable[np.ndarray], total: int) -> Iterator[np.ndarray]:
    """Yield arrays, with a progress bar of their rows on a terminal."""
    bar = console(stderr=True)
    with Progress(console=bar, transient=True, disable=not bar.is_terminal) as progress:
        task = progress.add_task("images", total=total)
        for each in found:
            progress.advance(task, len(each))
            yield each


def check_output(path: Path) -> None:
    """Raise ZooError unless `write` knows the format."""
    if path.suffix not in FORMATS:
        raise ZooError(f"--output {path}: the name must end in {', '.join(FORMATS)}")
    if path.suffix == ".parquet":
        check_installed("pyarrow", "parquet", f"--output {path}")


def write(path: Path, features: np.ndarray, files: Sequence[Path]) -> None:
    """Write features in the format of the suffix; `.parquet` and `.safetensors` also have the names of the files."""
    names = [printable(str(file)) for file in files]
    with whole_file(path) as temporary:
        if path.suffix == ".npy":
            np.save(temporary, features)
        elif path.suffix == ".safetensors":
            save_file({"features": features}, temporary, {"files": json.dumps(names)})
        else:
            import pyarrow as pa
            from pyarrow import parquet

            rows = pa.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
            parquet.write_table(pa.table({"file": names, "features": rows}), temporary)
