"""Predictions for many images, read ahead and in batches; unreadable images are reported and skipped."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from rich import box
from rich.progress import track
from rich.table import Table
from torch import Tensor

from inception_zoo.architecture.decision import Decision
from inception_zoo.data.crops import views
from inception_zoo.data.pixels import normalize, prepare
from inception_zoo.data.reading import read_image
from inception_zoo.errors import ZooError, did_you_mean, printable
from inception_zoo.serving.classifier import Classifier
from inception_zoo.serving.images import read_ahead
from inception_zoo.serving.pool import in_processes
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.csv_files import write_rows
from inception_zoo.system.terminal import console, data_output, tell


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image, or the reason why it could not be read."""

    path: Path
    probabilities: Tensor | None = None  # (classes,)
    error: str | None = None
    decision: Decision = field(default_factory=Decision)
    group: str | None = None  # such as the patient, from a table of images

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return the `count` best labels with their probabilities, in descending order.

        The best label is the most probable one, or with thresholds the one with the largest ratio to its threshold.
        """
        assert self.probabilities is not None
        values, thresholds = self.probabilities, self.decision.thresholds
        if thresholds and not self.decision.several:
            values = values.double() / torch.tensor(thresholds, dtype=torch.float64)
        # Among equal values, which int8 often gives, a stable sort puts the smallest label first, as argmax does.
        labels = values.sort(descending=True, stable=True).indices[:count]
        return list(zip(labels.tolist(), self.probabilities[labels].tolist(), strict=True))

    def abstains(self, below: float) -> bool:
        """Return True if the best label has a lower probability than `below`."""
        ((_, probability),) = self.top(1)
        return probability < below

    def labels(self) -> list[int]:
        """Return the labels whose probabilities reach their thresholds, for images with several labels."""
        assert self.probabilities is not None
        thresholds = torch.tensor(self.decision.thresholds or 0.5, dtype=torch.float64)
        return (self.probabilities.double() >= thresholds).nonzero().flatten().tolist()


def predict(
    classifier: Classifier, paths: Sequence[Path], batch_size: int = 32, crops: int = 1, flip: bool = False
) -> Iterator[Prediction]:
    """Yield a prediction for each image, in the order of `paths`.

    Args:
        classifier: the network.
        paths: image files.
        batch_size: views per forward pass.
        crops: views per image whose probabilities are averaged, see `crops.views`.
        flip: also average over the mirror images, see `crops.views`.
    """
    for chunk, read in read_ahead(paths, lambda path: _views(classifier, path, crops, flip), max(1, batch_size // crops)):
        sizes = [len(seen) for seen in read if isinstance(seen, Tensor)]
        found: Iterator[Tensor] = iter(())
        if sizes:
            stack = torch.cat([seen for seen in read if isinstance(seen, Tensor)])
            probabilities = torch.cat([classifier.probabilities(part) for part in stack.split(batch_size)])
            found = iter(torch.stack([seen.mean(0) for seen in probabilities.split(sizes)]))
        for path, seen in zip(chunk, read, strict=True):
            known = isinstance(seen, Tensor)
            yield Prediction(path, next(found), None, classifier.decision) if known else Prediction(path, error=str(seen))


def _views(classifier: Classifier, path: Path, crops: int, flip: bool) -> Tensor | str:
    try:
        image = read_image(path, classifier.channels)
        return normalize(views(image, classifier.preprocessing, crops, flip), classifier.preprocessing)
    except ZooError as error:
        return str(error)


def predict_in_processes(
    classifier: Classifier,
    paths: Sequence[Path],
    processes: int,
    opened: Callable[[], Classifier],
    batch_size: int = 32,
    crops: int = 1,
    flip: bool = False,
) -> Iterator[Prediction]:
    """Yield what `predict` yields, from several processes.

    Args:
        classifier: the network, as this process has opened it.
        paths: image files.
        processes: processes that share the images; 1: this process.
        opened: opens the network in another process.
        batch_size: see `predict`.
        crops: see `predict`.
        flip: see `predict`.
    """
    if processes == 1:
        yield from predict(classifier, paths, batch_size, crops, flip)
        return
    shares = in_processes(paths, processes, classifier, opened, partial(_share, batch_size, crops, flip))
    for path, found in zip(paths, chain.from_iterable(shares), strict=True):
        is_known = isinstance(found, np.ndarray)
        yield Prediction(path, torch.from_numpy(found) if is_known else None, None if is_known else found, classifier.decision)


def _share(batch_size: int, crops: int, flip: bool, classifier: Classifier, paths: Sequence[Path]) -> list[Any]:
    """Return the probabilities of each image as an array, or the reason why it could not be read."""
    found = predict(classifier, paths, batch_size, crops, flip)
    return [each.error if each.probabilities is None else each.probabilities.numpy() for each in found]


Predictions = Iterator[Prediction]


def write_csv(
    predictions: Predictions,
    classifier: Classifier,
    top: int,
    file: IO[str],
    abstain_below: float | None = None,
    grouped: bool = False,
) -> None:
    """Write the `top` classes of each image as a CSV row; with several labels, first those that the image has."""
    classes = classifier.classes
    top = min(top, len(classes))
    more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("class", "label", "probability")]
    first = ["labels"] if classifier.decision.several else [] if abstain_below is None else ["abstain"]

    def cells(prediction: Prediction) -> list[Any]:
        names: list[Any] = ["; ".join(classes[label] for label in prediction.labels())] if classifier.decision.several else []
        names += [] if abstain_below is None else [int(prediction.abstains(abstain_below))]
        return [*names, *(cell for label, p in prediction.top(top) for cell in (classes[label], label, f"{p:.6f}"))]

    header = ["file", *(["group"] if grouped else []), *first, "class", "label", "probability", *more]
    rows = ([each.path, *([each.group or ""] if grouped else []), *cells(each)] for each in predictions)
    write_rows(file, header, rows, lineterminator="\n")


def write_jsonl(
    predictions: Predictions,
    classifier: Classifier,
    top: int,
    file: IO[str],
    abstain_below: float | None = None,
    grouped: bool = False,
) -> None:
    """Write the `top` classes of each image as a line of JSON; with several labels, also those that the image has."""
    classes = classifier.classes
    for prediction in predictions:
        ranked = [{"class": classes[label], "label": label, "probability": round(p, 6)} for label, p in prediction.top(top)]
        names: dict[str, Any] = {"group": prediction.group} if grouped else {}
        names |= {} if abstain_below is None else {"abstain": prediction.abstains(abstain_below)}
        if classifier.decision.several:
            names["labels"] = [classes[label] for label in prediction.labels()]
        file.write(json.dumps({"file": str(prediction.path), **names, **ranked[0], "top": ranked}) + "\n")


def write_table(
    predictions: Predictions,
    classifier: Classifier,
    top: int,
    file: IO[str],
    abstain_below: float | None = None,
    grouped: bool = False,
) -> None:
    """Write the `top` classes of each image as a table for the terminal; with several labels, those of the image first."""
    classes, several = classifier.classes, classifier.decision.several
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    if grouped:
        table.add_column("group", overflow="fold")
    table.add_column("labels" if several else "class", no_wrap=not several, overflow="fold")
    if not several:
        table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("probabilities" if several else "runners-up", overflow="fold")
    for prediction in predictions:
        ranked = prediction.top(top)
        listed = [f"{classes[other]} {p:.3f}" for other, p in ranked]
        which = [str(prediction.path), *([prediction.group or ""] if grouped else [])]
        if several:
            names = ", ".join(classes[label] for label in prediction.labels()) or "–"
            table.add_row(*which, names, ", ".join(listed))
        else:
            (label, probability), *_ = ranked
            name = f"{classes[label]}?" if abstain_below is not None and prediction.abstains(abstain_below) else classes[label]
            table.add_row(*which, name, f"{probability:.3f}", ", ".join(listed[1:]))
    console(100, file=file).print(table)


WRITERS = {"table": write_table, "csv": write_csv, "jsonl": write_jsonl}


def check_format(layout: str) -> None:
    """Check the name of an output format.

    Raises:
        ZooError: the name is unknown.
    """
    if layout not in WRITERS:
        raise ZooError(f"--format {layout} is unknown; {did_you_mean(layout, WRITERS)}")


def report(
    classifier: Classifier,
    paths: Sequence[Path],
    predictions: Iterable[Prediction],
    layout: str,
    output: Path | None,
    top: int,
    strict: bool,
    explain: Path | None,
    layer: str | None,
    abstain_below: float | None = None,
    groups: Sequence[str | None] = (),
) -> int:
    """Write the predictions of images, and optionally pictures that explain them.

    Args:
        classifier: the network.
        paths: image files.
        predictions: of each of them.
        layout: output format, a key of `WRITERS`.
        output: file to write; None: standard output.
        top: number of classes per image.
        strict: stop at the first image that cannot be read.
        explain: folder for Grad-CAM pictures; None: no pictures.
        layer: endpoint to explain; None: the last one with branches.
        abstain_below: probability of the best label below which an image is marked as abstained; None: none.
        groups: of the images, such as the patients, to be written beside their paths; empty: none.

    Returns:
        The number of images that could not be read.

    Raises:
        ZooError: an image cannot be read and `strict` is set, the endpoint has no branches, or a folder cannot be written.
    """
    skipped, grouped = 0, any(group is not None for group in groups)
    pictures = _pictures(classifier, paths, explain, layer)

    def good(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        nonlocal skipped
        for prediction in predictions:
            if prediction.error is not None:
                if strict:
                    raise ZooError(prediction.error)
                skipped += 1
                tell(f"skipped: {prediction.error}")
                continue
            pictures(prediction)
            yield prediction

    if grouped:
        predictions = (replace(each, group=group) for each, group in zip(predictions, groups, strict=True))
    bar = console(stderr=True)
    if bar.is_terminal:
        predictions = track(predictions, total=len(paths), description="images", console=bar, transient=True)
    if output is None:
        file = sys.stdout if layout == "table" else data_output()
        WRITERS[layout](good(predictions), classifier, top, file, abstain_below, grouped)
    else:
        with whole_file(output) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
            WRITERS[layout](good(predictions), classifier, top, file, abstain_below, grouped)
    return skipped


def _pictures(
    classifier: Classifier, paths: Sequence[Path], folder: Path | None, layer: str | None
) -> Callable[[Prediction], None]:
    """Return a function that draws the explanation of a prediction into `folder`; it does nothing without a folder."""
    if folder is None:
        return lambda prediction: None
    model, preprocessing = classifier.model, classifier.preprocessing
    assert model is not None
    from inception_zoo.interpret import gradcam

    endpoint = gradcam.check_endpoint(model, layer)
    targets = dict(zip(paths, gradcam.picture_paths(list(paths), folder), strict=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZooError(f"--explain {folder}: {error.strerror}") from None

    def draw(prediction: Prediction) -> None:
        ((label, probability),) = prediction.top(1)
        image = prepare(read_image(prediction.path, classifier.channels), preprocessing)
        title = f"{prediction.path.name}: {classifier.classes[label]}, {probability:.1%}"
        gradcam.draw(model, preprocessing, image, printable(title), endpoint, label, targets[prediction.path])

    return draw
