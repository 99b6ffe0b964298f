"""Tables and pictures of a test in W&B."""

import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_zoo.runs.results import best_key
from inception_zoo.system.csv_files import read_table
from inception_zoo.tracking.service import current_run, log_content, warned

if TYPE_CHECKING:
    import wandb

CELLS = 10_000  # maximum number of rows that W&B draws
CURVES = CELLS // 203  # number of classes whose curves are drawn, of at most so many points


def log_folder(folder: Path, results: Mapping[str, Any], step: int, written: Collection[str]) -> None:
    """Log the tables and pictures of a test to the current W&B run, if there is one.

    Args:
        folder: the run folder.
        results: content of results.json.
        step: optimizer step.
        written: names of the tables in it that the test has written.
    """
    run = current_run()
    if run is None:
        return
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))  # W&B's default for tables to upload is in the home folder
    content: dict[str, Any] = {}
    for key, (name, make) in TABLES.items():
        if name in written:
            with warned(name):
                header, *rows = read_table(folder / name)
                content |= {key: make(header, *rows, folder=folder)} if rows else {}
    with warned("the tables of the test"):
        log_content(run, step, **content)
        run.summary.update({key: value for key, value in results.items() if "/" not in key or key == best_key(results)})


def _figures(header: Any, *rows: list[str], folder: Path, texts: int) -> "wandb.Table":
    """Return a table whose first columns are `texts`, and whose others are numbers."""
    import wandb

    return wandb.Table(header, [[*row[:texts], *map(_number, row[texts:])] for row in rows])


def _confusion(header: Any, *rows: list[str], folder: Path) -> Any:
    import wandb

    columns: Any = ["Actual", "Predicted", "nPredictions"]
    cells = [(name, other, int(n)) for name, *row in rows for other, n in zip(header[1:], row, strict=True)]
    cells.sort(key=lambda cell: cell[2], reverse=True)
    table, fields = wandb.Table(columns, cells[:CELLS]), {name: name for name in columns}
    return wandb.plot_table("wandb/confusion_matrix/v1", table, fields, {"title": "confusion matrix"})


def _calibration(header: Any, *rows: list[str], folder: Path) -> Any:
    import wandb

    shares = [(float(confidence), float(accuracy)) for *_, accuracy, confidence in rows if accuracy]
    confidence, accuracy = zip(*shares, strict=True)
    series = [accuracy, confidence]
    return wandb.plot.line_series(confidence, series, ["accuracy", "calibrated"], "calibration", "confidence")


def _worst(header: Any, *rows: list[str], folder: Path) -> "wandb.Table":
    import wandb

    pictures = (wandb.Image(str(folder / picture)) for picture, *_ in rows)
    data = [[shown, *row[1:3], *map(_number, row[3:6]), *row[6:]] for shown, row in zip(pictures, rows, strict=True)]
    return wandb.Table(header, data)


def _roc(header: Any, *rows: list[str], folder: Path) -> Any:
    """Draw the ROC curves; the columns are the class, then `training.decisions.CURVE`."""
    points = [(name, 0.0, 0.0) for name in dict.fromkeys(row[0] for row in rows)]
    points += [(name, 1 - float(specificity), float(sensitivity)) for name, _, sensitivity, specificity, _ in rows]
    return _lines(points, "ROC", "1 - specificity", "sensitivity")


def _precision_recall(header: Any, *rows: list[str], folder: Path) -> Any:
    points = [(name, float(sensitivity), float(precision)) for name, _, sensitivity, _, precision in rows]
    return _lines(points, "precision and recall", "sensitivity", "precision")


def _lines(points: list[tuple[str, float, float]], title: str, x: str, y: str) -> Any:
    import wandb

    classes = list(dict.fromkeys(name for name, *_ in points))[:CURVES]
    xs, ys = ([[point[axis] for point in points if point[0] == name] for name in classes] for axis in (1, 2))
    return wandb.plot.line_series(xs, ys, classes, f"{title}: {y}", x)


TABLES: dict[str, tuple[str, Callable[..., Any]]] = {
    "test/decisions": ("decisions.csv", partial(_figures, texts=2)),
    "test/subgroups": ("subgroups.csv", partial(_figures, texts=4)),
    "test/roc": ("curves.csv", _roc),
    "test/precision_recall": ("curves.csv", _precision_recall),
    "test/per_class": ("per_class.csv", partial(_figures, texts=1)),
    "test/confusion": ("confusion.csv", _confusion),
    "test/calibration": ("calibration.csv", _calibration),
    "test/worst": ("worst.csv", _worst),
}


def _number(text: str) -> float | None:
    return float(text) if text else None
