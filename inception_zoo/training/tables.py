"""Tables and pictures of a test, written to the run folder."""

import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from PIL import Image
from torch import Tensor

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data.pixels import as_pictures
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.csv_files import write_table
from inception_zoo.training.metrics import ROW

FIGURES = ("probability", "probability_of_label", "loss")


def write_tables(
    folder: Path,
    names: Sequence[str],
    confusion: Tensor,
    top5: Tensor,
    calibration: Tensor,
    worst: tuple[Tensor, Tensor],
    sources: Sequence[str],
    preprocessing: Preprocessing | None = None,
) -> None:
    """Write the per-class table, the confusion matrix, the calibration table and the worst mistakes of a test.

    The files are per_class.csv, confusion.csv (rows are the true classes), calibration.csv, worst.csv and worst/*.png. The
    tensors are the results of `Evaluation.tables`.

    Args:
        folder: the run folder.
        names: class names.
        confusion: (classes, classes), number of images; rows are the true classes.
        top5: (classes,), top-5 accuracy.
        calibration: (3, bins), see `Calibration`.
        worst: table (K, 6) and normalized images (K, C, S, S), see `Worst`.
        sources: path or number of each image in `worst`.
        preprocessing: normalization to undo in the pictures; None: pixels are from 0 to 1.
    """
    matrix = confusion.tolist()
    predicted = confusion.sum(0).tolist()
    rows = ([name, *row] for name, row in zip(names, matrix, strict=True))
    write_table(folder / "confusion.csv", ["class", *names], rows)
    classes = []
    for label, name in enumerate(names):
        hits, images = matrix[label][label], sum(matrix[label])
        figures = hits / images if images else None, float(top5[label]) if images else None
        precision = hits / predicted[label] if predicted[label] else None
        f1 = 2 * hits / (images + predicted[label]) if images + predicted[label] else None
        classes.append([name, images, *figures, precision, f1])
    write_table(folder / "per_class.csv", ["class", "images", "top1", "top5", "precision", "f1"], classes)
    edges = [round(k / calibration.shape[1], 4) for k in range(calibration.shape[1] + 1)]
    shares = (calibration[1:] / calibration[0]).T.tolist()
    reliability = (
        [*ends, int(images), *(round(share, 6) if images else None for share in pair)]  # more digits depend on the order
        for ends, images, pair in zip(pairwise(edges), calibration[0].tolist(), shares, strict=True)
    )
    write_table(folder / "calibration.csv", ["bin_low", "bin_high", "images", "accuracy", "confidence"], reliability)
    _write_worst(folder, names, worst[0], as_pictures(worst[1], preprocessing), sources)


def _write_worst(folder: Path, names: Sequence[str], rows: Tensor, pictures: Tensor, sources: Sequence[str]) -> None:
    table, worst = [], folder / "worst"
    with whole_file(worst) as temporary:
        temporary.mkdir()
        for number, (row, pixels, source) in enumerate(zip(rows.tolist(), pictures.numpy(), sources, strict=True)):
            Image.fromarray(pixels).save(temporary / f"{number}.png")
            found = dict(zip(ROW, row, strict=True))
            who = [names[int(found[key])] for key in ("label", "predicted")]
            table.append([f"worst/{number}.png", *who, *(f"{found[key]:.6g}" for key in FIGURES), source])
        (folder / "worst.csv").unlink(missing_ok=True)  # from an earlier test: it must not name pictures of this one
        shutil.rmtree(worst, ignore_errors=True)
    write_table(folder / "worst.csv", ["picture", "label", "predicted", *FIGURES, "image"], table)
