"""Tables and pictures of a test, written to the run folder."""

import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inception_zoo.architecture.decision import Decision
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data import ImageData
from inception_zoo.data.labels import names_of
from inception_zoo.data.pixels import as_pictures
from inception_zoo.runs.folds import PREDICTIONS
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.csv_files import write_table
from inception_zoo.training.decisions import CURVE, OF_IMAGES, Row, Scored, curve, intervals
from inception_zoo.training.metrics import ROW, Evaluation

FIGURES = ("probability", "probability_of_label", "loss")
DECISIONS, CURVES, SUBGROUPS = "decisions.csv", "curves.csv", "subgroups.csv"


def write_test(
    folder: Path, data: ImageData, evaluation: Evaluation, decision: Decision, tables: Mapping[str, Any]
) -> list[str]:
    """Write the tables and pictures of a test, see `write_tables` and `write_decisions`; return the names of the tables.

    Args:
        folder: the run folder.
        data: with the test split.
        evaluation: of the test.
        decision: that of the network.
        tables: results of `Evaluation.tables`.
    """
    worst = tables["worst"][0][:, ROW.index("image")].long().tolist()
    sources, labels_of_worst, written = [data.source_of("test", image) for image in worst], None, ["worst.csv"]
    names = [*data.class_names, *map(str, range(data.num_classes, evaluation.classes))]
    if evaluation.scores is not None and (scored := evaluation.decided(decision)):
        images = evaluation.scores.compute()[0]
        files = data.files_of("test", images)
        groups, subgroups = (files.groups, files.subgroups) if files else (None, {})
        written.append(DECISIONS)
        write_decisions(folder / DECISIONS, names, scored, groups, decision.thresholds)
        written.append(CURVES)
        _write_curves(folder / CURVES, names, scored)
        if subgroups:
            written.append(SUBGROUPS)
            _write_subgroups(folder / SUBGROUPS, names, scored, subgroups, groups)
        if data.sizes.get("folds"):
            _write_predictions(folder / PREDICTIONS, names, scored, [data.source_of("test", image) for image in images], groups)
        if scored.several:
            rows = np.searchsorted(images, worst)
            labels = (names_of(torch.from_numpy(each[rows]).int(), names) for each in (scored.labels, scored.predicted))
            labels_of_worst = list(zip(*labels, strict=True))
    write_tables(folder, names, **tables, sources=sources, preprocessing=data.preprocessing, labels_of_worst=labels_of_worst)
    return [*written, *([] if labels_of_worst else ["per_class.csv", "confusion.csv", "calibration.csv"])]


def write_tables(
    folder: Path,
    names: Sequence[str],
    worst: tuple[Tensor, Tensor],
    sources: Sequence[str],
    preprocessing: Preprocessing | None = None,
    labels_of_worst: Sequence[tuple[str, str]] | None = None,
    confusion: Tensor | None = None,
    top5: Tensor | None = None,
    calibration: Tensor | None = None,
) -> None:
    """Write the per-class table, the confusion matrix, the calibration table and the worst mistakes of a test.

    The files are per_class.csv, confusion.csv (rows are the true classes), calibration.csv, worst.csv and worst/*.png. The
    tensors are the results of `Evaluation.tables`. With several labels for each image, there are only the last two files.

    Args:
        folder: the run folder.
        names: class names.
        worst: table (K, 6) and normalized images (K, C, S, S), see `Worst`.
        sources: path or number of each image in `worst`.
        preprocessing: normalization to undo in the pictures; None: pixels are from 0 to 1.
        labels_of_worst: labels and predicted labels of each image in `worst`, if it has several; None: those in the table.
        confusion: (classes, classes), number of images; rows are the true classes.
        top5: (classes,), top-5 accuracy.
        calibration: (3, bins), see `Calibration`.
    """
    if confusion is not None and top5 is not None:
        _write_classes(folder, names, confusion, top5)
    if calibration is not None:
        _write_calibration(folder, calibration)
    pictures, labels = as_pictures(worst[1], preprocessing), labels_of_worst
    if labels is None:
        pairs = worst[0][:, [ROW.index(key) for key in ("label", "predicted")]].long().tolist()
        labels = [(names[label], names[predicted]) for label, predicted in pairs]
    _write_worst(folder, labels, worst[0], pictures, sources, several=labels_of_worst is not None)


