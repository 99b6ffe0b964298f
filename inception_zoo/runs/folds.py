"""Summary of a cross-validation: means over the folds, and the predictions of all images."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_zoo.errors import ZooError
from inception_zoo.system.csv_files import read_table, write_table

FOLD = "data.split.fold"
PREDICTIONS = "predictions.csv"  # in the run folder of a fold: its test images, with their probabilities
TABLE, EVERY = "folds.csv", "out_of_fold.csv"  # in the folder of the sweep
SAID = ("test/top1", "test/auroc", "test/ap", "test/balanced_accuracy")  # metrics on the terminal


def summarize(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write the means and the predictions of the folds of a sweep.

    Jobs that differ only in the fold, and not in a seed or a network, are a cross-validation; each one has a row for each
    metric.

    Args:
        folder: folder of the sweep.
        jobs: result of `jobs_of`.

    Returns:
        A line for each complete cross-validation; no line for another sweep.
    """
    finished = [job for job in jobs if FOLD in job["overrides"] and job["state"] == "finished"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for job in finished:
        rest = {key: value for key, value in job["overrides"].items() if key != FOLD}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(job)
    varying = _varying([json.loads(words) for words in groups])
    rows, lines = [], []
    for words, folds in groups.items():
        name = " ".join(f"{key}={value}" for key, value in json.loads(words).items() if key in varying)
        if len(folds) < 2:
            continue
        means = {
            key: _spread([job[key] for job in folds]) for key in folds[0] if key.startswith("test/") and _in_all(key, folds)
        }
        rows += [[name, key, len(folds), *(f"{number:.6g}" for number in spread)] for key, spread in means.items()]
        said = ", ".join(f"{key} {mean:.4f} ± {sd:.4f}" for key, (mean, sd) in means.items() if key in SAID)
        lines.append(f"{len(folds)} folds{f' of {name}' if name else ''}: {said} (mean ± sd)")
    if rows:
        write_table(folder / TABLE, ["run", "metric", "folds", "mean", "sd"], rows)
    if finished:
        _write_every(folder, finished)
    return lines


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values)


def _in_all(key: str, jobs: Sequence[Mapping[str, Any]]) -> bool:
    return all(key in job for job in jobs)


def _varying(words: Sequence[Mapping[str, str]]) -> set[str]:
    """Return the keys whose values differ."""
    keys = {key for each in words for key in each}
    return {key for key in keys if len({each.get(key) for each in words}) > 1}


def _write_every(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> None:
    """Write the predictions of the test images of all jobs into one table, with the folder of the job."""
    header: list[str] | None = None
    rows = []
    for job in jobs:
        path = folder / job["job"] / PREDICTIONS
        if not path.exists():  # more classes than the metrics for decisions have
            return
        names, *cells = read_table(path)
        if header not in (None, names):
            raise ZooError(f"{path}: its columns differ from those of the other folds; the runs have other classes")
        header = names
        rows += [[job["job"], job["overrides"][FOLD], *row] for row in cells]
    if header:
        write_table(folder / EVERY, ["job", "fold", *header], rows)
