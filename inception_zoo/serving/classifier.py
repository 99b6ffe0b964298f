"""Networks to predict with, opened from our checkpoints and weights, other libraries' weights, or ONNX."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.decision import Decision
from inception_zoo.architecture.preprocessing import NOTHING_STATED, Preprocessing, Stated
from inception_zoo.errors import ZooError, check_installed
from inception_zoo.models import load_model
from inception_zoo.network.inception import Inception
from inception_zoo.runs.results import SWEEP
from inception_zoo.runs.sweeps import jobs_of
from inception_zoo.serving.export import open_onnx, run_onnx
from inception_zoo.serving.folding import fuse
from inception_zoo.system.regular_files import check_regular
from inception_zoo.system.terminal import tell
from inception_zoo.weights.files import METADATA
from inception_zoo.weights.loading import normalizes_again


@dataclass(frozen=True)
class Classifier:
    """A network with its preprocessing and classes."""

    path: Path
    logits: Callable[[Tensor], Tensor]  # (N, C, S, S), normalized → (N, classes)
    classes: list[str]  # names by label; the label numbers if no names are known
    channels: int
    preprocessing: Preprocessing
    model: Inception | None  # None for ONNX
    decision: Decision = field(default_factory=Decision)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the calibrated probabilities (N, classes), float32, of normalized images (N, C, S, S)."""
        scaled = self.logits(images).float() / self.decision.temperature
        return scaled.sigmoid() if self.decision.several else scaled.softmax(1)

    def network(self) -> Inception:
        """Return the network, for its feature maps.

        Raises:
            ZooError: the file is ONNX.
        """
        if self.model is None:
            raise ZooError(f"{self.path} is an exported network, which gives logits only; give its checkpoint or weights")
        return self.model


@dataclass(frozen=True)
class Ensemble(Classifier):
    """Networks whose probabilities are averaged."""

    members: Sequence[Classifier] = ()

    def probabilities(self, images: Tensor) -> Tensor:
        return torch.stack([member.probabilities(images) for member in self.members]).mean(0)


def open_ensemble(paths: Sequence[Path], trust: bool = False, stated: Stated = NOTHING_STATED) -> Classifier:
    """Open several networks as one classifier, without thresholds, because each was chosen for one network's probabilities.

    Args:
        paths: files or run folders; with one of them, the result is that of `open_classifier`.
        trust: see `open_classifier`.
        stated: see `open_classifier`.

    Raises:
        ZooError: see `open_classifier`; or the networks differ in classes, kind of labels, channels or preprocessing.
    """
    members = [open_classifier(path, trust, stated) for path in paths]
    first = members[0]
    if len(members) == 1:
        return first
    for member in members[1:]:
        pairs = {key: (getattr(first, key), getattr(member, key)) for key in ("classes", "channels", "preprocessing")}
        pairs["labels"] = first.decision.several, member.decision.several
        if differs := next((key for key, (ours, theirs) in pairs.items() if ours != theirs), None):
            raise ZooError(f"{member.path} cannot be averaged with {first.path}: their {differs} differ; leave it out")
    if thresholds := [member.path for member in members if member.decision.thresholds]:
        tell(f"the thresholds of {thresholds[0]} are not used: they were chosen for the probabilities of one network")
    decision = Decision(first.decision.several)
    return Ensemble(first.path, first.logits, first.classes, first.channels, first.preprocessing, None, decision, members)


def networks_in(path: str | Path) -> list[Path]:
    """Return the run folders of the finished jobs of a sweep; for another path, this path.

    Raises:
        ZooError: no job of the sweep has finished.
    """
    folder = Path(path)
    if not (folder / SWEEP).is_file():
        return [folder]
    if not (found := [folder / job["job"] for job in jobs_of(folder) if job["state"] == "finished"]):
        raise ZooError(f"{path}: no job of this sweep has finished; give a run folder")
    return found


def open_classifier(path: str | Path, trust: bool = False, stated: Stated = NOTHING_STATED) -> Classifier:
    """Open a checkpoint, run folder, `.safetensors`, another library's weights, or `.onnx`.

    Args:
        path: the file or run folder.
        trust: allow a block function of the user's own, see `load_model`.
        stated: facts about the file; those on preprocessing override the file's own.

    Raises:
        ZooError: the file cannot be read, its preprocessing is unknown, or `stated` does not fit the network.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        card, logits, fixed = _open_onnx(path)
        model, size, decision = None, fixed or 0, card.decision
        classes, channels, known = card.classes, card.model["in_channels"], card.preprocessing
        labels = card.model["num_classes"]
        if (stated.ema, stated.transform_input) != (None, None):
            raise ZooError(f"{path} is an exported network; leave --ema and --transform-input out")
        if fixed and stated.image_size not in (None, fixed):
            raise ZooError(f"{path} takes images of {fixed} pixels only, not {stated.image_size}; leave --image-size out")
    else:
        model = load_model(path, None, trust, stated.ema, stated.transform_input)
        logits, classes, channels, known = _evaluated(model), model.classes, model.plan.in_channels, model.preprocessing
        labels, size, decision = model.plan.num_classes, model.plan.net.image_size, model.decision
    known = stated.over(known, size, path, model is not None and normalizes_again(model, path))
    if model:
        model.plan.shapes(known.image_size)  # raises ZooError with the name of the endpoint if the images are too small
    if len(known.mean) != channels:
        raise ZooError(f"{path} reads {channels} channels, but the mean {list(known.mean)} has {len(known.mean)} values")
    names = list(classes) if classes else [str(label) for label in range(labels)]
    return Classifier(path, logits, names, channels, known, model, decision)


def _evaluated(model: Inception) -> Callable[[Tensor], Tensor]:
    fused = cache(lambda: fuse(model))  # at the first call: some commands open a file without predicting

    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return fused()(images.contiguous(memory_format=torch.channels_last))

    return logits


def _open_onnx(path: Path) -> tuple[Card, Callable[[Tensor], Tensor], int | None]:
    """Return the card, the logits function, and the image side in pixels; None for the side if it is not fixed."""
    if not path.exists():
        raise ZooError(f"{path} does not exist")
    check_regular(path)
    check_installed("onnxruntime", "export", str(path))
    try:
        session = open_onnx(path)
    except Exception as error:  # onnxruntime raises its own exception types
        raise ZooError(f"{path} is not a readable ONNX file ({type(error).__name__})") from None
    metadata: dict[str, Any] = session.get_modelmeta().custom_metadata_map
    if METADATA not in metadata:
        raise ZooError(f"{path} has no record of classes and preprocessing; create it with `inception-zoo export`")
    try:
        card = Card.of(json.loads(metadata[METADATA]))
    except json.JSONDecodeError:
        raise ZooError(f"{path}: its card (the description of its network) is corrupt; export it again") from None
    side = session.get_inputs()[0].shape[-1]
    return card, lambda images: run_onnx(session, images), side if isinstance(side, int) else None
