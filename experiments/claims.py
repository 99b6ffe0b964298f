"""Collect the runs of a study, and write the tables and the picture of its page.

    python experiments/claims.py collect block_swap     # multirun/block_swap → experiments/results/block_swap.csv
    python experiments/claims.py write block_swap       # that file → experiments/block_swap.md and .svg

Without a name, both commands do all studies. `make experiments` runs the sweeps and both commands.
"""

import csv
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from scipy import stats

from inception_zoo.bench.machine import hardware
from inception_zoo.runs.sweeps import jobs_of

HERE = Path(__file__).parent
RESULTS = HERE / "results"
END = "<!-- end of results -->"
CHANCE = 0.1  # accuracy of a run that diverged: ten classes
FIGURES = ["val/top1", "val/top1_best", "test/top1", "test/loss", "parameters", "multiply_adds", "minutes"]
COLUMNS = ["run_name", "seed", "state", *FIGURES, "optimizer.lr", "commit", "day", "machine"]


# Collecting


def collect(name: str, folder: Path = Path("multirun")) -> None:
    """Write one row for each run of ``FOLDER/NAME`` to ``results/NAME.csv``, and the curves to ``results/NAME_curves.csv``."""
    sweep = folder / name
    jobs = jobs_of(sweep)
    if not jobs:
        sys.exit(f"{sweep} has no runs; run: python run.py -m sweep={name}")
    machine = f"{hardware()['cpu']}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    rows = [{**job["overrides"], **job, "day": job["started"][:10], "machine": machine} for job in jobs]
    for row in rows:
        row["optimizer.lr"] = OmegaConf.load(sweep / row["job"] / ".hydra/config.yaml").optimizer.lr
    _save(name, COLUMNS, ([row.get(key, "") for key in COLUMNS] for row in rows))
    if STUDIES[name].curves:
        points = ([row["run_name"], row["seed"], *point] for row in rows for point in _curve(sweep / row["job"]))
        _save(f"{name}_curves", ["run_name", "seed", "step", "val/top1"], points)


