"""Summary of a cross-validation: means over the folds, and the predictions of all images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inception_zoo.system.csv_files import read_table, write_table

FOLD = "data.split.fold"
PREDICTIONS = "predictions.csv"  # in the run folder of a fold: its test images, with their probabilities
TABLE, OUT_OF_FOLD = "folds.csv", "out_of_fold.csv"  # in the folder of the sweep
PRINTED = ("test/top1", "test/auroc", "test/ap", "test/balanced_accuracy")  # metrics on the terminal


def summarize(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write the means and the predictions of the folds of a sweep.

    Jobs that differ only in the fold, and not in a seed or a network, are a cross-validation; each one has a row for each
    metric.

    Args:
        folder: folder of the sweep.
        jobs: result of `jobs_of`.

    Returns:
        A line for each cross-validation with at least two finished folds; no line for another sweep.
    """
    finished = [job for job in jobs if FOLD in job["overrides"] and job["state"] == "finished"]
    groups: dict[tuple[tuple[str, str], ...], list[Mapping[str, Any]]] = {}
    for job in finished:
        rest = sorted((key, value) for key, value in job["overrides"].items() if key != FOLD)
        groups.setdefault(tuple(rest), []).append(job)
    common = set.intersection(*map(set, groups)) if groups else set()
    rows, lines = [], []
    for overrides, folds in groups.items():
        name = " ".join(f"{key}={value}" for key, value in overrides if (key, value) not in common)
        if len(folds) < 2:
            continue
        keys = [key for key in folds[0] if key.startswith("test/") and all(key in job for job in folds)]
        values = {key: [job[key] for job in folds] for key in keys}
        spread = {key: (float(np.mean(each)), float(np.std(each, ddof=1))) for key, each in values.items()}
        rows += [[name, key, len(folds), f"{mean:.6g}", f"{sd:.6g}"] for key, (mean, sd) in spread.items()]
        printed = ", ".join(f"{key} {mean:.4f} ± {sd:.4f}" for key, (mean, sd) in spread.items() if key in PRINTED)
        lines.append(f"{len(folds)} finished folds{f' of {name}' if name else ''}: {printed} (mean ± sd)")
    if rows:
        write_table(folder / TABLE, ["run", "metric", "folds", "mean", "sd"], rows)
    return [*lines, *(_write_predictions(folder, finished) if finished else ())]


def _write_predictions(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write the predictions of all jobs into one table; return the reason in a list if that is not possible."""
    header: list[str] | None = None
    rows = []
    for job in jobs:
        path = folder / job["job"] / PREDICTIONS
        names, *cells = [*read_table(path)] if path.exists() else [[]]
        if not cells or header not in (None, names):
            (folder / OUT_OF_FOLD).unlink(missing_ok=True)  # that of an earlier command
            why = "has other columns than the job before it" if cells else f"has no {PREDICTIONS}, or an empty one"
            return [f"{OUT_OF_FOLD} was not written: job {job['job']} {why}"]
        header = names
        rows += [[job["job"], job["overrides"][FOLD], *row] for row in cells]
    write_table(folder / OUT_OF_FOLD, ["job", "fold", *(header or ())], rows)
    return []
