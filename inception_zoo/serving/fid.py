"""FID, KID, Inception Score, precision and recall of images, for any network.

The formulas are those of torch-fidelity, in float64. Libraries differ in how they resize and scale images; see `LIKE`.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inception_zoo.architecture.card import model_arguments
from inception_zoo.architecture.preprocessing import NOTHING_STATED, Stated
from inception_zoo.errors import ZooError, check_installed, did_you_mean
from inception_zoo.network.inception import Inception
from inception_zoo.serving.classifier import open_classifier
from inception_zoo.serving.features import POOL, Features, extract_from, with_progress
from inception_zoo.serving.fid_images import LIKE, Pictures, Reader, own_reader, reader_like
from inception_zoo.serving.folding import fuse
from inception_zoo.serving.images import read_ahead
from inception_zoo.serving.statistics import Statistics
from inception_zoo.system.atomic_files import check_file
from inception_zoo.weights.layouts import V3_TWIN

log = logging.getLogger(__name__)
METRICS = "fid", "kid", "is", "precision", "recall"
NET, CLASSES = V3_TWIN.net, V3_TWIN.classes
PUBLISHED = "pt_inception-2015-12-05-6726825d.pth of github.com/mseitzer/pytorch-fid/releases/tag/fid_weights"


@dataclass(frozen=True)
class Subsets:
    """Subsets of KID: their number, and their size in images."""

    number: int = 100
    size: int = 1000


@dataclass(frozen=True)
class Scores:
    """Scores by metric, and what they depend on."""

    scores: Mapping[str, float]
    images: Sequence[int | None]  # number of images of each set; None: unknown, from a file of statistics
    net: str
    layer: str
    features: int
    like: str

    def lines(self) -> list[str]:
        """Return a line for each score, and one with what they depend on."""
        sizes = " against ".join("unknown" if count is None else f"{count:,}" for count in self.images)
        what = f"{sizes} images; {self.net}, layer {self.layer} ({self.features:,} features); {self.like}"
        return [*(f"{name:<9} {value:.6g}" for name, value in self.scores.items()), what]


def score(
    images: str | Path | Tensor,
    reference: str | Path | Tensor | None = None,
    *,
    weights: str | Path | None = None,
    like: str | None = None,
    layer: str = POOL,
    metrics: Sequence[str] | None = None,
    output: Path | None = None,
    subsets: Subsets | None = None,
    seed: int | None = None,
    batch_size: int = 32,
    trust: bool = False,
    stated: Stated = NOTHING_STATED,
) -> Scores:
    """Compute scores of images, such as generated ones.

    Args:
        images: A folder of images, their statistics (`.npz` with `mu` and `sigma`, as pytorch-fid writes them), a data set of
            this package in overrides (``data=fashion_mnist split=test``), or uint8 (N, C, H, W).
        reference: The images to compare with, in the same forms.
        weights: FID's published file, or a network of one's own, see `open_classifier`.
        like: `pytorch-fid` (default), `torch-fidelity` or `clean-fid`: how images are resized and scaled for FID's network.
            Other networks use their own preprocessing.
        layer: `pool`, or an endpoint, whose feature maps are averaged over the grid.
        metrics: Any of `fid`, `kid`, `is`, `precision` and `recall`. `is` scores `images` alone. Default: `fid` if there is a
            reference.
        output: File to write: the statistics of `images`, as `.npz`.
        subsets: Number and size of KID's subsets; None: 100 subsets of 1,000 images, as in torch-fidelity.
        seed: Seed of KID's subsets, and of the order of the images for the Inception Score; None: 2020, as in torch-fidelity.
        batch_size: Images per forward pass.
        trust: Allow a block function of the user's own, see `load_model`.
        stated: Facts about the file of weights.

    Returns:
        The scores and what they depend on.

    Raises:
        ZooError: Options do not fit, there are too few images, or a file cannot be read.
    """
    metrics = metrics or (() if reference is None else ("fid",))
    _check(images, reference, weights, like, layer, metrics, output)
    _check_use(subsets, seed, metrics, batch_size)
    subsets, seed = subsets or Subsets(), 2020 if seed is None else seed
    assert weights is not None
    model, features, reader = _opened(weights, layer, like, metrics, trust, stated)
    about = {"net": model.plan.net.name, "layer": layer, "like": reader.name, "weights": _digest(model)}
    about |= {"preprocessing": json.dumps(reader.preprocessing.plain())} if reader.preprocessing else {}
    sets: list[Pictures | Statistics] = []  # all are opened before the slow part
    for source in (images, reference):
        if source is not None and _is_statistics(source):
            sets.append(Statistics.read(Path(str(source)), features.num_features, about))
        elif source is not None:
            sets.append(reader.pictures(source))
    _check_counts(sets, metrics, subsets, features.num_features, output)
    found: list[np.ndarray | Statistics] = []
    for each in sets:
        found.append(each if isinstance(each, Statistics) else _extracted(features, each, batch_size))
        if output and len(found) == 1:  # an error in the second set must not lose the first
            _statistics(found[0]).write(output, about)
    counts = [each.images if isinstance(each, Statistics) else len(each) for each in found]
    scores = _scores(found, model, metrics, subsets, seed)
    return Scores(scores, counts, model.plan.net.name, layer, features.num_features, reader.name)


def _check(
    images: object,
    reference: object,
    weights: object,
    like: str | None,
    layer: str,
    metrics: Sequence[str],
    output: Path | None,
) -> None:
    """Raise ZooError if options do not fit, before anything is read."""
    for name in metrics:
        if name not in METRICS:
            raise ZooError(f"metric {name} is unknown; {did_you_mean(name, METRICS)}")
    if like is not None and like not in LIKE:
        raise ZooError(f"like={like} is unknown; {did_you_mean(like, LIKE)}")
    if weights is None:
        raise ZooError(f"no weights are given; give the file of FID's network, {PUBLISHED}, or a network of your own")
    pairwise = [name for name in metrics if name != "is"]
    if reference is not None and not pairwise:
        raise ZooError("is: the Inception Score is that of the first set alone; leave the second one out")
    if reference is None and (pairwise or not (metrics or output)):
        raise ZooError(
            f"{', '.join(pairwise) or 'fid'} needs a second set of images; or name a file for the statistics of the first"
        )
    if "is" in metrics and layer != POOL:
        raise ZooError(f"is: the Inception Score is that of the classifier; leave layer={layer} out")
    others = {name for name in metrics if name != "fid"}
    for source, not_enough in ((images, others), (reference, others - {"is"})):
        if _is_statistics(source) and not_enough:
            raise ZooError(
                f"{source} has statistics, which are enough for fid only; for {', '.join(sorted(not_enough))} give images"
            )
    if output is not None:
        if output.suffix != ".npz":
            raise ZooError(f"{output}: the name of a file of statistics must end in .npz")
        if _is_statistics(images):
            raise ZooError(f"{output}: {images} already has statistics; give images")
        check_file(str(output), output)
    check_installed("torch_fidelity", "fid", "fid")


def _check_use(subsets: Subsets | None, seed: int | None, metrics: Sequence[str], batch_size: int) -> None:
    """Raise ZooError if options have no effect, or are out of range."""
    if subsets is not None and "kid" not in metrics:
        raise ZooError("subsets are those of kid, which is not among the metrics; leave them out")
    if seed is not None and not {"kid", "is"} & set(metrics):
        raise ZooError("the seed is that of kid and is, which are not among the metrics; leave it out")
    if subsets is not None and (subsets.number < 1 or subsets.size < 2):
        raise ZooError(f"kid needs at least 1 subset of 2 images, not {subsets.number} of {subsets.size}")
    if batch_size < 1:
        raise ZooError(f"batch_size={batch_size} must be at least 1")


def _is_statistics(source: object) -> bool:
    return isinstance(source, str | Path) and str(source).endswith(".npz")


def _opened(
    weights: str | Path, layer: str, like: str | None, metrics: Sequence[str], trust: bool, stated: Stated
) -> tuple[Inception, Features, Reader]:
    """Return the network of the weights, the module of its features, and how it reads images."""
    classifier = open_classifier(weights, trust, stated)
    model, known = classifier.network(), classifier.preprocessing
    name = model.plan.net.name
    if name == NET and model.plan.in_channels != 3:
        raise ZooError(f"{weights} is {NET} for {model.plan.in_channels} image channels; FID's network reads 3")
    if "is" in metrics and (name != NET or model.plan.num_classes != CLASSES):
        raise ZooError(
            f"is: the Inception Score is defined with FID's network and its classifier; {weights} is not that ({name})"
        )
    if name == NET and stated.preprocesses:
        raise ZooError(f"{NET} reads images like {like or next(iter(LIKE))}; leave --mean, --std and --image-size out")
    if name != NET and like is not None:
        raise ZooError(f"like={like} is for FID's network; {weights} is {name}, with its own preprocessing: leave it out")
    reader = reader_like(like or next(iter(LIKE))) if name == NET else own_reader(model.plan.in_channels, known)
    return model, Features(fuse(model), layer, known), reader  # which raises ZooError for an unknown layer


def _check_counts(
    sets: Sequence[Pictures | Statistics], metrics: Sequence[str], subsets: Subsets, features: int, output: Path | None
) -> None:
    """Raise ZooError if there are too few images for a metric, and warn if FID's bias is large."""
    least = {"fid": 2, "kid": subsets.size, "is": 10, "precision": 4, "recall": 4}
    for name in metrics or (["fid"] if output else []):
        for count in [len(each) for each in sets if isinstance(each, Pictures)]:
            if count < least[name]:
                fix = "; give fewer images per subset" if name == "kid" else ""
                raise ZooError(f"{name} needs at least {least[name]:,} images, not {count:,}{fix}")
    counts = [each.images if isinstance(each, Statistics) else len(each) for each in sets]
    fewest = min((count for count in counts if count is not None), default=features + 1)
    if "fid" in metrics and fewest <= features:
        log.warning("FID of %s images has a large bias; compare it only with FIDs of as many images", f"{fewest:,}")