def _save(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _curve(run: Path) -> Iterator[tuple[int, float]]:
    """Yield (steps, validation top-1) of a run."""
    with next(run.glob("csv/**/metrics.csv")).open() as file:
        yield from ((int(row["step"]) + 1, float(row["val/top1"])) for row in csv.DictReader(file) if row.get("val/top1"))


# Statistics


@dataclass(frozen=True)
class Difference:
    """Difference of an arm from the reference, paired by seed, in the unit of the values.

    Attributes:
        mean: mean over the seeds.
        half: half the width of the 95 % interval of Student's t.
        visible: true difference that would have been significant, at 5 % and uncorrected, with a probability of 80 %.
        p: two-sided p value, corrected by `holm`.
    """

    mean: float
    half: float
    visible: float
    p: float


def compare(values: Mapping[str, Sequence[float]], reference: str) -> dict[str, Difference]:
    """Return the difference of each arm from `reference`.

    Args:
        values: arm → a value for each seed, in the same order of seeds.
        reference: arm with which the others are compared.
    """
    found = {arm: np.subtract(each, values[reference]) for arm, each in values.items() if arm != reference}
    corrected = holm([float(stats.ttest_1samp(each, 0).pvalue) for each in found.values()])
    return {arm: _difference(each, p) for (arm, each), p in zip(found.items(), corrected, strict=True)}


def _difference(each: np.ndarray, p: float) -> Difference:
    error, free = stats.sem(each), len(each) - 1
    quantile = float(stats.t.ppf(0.975, free))
    return Difference(float(each.mean()), quantile * error, (quantile + float(stats.t.ppf(0.8, free))) * error, p)


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's method."""
    order, corrected, largest = np.argsort(values), [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


# Pages


class Results:
    """The runs of a study, as ``results/NAME.csv`` has them."""

    def __init__(self, name: str) -> None:
        self.name, self.study, self.rows = name, STUDIES[name], _load(name)
        self.arms = list(dict.fromkeys(row["run_name"] for row in self.rows))

    def of(self, arm: str, key: str = "test/top1") -> list[float]:
        """Return a figure of an arm, sorted by seed. The accuracy of a run that diverged is that of chance."""
        rows = sorted((row for row in self.rows if row["run_name"] == arm), key=lambda row: int(row["seed"]))
        return [float(row[key] or (CHANCE if "top1" in key else "nan")) for row in rows]

    def differences(self) -> dict[str, Difference]:
        """Return the difference of each arm from the reference, in points of test top-1."""
        return compare({arm: [100 * value for value in self.of(arm)] for arm in self.arms}, self.study.reference)

    def steps(self) -> dict[str, list[int | None]]:
        """Return, for each arm, the steps of each run to the target; None where it is not reached."""
        points = _load(f"{self.name}_curves")
        runs = {(row["run_name"], row["seed"]): row for row in self.rows}
        first = {
            run: next(
                (int(row["step"]) for row in points if _run(row) == run and float(row["val/top1"]) >= self.target()), None
            )
            for run in runs
        }
        return {arm: [steps for (name, _), steps in first.items() if name == arm] for arm in self.arms}

    def target(self) -> float:
        """Return the accuracy whose steps are counted: the mean of the best validation top-1 of the reference."""
        return statistics.mean(self.of(self.study.reference, "val/top1_best"))


def _load(name: str) -> list[dict[str, str]]:
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _run(row: Mapping[str, str]) -> tuple[str, str]:
    return row["run_name"], row["seed"]


def table_of_arms(results: Results) -> Iterator[Sequence[str]]:
    """Yield the rows of the table that compares the arms with the reference."""
    differences, steps = results.differences(), results.steps() if results.study.curves else {}
    count = [f"steps to {results.target():.3f}"] if steps else []
    yield ["arm", "rate", "params, M", "mult-adds, M", "test top-1, %", "difference", "95 % interval", "p", "visible", *count]
    for arm in results.arms:
        top1, each = [100 * value for value in results.of(arm)], differences.get(arm)
        compared = [f"{each.mean:+.2f}", _interval(each), f"{each.p:.3f}", f"{each.visible:.2f}"] if each else ["–"] * 4
        cost = [f"{results.of(arm, key)[0] / 1e6:.{digits}f}" for key, digits in (("parameters", 2), ("multiply_adds", 1))]
        counted = [_counted(steps[arm])] if steps else []
        accuracy = f"{statistics.mean(top1):.2f} ± {statistics.stdev(top1):.2f}"
        yield [arm, f"{results.of(arm, 'optimizer.lr')[0]:g}", *cost, accuracy, *compared, *counted]


def _interval(each: Difference) -> str:
    return f"{each.mean - each.half:+.2f} to {each.mean + each.half:+.2f}"


def _counted(steps: Sequence[int | None]) -> str:
    reached = [count for count in steps if count is not None]
    never = f"; {len(steps) - len(reached)} of {len(steps)} never" if len(reached) < len(steps) else ""
    return f"{statistics.mean(reached):.0f} ({min(reached)} to {max(reached)}){never}" if reached else "never"


def table_of_rates(results: Results) -> Iterator[Sequence[str]]:
    """Yield the rows of the table of learning rates: validation top-1 by arm and rate; the best of each arm is bold."""
    rates = sorted({float(row["optimizer.lr"]) for row in results.rows})
    yield ["arm", *(f"{rate:g}" for rate in rates)]
    for arm in results.arms:
        found = {float(row["optimizer.lr"]): float(row["val/top1"] or CHANCE) for row in results.rows if row["run_name"] == arm}
        best = best_rate(results, arm)
        cells = [f"{found[rate]:.3f}" if rate in found else "" for rate in rates]
        yield [arm, *(f"**{cell}**" if rate == best else cell for rate, cell in zip(rates, cells, strict=True))]


def best_rate(results: Results, arm: str) -> float:
    """Return the learning rate with the best validation top-1; of equal ones, the smallest."""
    rows = [row for row in results.rows if row["run_name"] == arm]
    return min((-float(row["val/top1"] or CHANCE), float(row["optimizer.lr"])) for row in rows)[1]


def provenance(results: Results) -> str:
    """Return a line with the cost, the day, the commits and the machines of the runs."""
    minutes = sum(float(row["minutes"]) for row in results.rows)
    day, commit, machine = (", ".join(sorted({row[key] for row in results.rows})) for key in ("day", "commit", "machine"))
    diverged = sum(not row["test/top1"] for row in results.rows)
    lost = f", {diverged} of them diverged (counted as {CHANCE})" if diverged else ""
    return f"{len(results.rows)} runs{lost}; {minutes:.0f} minutes in all, one thread each; {day}; commit {commit}; {machine}."


def text(results: Results) -> str:
    """Return the text between the markers of a study's page."""
    rows = list(results.study.table(results))
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in lines), "", provenance(results)])


