"""Predictions for many images, read ahead and in batches; unreadable images are reported and skipped."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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

    def place(self, grouped: bool) -> list[str]:
        """Return the cells that name the image: its path, and with `grouped` its group."""
        return [str(self.path), *([self.group or ""] if grouped else [])]

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
    open_network: Callable[[], Classifier],
    batch_size: int = 32,
    crops: int = 1,
    flip: bool = False,
) -> Iterator[Prediction]:
    """Yield what `predict` yields, from several processes.

    Args:
        classifier: the network of this process.
        paths: image files.
        processes: processes that share the images; 1: this process.
        open_network: function that opens the network in a worker process; picklable.
        batch_size: see `predict`.
        crops: see `predict`.
        flip: see `predict`.
    """
    if processes == 1:  # batch by batch, not share by share
        yield from predict(classifier, paths, batch_size, crops, flip)
        return
    shares = in_processes(paths, processes, classifier, open_network, partial(_share, batch_size, crops, flip))
    for path, found in zip(paths, chain.from_iterable(shares), strict=True):
        if isinstance(found, np.ndarray):
            yield Prediction(path, torch.from_numpy(found), None, classifier.decision)
        else:
            yield Prediction(path, error=found)


def _share(
    batch_size: int, crops: int, flip: bool, classifier: Classifier, paths: Sequence[Path]
) -> list[np.ndarray | str | None]:
    """Return the probabilities of each image as an array, or the reason why it could not be read."""
    found = predict(classifier, paths, batch_size, crops, flip)
    return [each.error if each.probabilities is None else each.probabilities.numpy() for each in found]


@dataclass(frozen=True)
class Listing:
    """Format in which predictions are written.

    Attributes:
        layout: output format, a key of `WRITERS`.
        top: number of classes per image.
        abstain_below: probability of the best label below which an image is marked as abstained; None: none.
        grouped: write the groups, such as the patients, beside the paths.
    """

    layout: str = "table"
    top: int = 5
    abstain_below: float | None = None
    grouped: bool = False


Predictions = Iterator[Prediction]


def write_csv(predictions: Predictions, classifier: Classifier, listing: Listing, file: IO[str]) -> None:
    """Write the `top` classes of each image as a CSV row; with several labels, first those that the image has."""
    classes, abstain_below = classifier.classes, listing.abstain_below
    top = min(listing.top, len(classes))
    more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("class", "label", "probability")]
    first = ["labels"] if classifier.decision.several else [] if abstain_below is None else ["abstain"]

    def cells(prediction: Prediction) -> list[Any]:
        names: list[Any] = ["; ".join(classes[label] for label in prediction.labels())] if classifier.decision.several else []
        names += [] if abstain_below is None else [int(prediction.abstains(abstain_below))]
        return [*names, *(cell for label, p in prediction.top(top) for cell in (classes[label], label, f"{p:.6f}"))]

    header = ["file", *(["group"] if listing.grouped else []), *first, "class", "label", "probability", *more]
    rows = ([*each.place(listing.grouped), *cells(each)] for each in predictions)
    write_rows(file, header, rows, lineterminator="\n")


def write_jsonl(predictions: Predictions, classifier: Classifier, listing: Listing, file: IO[str]) -> None:
    """Write the `top` classes of each image as a line of JSON; with several labels, also those that the image has."""
    classes, abstain_below = classifier.classes, listing.abstain_below
    for prediction in predictions:
        best = prediction.top(listing.top)
        ranked = [{"class": classes[label], "label": label, "probability": round(p, 6)} for label, p in best]
        names: dict[str, Any] = {"group": prediction.group} if listing.grouped else {}
        names |= {} if abstain_below is None else {"abstain": prediction.abstains(abstain_below)}
        if classifier.decision.several:
            names["labels"] = [classes[label] for label in prediction.labels()]
        file.write(json.dumps({"file": str(prediction.path), **names, **ranked[0], "top": ranked}) + "\n")


def write_table(predictions: Predictions, classifier: Classifier, listing: Listing, file: IO[str]) -> None:
    """Write the `top` classes of each image as a table for the terminal; with several labels, those of the image first."""
    classes, several, abstain_below = classifier.classes, classifier.decision.several, listing.abstain_below
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    if listing.grouped:
        table.add_column("group", overflow="fold")
    table.add_column("labels" if several else "class", no_wrap=not several, overflow="fold")
    if not several:
        table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("probabilities" if several else "runners-up", overflow="fold")
    for prediction in predictions:
        ranked, which = prediction.top(listing.top), prediction.place(listing.grouped)
        listed = [f"{classes[other]} {p:.3f}" for other, p in ranked]
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
    listing: Listing,
    output: Path | None,
    strict: bool,
    explain: Path | None,
    layer: str | None,
) -> int:
    """Write the predictions of images, and optionally pictures that explain them.

    Args:
        classifier: the network.
        paths: image files.
        predictions: one for each path, in the same order.
        listing: how they are written.
        output: file to write; None: standard output.
        strict: stop at the first image that cannot be read.
        explain: folder for Grad-CAM pictures; None: no pictures.
        layer: endpoint to explain; None: the last one with branches.

    Returns:
        The number of images that could not be read.

    Raises:
        ZooError: an image cannot be read and `strict` is set, the endpoint has no branches, or a folder cannot be written.
    """
    skipped, write = 0, WRITERS[listing.layout]
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

    bar = console(stderr=True)
    if bar.is_terminal:
        predictions = track(predictions, total=len(paths), description="images", console=bar, transient=True)
    if output is None:
        write(good(predictions), classifier, listing, sys.stdout if listing.layout == "table" else data_output())
    else:
        with whole_file(output) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
            write(good(predictions), classifier, listing, file)
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
