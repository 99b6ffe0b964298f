"""Predictions for many images: read ahead, in batches, a bad image reported and passed over."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch import Tensor

from inception_zoo.data.crops import views
from inception_zoo.data.pixels import normalize, prepare
from inception_zoo.data.reading import read_image
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.serving.classifier import Classifier
from inception_zoo.system.atomic_files import whole_file


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image, or the reason why it could not be read."""

    path: Path
    probabilities: Tensor | None = None  # (classes,)
    error: str | None = None

    def top(self, count: int) -> list[tuple[int, float]]:
        """The likeliest labels with their probabilities."""
        assert self.probabilities is not None
        # Of equal ones, which 8 bits give often, the first label: what argmax takes.
        values, labels = self.probabilities.sort(descending=True, stable=True)
        return list(zip(labels[:count].tolist(), values[:count].tolist(), strict=True))


def predict(
    classifier: Classifier, paths: Sequence[Path], batch_size: int = 32, crops: int = 1, flip: bool = False
) -> Iterator[Prediction]:
    """Predict in the order of `paths`. Probabilities are averaged over the views of an image (see `crops.views`)."""
    count = max(1, batch_size // crops)
    chunks = [paths[start : start + count] for start in range(0, len(paths), count)]
    with ThreadPoolExecutor(4) as pool:

        def reading(chunk: Sequence[Path]) -> Iterator[Tensor | str]:
            return pool.map(lambda path: _views(classifier, path, crops, flip), chunk)

        ahead = reading(chunks[0]) if chunks else iter(())
        for chunk, following in zip(chunks, [*chunks[1:], []], strict=True):
            read = list(ahead)
            ahead = reading(following)  # while the network works
            sizes = [len(seen) for seen in read if isinstance(seen, Tensor)]
            found: Iterator[Tensor] = iter(())
            if sizes:
                stack = torch.cat([seen for seen in read if isinstance(seen, Tensor)])
                probabilities = torch.cat([classifier.logits(part).float().softmax(1) for part in stack.split(batch_size)])
                found = iter(torch.stack([seen.mean(0) for seen in probabilities.split(sizes)]))
            for path, seen in zip(chunk, read, strict=True):
                yield Prediction(path, next(found)) if isinstance(seen, Tensor) else Prediction(path, error=seen)


def _views(classifier: Classifier, path: Path, crops: int, flip: bool) -> Tensor | str:
    try:
        image = read_image(path, classifier.channels)
        return normalize(views(image, classifier.preprocessing, crops, flip), classifier.preprocessing)
    except ZooError as error:
        return str(error)


def write_csv(predictions: Iterator[Prediction], classes: Sequence[str], top: int, file: IO[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    top = min(top, len(classes))
    more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("class", "label", "probability")]
    writer.writerow(["file", "class", "label", "probability", *more])
    for prediction in predictions:
        ranked = [cell for label, p in prediction.top(top) for cell in (classes[label], label, f"{p:.6f}")]
        writer.writerow([prediction.path, *ranked])


def write_jsonl(predictions: Iterator[Prediction], classes: Sequence[str], top: int, file: IO[str]) -> None:
    for prediction in predictions:
        ranked = [{"class": classes[label], "label": label, "probability": round(p, 6)} for label, p in prediction.top(top)]
        file.write(json.dumps({"file": str(prediction.path), **ranked[0], "top": ranked}) + "\n")


def write_table(predictions: Iterator[Prediction], classes: Sequence[str], top: int, file: IO[str]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("class", no_wrap=True)
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("then", overflow="fold")
    for prediction in predictions:
        (label, probability), *others = prediction.top(top)
        then = ", ".join(f"{classes[other]} {p:.3f}" for other, p in others)
        table.add_row(Text(str(prediction.path)), Text(classes[label]), f"{probability:.3f}", Text(then))
    Console(file=file, width=max(Console().width, 100)).print(table)


WRITERS = {"table": write_table, "csv": write_csv, "jsonl": write_jsonl}


def check_format(layout: str) -> None:
    if layout not in WRITERS:
        raise ZooError(f"--format {layout} is unknown; {did_you_mean(layout, WRITERS)}")


def check_output(output: Path | None) -> None:
    if output and not output.parent.is_dir():
        raise ZooError(f"--output {output}: there is no folder {output.parent}")


def report(
    classifier: Classifier,
    paths: Sequence[Path],
    layout: str,
    output: Path | None,
    top: int,
    batch_size: int,
    crops: int,
    flip: bool,
    strict: bool,
    explain: Path | None,
    layer: str | None,
) -> int:
    """Write the predictions as they come, and the pictures if they are asked for; the number of images that were skipped.

    Raises:
        ZooError: an image that cannot be read and `strict`, an endpoint without branches, a folder that cannot be written.
    """
    skipped = 0
    pictures = _pictures(classifier, paths, explain, layer)

    def good(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        nonlocal skipped
        for prediction in predictions:
            if prediction.error is not None:
                if strict:
                    raise ZooError(prediction.error)
                skipped += 1
                print(f"skipped: {prediction.error}", file=sys.stderr)
                continue
            pictures(prediction)
            yield prediction

    bar = Console(stderr=True)
    predictions: Iterable[Prediction] = predict(classifier, paths, batch_size, crops, flip)
    if bar.is_terminal:
        predictions = track(predictions, total=len(paths), description="images", console=bar, transient=True)
    if output is None:
        WRITERS[layout](good(predictions), classifier.classes, top, sys.stdout)
    else:
        with whole_file(output) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
            WRITERS[layout](good(predictions), classifier.classes, top, file)
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
        gradcam.draw(model, preprocessing, image, title, endpoint, label, targets[prediction.path])

    return draw
