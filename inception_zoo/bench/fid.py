"""Speed of FID's features, from images of uint8, beside pytorch-fid and torch-fidelity."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inception_zoo.bench.options import Options
from inception_zoo.bench.parity import without_weights
from inception_zoo.bench.turns import Contest, Measured, contested
from inception_zoo.data.fashion_mnist import fashion_mnist
from inception_zoo.errors import check_installed
from inception_zoo.models import create_model
from inception_zoo.serving.features import Features, extract_from
from inception_zoo.serving.fid_images import reader_like
from inception_zoo.serving.folding import fuse
from inception_zoo.serving.images import read_ahead

IMAGES, BATCH = 96, 32


def measure(options: Options) -> Measured:
    """Measure ``fid/LIBRARY/CONTENDER`` in images/s: ours in the mode of each library, with its resize, beside it."""
    for package in ("pytorch_fid", "torch_fidelity"):
        check_installed(package, "dev", "bench fid")
    images = fashion_mnist(str(options.fashion_mnist())).test.images[:IMAGES].expand(-1, 3, -1, -1).contiguous()  # type: ignore
    for library, contest in _contests(images).items():
        yield from contested(f"fid/{library}", contest, options.rounds)


def _contests(images: Tensor) -> dict[str, Contest]:
    from pytorch_fid import inception
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    with without_weights(inception):
        one = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    with without_weights(fidelity):
        two = fidelity.FeatureExtractorInceptionV3("", ["2048"])
    features = Features(fuse(create_model("inception_v3_fid", 1008).eval()))
    theirs = {
        "pytorch-fid": _batched(images, lambda batch: one(batch / 255)[0]),
        "torch-fidelity": _batched(images, lambda batch: two(batch)[0]),
    }
    return {library: {"inception_zoo": _ours(images, features, library), library: each} for library, each in theirs.items()}


def _batched(images: Tensor, network: Callable[[Tensor], Any]) -> Callable[[], float]:
    def turn() -> float:
        with torch.inference_mode():
            return float(sum(len(network(batch)) for batch in images.split(BATCH)))

    return turn


def _ours(images: Tensor, features: Features, library: str) -> Callable[[], float]:
    pictures = reader_like(library).pictures(images)

    def turn() -> float:
        return float(sum(map(len, extract_from(features, read_ahead(range(len(pictures)), pictures.read, BATCH)))))

    return turn