def _write_predictions(
    path: Path, names: Sequence[str], scored: Scored, sources: Sequence[str], groups: np.ndarray | None
) -> None:
    """Write labels, predicted labels and probabilities of each image."""
    labels, predicted = (names_of(torch.from_numpy(each).int(), names) for each in (scored.labels, scored.predicted))
    rows = [
        [source, *([] if groups is None else [str(groups[row])]), labels[row], predicted[row]]
        + [f"{p:.6f}" for p in scored.probabilities[row]]
        for row, source in enumerate(sources)
    ]
    header = ["image", *([] if groups is None else ["group"]), "label", "predicted", *(f"probability {name}" for name in names)]
    write_table(path, header, rows)


def _write_classes(folder: Path, names: Sequence[str], confusion: Tensor, top5: Tensor) -> None:
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


def _write_calibration(folder: Path, calibration: Tensor) -> None:
    edges = [round(k / calibration.shape[1], 4) for k in range(calibration.shape[1] + 1)]
    shares = (calibration[1:] / calibration[0]).T.tolist()
    reliability = (
        [*ends, int(images), *(round(share, 6) if images else None for share in pair)]  # more digits depend on the order
        for ends, images, pair in zip(pairwise(edges), calibration[0].tolist(), shares, strict=True)
    )
    write_table(folder / "calibration.csv", ["bin_low", "bin_high", "images", "accuracy", "confidence"], reliability)


def write_decisions(
    path: Path,
    names: Sequence[str],
    scored: Scored,
    groups: np.ndarray | None = None,
    thresholds: Sequence[float] | None = None,
) -> None:
    """Write the metrics for decisions with bootstrap intervals: of all classes, and of each class compared with the others.

    Args:
        path: the file.
        names: class names.
        scored: the images of the test.
        groups: (N,), such as the patients, which the bootstrap draws whole; None: it draws images.
        thresholds: of the classes, which were chosen on the validation images; None: none.
    """
    images = scored.labels.sum(0)
    rows = []
    for row in intervals(scored, groups):
        which = ("", len(scored.labels)) if row.label is None else (names[row.label], int(images[row.label]))
        rows.append([row.metric, *which, *_bounds(row)])
    for name, count, value in zip(names, images.tolist(), thresholds or (), strict=False):
        rows.append(["threshold", name, count, f"{value:.6g}", None, None])
    write_table(path, ["metric", "class", "images", "value", "low", "high"], rows)


def _write_subgroups(
    path: Path, names: Sequence[str], scored: Scored, subgroups: Mapping[str, np.ndarray], groups: np.ndarray | None
) -> None:
    """Write the metrics of each class, and those of all images, for each value of each column.

    Means over the classes are left out: they cannot be compared where a class is missing.
    """
    rows = []
    for column, values in subgroups.items():
        for value in np.unique(values):
            part = values == value
            images = scored.labels[part].sum(0)
            for row in intervals(scored.of_images(part), None if groups is None else groups[part]):
                if row.label is None and row.metric in OF_IMAGES:
                    rows.append([column, value, row.metric, "", part.sum(), *_bounds(row)])
                elif row.label is not None and images[row.label]:
                    rows.append([column, value, row.metric, names[row.label], images[row.label], *_bounds(row)])
    write_table(path, ["column", "subgroup", "metric", "class", "images", "value", "low", "high"], rows)


def _bounds(row: Row) -> list[str]:
    return ["" if isnan(number) else f"{number:.6g}" for number in (row.value, row.low, row.high)]


def _write_curves(path: Path, names: Sequence[str], scored: Scored) -> None:
    """Write the points of the ROC and precision-recall curve of each class that some images have and some do not."""
    rows = [
        [name, float(point[0]), *(f"{number:.6g}" for number in point[1:])]  # a rounded threshold could exclude its image
        for name, scores, positive in zip(names, scored.probabilities.T, scored.labels.T, strict=True)
        for point in curve(scores, positive)
    ]
    write_table(path, ["class", *CURVE], rows)


def _write_worst(
    folder: Path, said: Sequence[tuple[str, str]], rows: Tensor, pictures: Tensor, sources: Sequence[str], several: bool
) -> None:
    table, worst = [], folder / "worst"
    with whole_file(worst) as temporary:
        temporary.mkdir()
        each = zip(rows.tolist(), pictures.numpy(), said, sources, strict=True)
        for number, (row, pixels, labels, source) in enumerate(each):
            Image.fromarray(pixels).save(temporary / f"{number}.png")
            found = dict(zip(ROW, row, strict=True))
            figures = ["" if several and key == "probability_of_label" else f"{found[key]:.6g}" for key in FIGURES]
            table.append([f"worst/{number}.png", *labels, *figures, source])
        (folder / "worst.csv").unlink(missing_ok=True)  # from an earlier test: it must not name pictures of this one
        shutil.rmtree(worst, ignore_errors=True)
    write_table(folder / "worst.csv", ["picture", "label", "predicted", *FIGURES, "image"], table)
