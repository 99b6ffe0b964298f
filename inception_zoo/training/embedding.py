"""Training of embeddings with a metric-learning loss, and the evaluation of embeddings."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from inception_zoo.data.source import Batch
from inception_zoo.errors import ZooError
from inception_zoo.training.checkpoints import check_classes
from inception_zoo.training.metrics import WeightedMean
from inception_zoo.training.module import Classifier

CLASSES = "data_classes"  # key in checkpoints
NEIGHBOURS = (1, 5)  # k of recall@k
PAIRS, FOLDS = 6000, 10  # of the verification, as in Labeled Faces in the Wild
ROWS = 1024  # queries whose similarities are in memory together


class Embeddings(Metric):
    """Embeddings of a split, compared with each other: recall@k and accuracy of verification.

    The results do not depend on the order of the images or on the number of processes.
    """

    full_state_update = False
    tables = scores = None  # see `Evaluation`
    images: list[Tensor]
    labels: list[Tensor]
    embeddings: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("images", "labels", "embeddings"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, labels: Tensor, images: Tensor, first: int) -> None:
        """Add a batch.

        Args:
            embeddings: (N, D), or (N, V, D) for V views per image, which are averaged.
            labels: (N,), int64.
            images: Not used.
            first: Number of the first image in the split.
        """
        mean = embeddings.float() if embeddings.dim() == 2 else embeddings.float().mean(1)
        self.embeddings.append(F.normalize(mean))
        self.labels.append(labels)
        self.images.append(torch.arange(first, first + len(labels), device=labels.device))

    def compute(self) -> dict[str, float]:
        order = dim_zero_cat(self.images).argsort()
        embeddings, labels = dim_zero_cat(self.embeddings)[order], dim_zero_cat(self.labels)[order]
        return {**recall(embeddings, labels), "verification": verification(embeddings, labels)}


def recall(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Return `recall1` and `recall5`: the share of the images with an image of their label among the k most similar others.

    An image whose label no other image has is not a query, but it is among the others.

    Args:
        embeddings: (N, D), of length 1.
        labels: (N,), int64.
    """
    counts = labels.bincount()[labels]
    queries = (counts > 1).nonzero()[:, 0]
    found = []
    for rows in queries.split(ROWS):
        similarity = embeddings[rows] @ embeddings.T
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        nearest = similarity.topk(min(max(NEIGHBOURS), len(labels) - 1)).indices
        found.append(labels[nearest] == labels[rows, None])
    hits = torch.cat(found) if found else torch.zeros(0, 1, dtype=torch.bool)
    return {f"recall{k}": hits[:, :k].any(1).cpu().double().mean().item() for k in NEIGHBOURS}


def verification(embeddings: Tensor, labels: Tensor) -> float:
    """Return the share of pairs of images that a threshold of their similarity assigns correctly to "same label" or "other".

    There are 3,000 pairs of either kind, the same ones for the same labels. Each tenth of them is tested with the threshold
    that is best for the other nine, as in Labeled Faces in the Wild.

    Args:
        embeddings: (N, D), of length 1.
        labels: (N,), int64.

    Returns:
        A number from 0 to 1; NaN if all labels are different, or all are equal.
    """
    first, second = draw_pairs(labels.cpu().numpy())
    if not len(first):
        return float("nan")
    left, right = torch.from_numpy(first).to(labels.device), torch.from_numpy(second).to(labels.device)
    same = (labels[left] == labels[right]).cpu().numpy()
    similarity = (embeddings[left] * embeddings[right]).sum(1).cpu().double().numpy()
    fold = np.arange(len(same)) // 2 % FOLDS  # pairs of the two kinds alternate
    hits = np.empty(len(same))
    for each in range(FOLDS):
        tested = fold == each
        hits[tested] = (similarity[tested] >= best_threshold(similarity[~tested], same[~tested])) == same[tested]
    return float(hits.mean())


def draw_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the images of `PAIRS` pairs, alternately of one label and of two; empty if there are none."""
    draw, order = np.random.default_rng(0), labels.argsort(kind="stable")
    _, starts, inverse, counts = np.unique(labels[order], True, True, True)
    alone = counts[inverse] == 1
    if alone.all() or len(counts) < 2:
        return np.empty(0, int), np.empty(0, int)
    anchors = draw.choice(np.flatnonzero(~alone), PAIRS // 2)
    start, count = starts[inverse[anchors]], counts[inverse[anchors]]
    partners = start + (anchors - start + draw.integers(1, count)) % count
    others = draw.integers(0, len(labels), PAIRS // 2)
    start, count = starts[inverse[others]], counts[inverse[others]]
    opposites = (start + count + draw.integers(0, len(labels) - count)) % len(labels)  # behind the class, around the end
    pairs = np.stack([np.stack([anchors, partners]), np.stack([others, opposites])], 2).reshape(2, PAIRS)
    return order[pairs[0]], order[pairs[1]]


def best_threshold(similarity: np.ndarray, same: np.ndarray) -> float:
    """Return the threshold that assigns most pairs correctly: those with at least this similarity are "same"."""
    order = similarity.argsort(kind="stable")
    lost = np.cumsum(same[order]) - same[order]  # pairs of one label below the pair
    kept = np.cumsum(~same[order]) - ~same[order]  # pairs of two labels below it
    return float(similarity[order[np.argmax(kept - lost)]])


class Embedder(Classifier):
    """LightningModule that trains a network without classifier by a metric-learning loss.

    A loss that has weights of its own, such as one centre for each class, trains them with the network's, and checkpoints
    have them. With several processes, a loss that compares images sees the batch of one process.

    Args:
        loss: Module that maps embeddings (N, D) and labels (N,) to a scalar; None: for a test.
        model: The network, with ``num_classes=0``.
        *args: See `Classifier`.
        **options: See `Classifier`.
    """

    def __init__(self, loss: nn.Module | None, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.loss = loss
        self.train_metrics = nn.ModuleDict({"loss": WeightedMean()})

    def evaluation(self, tables: bool, more: Mapping[str, Metric] | None) -> Any:
        return Embeddings()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels = batch
        assert self.loss is not None
        embeddings = self.model(images)
        with torch.autocast(embeddings.device.type, enabled=False):  # the library would convert its weights to bfloat16
            loss = self.loss(embeddings.float(), labels)
        self.train_metrics["loss"].update(loss.detach(), weight=len(labels))
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        self._evaluate(self.val, batch, self.trainer.val_dataloaders.batch_sampler.starts[index])  # type: ignore[union-attr]

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", self.val)

    def on_test_epoch_end(self) -> None:
        self._log_scores(self.test_name, self.test)

    def _log_scores(self, phase: str, embeddings: Embeddings) -> None:
        scores = embeddings.compute()
        embeddings.reset()
        if math.isnan(scores["recall1"]) and not self.trainer.sanity_checking:
            raise ZooError(f"no label has two images among those of {phase}, so nothing can be found; use more images")
        for key, value in scores.items():
            self.log(f"{phase}/{key}", value, prog_bar=(phase, key) == ("val", "recall1"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[CLASSES] = self.trainer.datamodule.classes  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a resumed loss sees the classes that its centres belong to."""
        super().on_load_checkpoint(checkpoint)
        check_classes("the checkpoint", checkpoint.get(CLASSES), self.trainer.datamodule.classes)  # type: ignore[attr-defined]