def _extracted(features: Features, pictures: Pictures, batch_size: int) -> np.ndarray:
    """Return features, float64 (N, D)."""
    batches = read_ahead(range(len(pictures)), pictures.read, batch_size)
    return np.concatenate(list(with_progress(extract_from(features, batches), len(pictures)))).astype(np.float64)


def _scores(
    found: Sequence[np.ndarray | Statistics], model: Inception, metrics: Sequence[str], subsets: Subsets, seed: int
) -> dict[str, float]:
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    scores: dict[str, float] = {}
    features = [torch.from_numpy(each) for each in found if not isinstance(each, Statistics)]
    if "fid" in metrics:
        both = [{"mu": each.mean, "sigma": each.covariance} for each in map(_statistics, found)]
        scores["fid"] = fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]
    if "kid" in metrics:
        sizes = {"kid_subsets": subsets.number, "kid_subset_size": subsets.size}
        scores["kid"] = kid_features_to_metric(*features, **sizes, rng_seed=seed, verbose=False)[
            "kernel_inception_distance_mean"
        ]
    if "is" in metrics:  # logits without bias, as in the original code
        logits = features[0] @ model.get_parameter("fc.weight").detach().double().T
        scores["is"] = isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=seed)["inception_score_mean"]
    if {"precision", "recall"} & set(metrics):
        options = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": True}
        scores |= prc_features_to_metric(*features, **options, verbose=False)
    return {name: scores[name] for name in metrics}


def _statistics(found: np.ndarray | Statistics) -> Statistics:
    return found if isinstance(found, Statistics) else Statistics.of(found)


def _digest(model: Inception) -> str:
    """Return the first digits of the SHA-256 of a network's arguments and tensors, for any layout of its file."""
    digest = hashlib.sha256(json.dumps(model_arguments(model.plan), sort_keys=True).encode())
    for value in model.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