def write(name: str) -> None:
    """Write table and picture of a study to its page."""
    results = Results(name)
    page = HERE / f"{results.study.page or name}.md"
    begin = f"<!-- results of {name}: experiments/claims.py -->"
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"{page} has no line {begin} with {END} below it")
    page.write_text(f"{before}{begin}\n{text(results)}\n{END}{after}")
    if results.study.draw:
        figure = results.study.draw(results)
        figure.savefig(HERE / f"{name}.svg", metadata={"Date": None})


# Pictures


def heat_map(results: Results) -> Figure:
    """Draw the differences of arms named ``VARIANT at STAGE``, with the half width of their intervals."""
    differences = results.differences()
    places = [arm.split(" at ") for arm in differences]
    variants, stages = (list(dict.fromkeys(names)) for names in zip(*places, strict=True))
    grid = np.array([[differences[f"{variant} at {stage}"].mean for stage in stages] for variant in variants])
    figure, axes = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    limit = float(np.abs(grid).max())
    image = axes.imshow(grid, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(stages)), stages)
    axes.set_yticks(range(len(variants)), variants)
    for (y, x), value in np.ndenumerate(grid):
        each = differences[f"{variants[y]} at {stages[x]}"]
        star = " *" if each.p < 0.05 else ""
        colour = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(x, y, f"{value:+.2f} ± {each.half:.2f}{star}", ha="center", va="center", color=colour)
    axes.set_title(f"points of test top-1 against {results.study.reference} everywhere", fontsize=10)
    figure.colorbar(image)
    return figure


def intervals(results: Results) -> Figure:
    """Draw each difference with its 95 % interval."""
    differences = results.differences()
    figure, axes = plt.subplots(figsize=(6, 0.8 + 0.35 * len(differences)), layout="constrained")
    for y, each in enumerate(differences.values()):
        axes.errorbar(each.mean, y, xerr=each.half, fmt="o", capsize=3, color="C0" if each.p < 0.05 else "grey")
        axes.text(1.01, y, f"p = {each.p:.3f}", va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.invert_yaxis()
    axes.set_xlabel(f"points of test top-1 against {results.study.reference}, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def curves(results: Results) -> Figure:
    """Draw validation accuracy by step: each run thin, and the mean of each arm."""
    points = _load(f"{results.name}_curves")
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for index, arm in enumerate(results.arms):
        by_step: dict[int, list[float]] = {}
        for row in points:
            if row["run_name"] == arm:
                by_step.setdefault(int(row["step"]), []).append(float(row["val/top1"]))
        steps = sorted(by_step)
        axes.fill_between(
            steps, [min(by_step[s]) for s in steps], [max(by_step[s]) for s in steps], color=f"C{index}", alpha=0.2
        )
        axes.plot(steps, [statistics.mean(by_step[s]) for s in steps], color=f"C{index}", label=arm)
    axes.axhline(results.target(), color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="steps", ylabel="validation top-1: mean, lowest and highest seed")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


@dataclass(frozen=True)
class Study:
    """Content of the page of a study.

    Attributes:
        reference: arm with which the others are compared.
        draw: draws the picture; None for none.
        table: yields the rows of the table.
        same_cost: the arms whose names end with this have the multiply-adds of the reference; None: no arm needs to.
        curves: record validation accuracy by step, and count the steps to the best accuracy of the reference.
        page: name of the page; empty for that of the study.
    """

    reference: str = ""
    draw: Callable[[Results], Figure] | None = intervals
    table: Callable[[Results], Iterator[Sequence[str]]] = table_of_arms
    same_cost: str | None = None
    curves: bool = False
    page: str = ""


STUDIES = {
    "rates": Study(draw=None, table=table_of_rates, page="claims"),
    "block_swap": Study("parallel", heat_map, same_cost=""),
    "factorization": Study("5x5", same_cost=" at equal cost"),
    "batchnorm": Study("V1", curves, curves=True),
    "reduction": Study("convolutions beside the pool", same_cost=""),
    "low_resolution": Study("32 px", same_cost=""),
}


def main(command: str, *names: str) -> None:
    """Run a command for the named studies, or for all of them."""
    matplotlib.use("Agg")
    plt.rcParams["svg.hashsalt"] = "claims"  # equal results give an equal file
    commands: dict[str, Callable[[str], None]] = {"collect": collect, "write": write, "names": print}
    for name in names or STUDIES:
        commands[command](name)


if __name__ == "__main__":
    main(*sys.argv[1:])
