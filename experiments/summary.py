"""What an experiment's page shows, from its run folders: python experiments/summary.py NAME COMMIT FOLDER...

Writes the table between the markers of experiments/NAME.md, and the learning curves to experiments/NAME.svg.
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

BEGIN, END = "<!-- results: experiments/summary.py -->", "<!-- end of results -->"
COLUMNS = {
    "val/top1": "validation top-1, last epoch",
    "test/top1": "test top-1",
    "test/loss": "test loss",
    "train/images_per_second": "images/s",
    "minutes": "minutes",
}


def main(name: str, commit: str, *folders: str) -> None:
    runs = {int(OmegaConf.load(f"{folder}/.hydra/config.yaml").seed): Path(folder) for folder in folders}
    results = {seed: json.loads((folder / "results.json").read_text()) for seed, folder in sorted(runs.items())}
    rows = [["seed", *COLUMNS.values()], ["---", *["---:"] * len(COLUMNS)]]
    rows += [[str(seed), *(show(key, metrics[key]) for key in COLUMNS)] for seed, metrics in results.items()]
    if len(results) > 1:
        values = {key: [metrics[key] for metrics in results.values()] for key in COLUMNS}
        rows.append(
            [
                f"mean ± sd, n = {len(results)}",
                *(f"{show(k, statistics.mean(v))} ± {show(k, statistics.stdev(v))}" for k, v in values.items()),
            ]
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    page = Path(__file__).parent / f"{name}.md"
    text = re.sub(
        f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table}\n\n{provenance(commit)}\n{END}", page.read_text(), flags=re.DOTALL
    )
    page.write_text(text)
    draw(name, runs, page.with_suffix(".svg"))


def show(key: str, value: float) -> str:
    return f"{value:.0f}" if "images" in key else f"{value:.1f}" if key == "minutes" else f"{value:.4f}"


def provenance(commit: str) -> str:
    """Hardware and versions as they are here and now; the commit that ran."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}"
    return f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores; {versions}; commit {commit}."


def draw(name: str, runs: dict[int, Path], picture: Path) -> None:
    """Validation accuracy by epoch, a line for each seed."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for seed, folder in sorted(runs.items()):
        with next(folder.glob("csv/**/metrics.csv")).open() as file:
            points = [(int(row["epoch"]) + 1, float(row["val/top1"])) for row in csv.DictReader(file) if row["val/top1"]]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"seed {seed}")
    axes.set(xlabel="epoch", ylabel="validation top-1, last epoch", title=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
