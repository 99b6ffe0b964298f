"""Write the results of an experiment from its run folders: python experiments/summary.py NAME COMMIT [LABEL=]FOLDER...

The table replaces the text between the markers in experiments/NAME.md. If a run has more than one epoch, its learning curves
are drawn in experiments/NAME.svg.
"""

import csv
import json
import os
import platform
import re
import statistics
import sys
from pathlib import Path

import lightning
import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import MaxNLocator
from omegaconf import OmegaConf

from inception_zoo.bench.machine import hardware

BEGIN, END = "<!-- results: experiments/summary.py -->", "<!-- end of results -->"
PUBLISHED = {"tutorial": (0.888, 0.808, 0.900)}  # test accuracy after ten epochs: median, lowest and highest of 81 runs
COLUMNS = {
    "val/top1": "validation top-1, last epoch",
    "test/top1": "test top-1",
    "test/loss": "test loss",
    "val/recall1": "validation recall@1, last epoch",
    "test/recall1": "test recall@1",
    "test/recall5": "test recall@5",
    "test/verification": "verification",
    "train/images_per_second": "images/s",
    "minutes": "minutes",
}


def main(name: str, commit: str, *words: str) -> None:
    """Write the table and the curves of the runs in `words`, each ``FOLDER`` or ``LABEL=FOLDER``."""
    runs = sorted(map(run_of, words), key=lambda run: run[1])
    labels = list(dict.fromkeys(label for label, _, _ in map(run_of, words)))
    first = ["run", "seed"] if labels != [""] else ["seed"]
    every = [(label, seed, json.loads((folder / "results.json").read_text())) for label, seed, folder in runs]
    columns = [key for key in COLUMNS if all(key in metrics for _, _, metrics in every)]
    rows = [[*first, *map(COLUMNS.__getitem__, columns)], ["---"] * len(first) + ["---:"] * len(columns)]
    for label in labels:
        results = {seed: metrics for each, seed, metrics in every if each == label}
        named = [label] if labels != [""] else []
        rows += [[*named, str(seed), *(show(key, metrics[key]) for key in columns)] for seed, metrics in results.items()]
        if len(results) > 1:
            values = {key: [metrics[key] for metrics in results.values()] for key in columns}
            figures = (f"{show(k, statistics.mean(v))} ± {show(k, statistics.stdev(v))}" for k, v in values.items())
            rows.append([*named, f"mean ± sd, n = {len(results)}", *figures])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    page = Path(__file__).parent / f"{name}.md"
    text = re.sub(
        f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table}\n\n{provenance(commit)}\n{END}", page.read_text(), flags=re.DOTALL
    )
    page.write_text(text)
    curves = [(label, seed, curve(folder)) for label, seed, folder in runs]
    if any(len(points) > 1 for _, _, points in curves):
        draw(name, curves, page.with_suffix(".svg"))


def run_of(word: str) -> tuple[str, int, Path]:
    """Return label, seed and folder of a run from ``LABEL=FOLDER`` or ``FOLDER``."""
    label, _, folder = word.rpartition("=")
    return label, int(OmegaConf.load(f"{folder}/.hydra/config.yaml").seed), Path(folder)


def show(key: str, value: float) -> str:
    """Return a value with the digits that its column has."""
    return f"{value:.0f}" if "images" in key else f"{value:.1f}" if key == "minutes" else f"{value:.4f}"


def provenance(commit: str) -> str:
    """Return a line with this machine's hardware and versions, and the commit of the runs."""
    return f"{machine()}; commit {commit}."


def machine() -> str:
    """Return this machine's CPU, number of cores and versions."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}"
    return f"{hardware()['cpu']}, {os.cpu_count()} cores; {versions}"


def curve(folder: Path) -> list[tuple[int, float]]:
    """Return (epoch from 1, validation accuracy) for each epoch of a run."""
    with next(folder.glob("csv/**/metrics.csv")).open() as file:
        return [(int(row["epoch"]) + 1, float(row["val/top1"])) for row in csv.DictReader(file) if row.get("val/top1")]


def draw(name: str, runs: list[tuple[str, int, list[tuple[int, float]]]], picture: Path) -> None:
    """Draw validation accuracy by epoch, one line for each run; runs with the same label share a colour."""
    colours = {label: f"C{i}" for i, label in enumerate(dict.fromkeys(label for label, _, _ in runs))}
    drawn: set[str] = set()
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for label, seed, points in runs:
        colour = colours[label] if len(colours) > 1 else None
        marker = "o" if len(points) < 20 else ""
        named = f"seed {seed}" if colour is None else None if label in drawn else label
        drawn.add(label)
        axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=named)
    if name in PUBLISHED:
        median, low, high = PUBLISHED[name]
        axes.axhspan(low, high, alpha=0.15, color="grey", label="published runs, test")
        axes.axhline(median, color="grey", linestyle="--", label="their median")
    axes.set(xlabel="epoch", ylabel="validation top-1, last epoch", title=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
