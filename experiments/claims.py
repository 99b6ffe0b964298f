"""Collect the runs of a study, and write the tables and the picture of its page.

    python experiments/claims.py collect block_swap     # multirun/block_swap → experiments/results/block_swap.csv
    python experiments/claims.py write block_swap       # that file → experiments/block_swap.md and .svg

Without a name, both commands do all studies. `make experiments` runs the sweeps and both commands.
"""

import csv
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from paired import Difference, compare
from summary import END, machine

from inception_zoo.architecture.plan import plan_of
from inception_zoo.describe.saved_bytes import saved_activations
from inception_zoo.errors import ZooError
from inception_zoo.runs.sweeps import jobs_of
from inception_zoo.system.csv_files import read_table, write_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DIVERGED = "the loss is ", "a weight is not finite"  # reasons of runs that diverged begin with one of these
FIGURES = ["val/top1", "val/top1_best", "test/top1", "test/loss", "parameters", "multiply_adds", "saved_mib", "minutes"]
COLUMNS = ["run_name", "seed", "optimizer.lr", "state", *FIGURES, "commit", "day", "machine"]


# Collecting


def collect(name: str, folder: Path = Path("multirun")) -> None:
    """Write one row for each run of ``FOLDER/NAME`` to ``results/NAME.csv``, and the curves to ``results/NAME_curves.csv``."""
    rows, points = [], []
    for job, config in saved_configs(name, folder):
        diverged = job["state"] == "failed" and job["reason"].startswith(DIVERGED)
        if job["state"] != "finished" and not diverged:
            raise ZooError(f"{folder / name / job['job']} is {job['state']}; run: python run.py -m sweep={name}")
        run = {"run_name": config.run_name, "seed": config.seed, "optimizer.lr": config.optimizer.lr}
        cost = {} if "saved_mib" in job else {"saved_mib": _saved(config)}  # a ResNet's record has it
        row = {
            **job,
            **run,
            **cost,
            "state": "diverged" if diverged else "finished",
            "day": job["started"][:10],
            "machine": machine(),
        }
        rows.append([row.get(key, "") for key in COLUMNS])
        points += [[config.run_name, config.seed, *point] for point in _curve(folder / name / job["job"])]
    if not rows:
        raise ZooError(f"{folder / name} has no runs; run: python run.py -m sweep={name}")
    write_table(RESULTS / f"{name}.csv", COLUMNS, rows)
    if STUDIES[name].curves:
        write_table(RESULTS / f"{name}_curves.csv", ["run_name", "seed", "step", "val/top1"], points)


def saved_configs(name: str, folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield (record, config) of each run of ``FOLDER/NAME``, as the arms are listed in the sweep."""
    for job in sorted(jobs_of(folder / name), key=itemgetter("started")):
        yield job, OmegaConf.load(folder / name / job["job"] / ".hydra/config.yaml")


def model_of(config: Any) -> dict[str, Any]:
    """Return the `model` node of a run's config, without interpolations."""
    return cast(dict[str, Any], OmegaConf.to_container(config.model, resolve=True))


def _saved(config: Any) -> float:
    """Return the activation memory per image in MiB, fp32."""
    return sum(saved_activations(plan_of(model_of(config)), config.data.image_size).values()) / 2**20


def _curve(run: Path) -> Iterator[tuple[int, float]]:
    """Yield (steps, validation top-1) of a run."""
    for path in sorted(run.glob("csv/**/metrics.csv")):
        with path.open() as file:
            yield from ((int(row["step"]) + 1, float(row["val/top1"])) for row in csv.DictReader(file) if row.get("val/top1"))


# Pages


class Results:
    """The runs of a study, as ``results/NAME.csv`` has them."""

    def __init__(self, name: str) -> None:
        self.name, self.study, self.rows = name, STUDIES[name], load(name)
        arms = dict.fromkeys(row["run_name"] for row in self.rows)
        self.arms = sorted(arms, key=lambda arm: arm != self.study.reference)  # the reference first
        if self.study.curves:
            self.points = load(f"{name}_curves")
        self.speeds: dict[str, list[float]] = {}
        for row in load(f"{name}_speed") if self.study.timed else []:
            self.speeds.setdefault(row["run_name"], []).append(float(row["images/s"]))

    def of(self, arm: str, key: str = "test/top1") -> dict[str, float]:
        """Return a figure of an arm by seed, without the runs that diverged."""
        return {row["seed"]: float(row[key]) for row in self.rows if row["run_name"] == arm and row["state"] != "diverged"}

    def diverged(self, arm: str) -> int:
        """Return the number of runs of an arm whose loss was NaN or infinite."""
        return sum(row["run_name"] == arm and row["state"] == "diverged" for row in self.rows)

    def differences(self) -> dict[str, Difference]:
        """Return the difference from its reference in points of test top-1, for each arm of which no run diverged.

        Raises:
            ZooError: a run of the reference diverged.
        """
        if lost := self.diverged(self.study.reference):
            raise ZooError(f"{self.name}: {lost} runs of {self.study.reference} diverged, so nothing can be compared with it")
        top1 = {arm: {seed: 100 * value for seed, value in self.of(arm).items()} for arm in self.arms if not self.diverged(arm)}
        references = {arm: self.compared_with(arm) for arm in top1 if arm != self.study.reference}
        return compare(top1, {arm: other for arm, other in references.items() if other in top1})

    def compared_with(self, arm: str) -> str:
        """Return the arm with which `arm` is compared."""
        return self.study.against.get(arm, self.study.reference)

    def steps(self, arm: str) -> list[float]:
        """Return the steps in which each run reaches the best validation top-1 of the reference with its seed; or infinity."""
        best = self.of(self.study.reference, "val/top1_best")
        first = dict.fromkeys((row["seed"] for row in self.rows if row["run_name"] == arm), math.inf)
        for point in self.points:
            if point["run_name"] == arm and float(point["val/top1"]) >= best[point["seed"]]:
                first[point["seed"]] = min(first[point["seed"]], int(point["step"]))
        return list(first.values())

    def text(self) -> str:
        """Return the table, with a line for the cost, the days, the commits and the machines of the runs."""
        minutes = sum(float(row["minutes"]) for row in self.rows)
        day, commit, machine = ("; ".join(sorted({row[key] for row in self.rows})) for key in ("day", "commit", "machine"))
        footer = f"{len(self.rows)} runs, {minutes:.0f} minutes in all; {day}; commit {commit}; {machine}."
        return text(self.study.table(self), footer)


def load(name: str) -> list[dict[str, str]]:
    """Return the rows of ``results/NAME.csv`` by column."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        raise ZooError(f"{path} does not exist; run: python experiments/claims.py collect {name.removesuffix('_curves')}")
    header, *rows = read_table(path)
    return [dict(zip(header, row, strict=True)) for row in rows]


def table_of_arms(results: Results) -> Iterator[Sequence[str]]:
    """Yield the rows of the table that compares the arms with the reference."""
    differences, curves, against = results.differences(), results.study.curves, results.study.against
    count = [f"steps to the best of {results.study.reference}"] if curves else []
    compared = ["compared with"] if against else []
    compared += ["difference (95 % interval)", "p", "visible"]
    timed = ["images/s"] if results.speeds else []
    yield ["arm", "rate", "params, M", "mult-adds, M", "saved, MiB", *timed, "test top-1, %", *compared, *count]
    for arm in results.arms:
        row, each = next(row for row in results.rows if row["run_name"] == arm), differences.get(arm)
        cost = [
            f"{float(row['parameters']) / 1e6:.2f}",
            f"{float(row['multiply_adds']) / 1e6:.1f}",
            f"{float(row['saved_mib']):.2f}",
        ]
        cost += [_median(results.speeds[arm])] if results.speeds else []
        compared = [results.compared_with(arm) if each else "–"] if against else []
        compared += [_interval(each), f"{each.p:.3f}", f"{each.visible:.2f}"] if each else ["–"] * 3
        counted = [_counted(results.steps(arm))] if curves else []
        yield [arm, f"{float(row['optimizer.lr']):g}", *cost, _accuracy(results, arm), *compared, *counted]


def _accuracy(results: Results, arm: str) -> str:
    top1, lost = [100 * value for value in results.of(arm).values()], results.diverged(arm)
    spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
    found = f"{statistics.mean(top1):.2f}{spread}" if top1 else ""
    return "; ".join(filter(None, [found, f"{lost} of {lost + len(top1)} diverged" if lost else ""]))


def _interval(each: Difference) -> str:
    return f"{each.mean:+.2f} ({each.mean - each.half:+.2f} to {each.mean + each.half:+.2f})"


def _median(rates: Sequence[float]) -> str:
    """Return the median of the rounds, with the smallest and the largest."""
    return f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"


def _counted(steps: Sequence[float]) -> str:
    """Return median, smallest and largest number of steps."""
    middle, low, high = (f"{n:.0f}" if n < math.inf else "never" for n in (statistics.median(steps), min(steps), max(steps)))
    return f"{middle} ({low} to {high})"


def table_of_rates(results: Results) -> Iterator[Sequence[str]]:
    """Yield the rows of the table of learning rates: validation top-1 by arm and rate; the best of each arm is bold."""
    rates = sorted({float(row["optimizer.lr"]) for row in results.rows})
    yield ["arm", *(f"{rate:g}" for rate in rates)]
    for arm in results.arms:
        found = _by_rate(results, arm)
        best = best_rate(results, arm)
        cells = [f"{found[rate]:.3f}" if rate in found else "diverged" for rate in rates]
        yield [arm, *(f"**{cell}**" if rate == best else cell for rate, cell in zip(rates, cells, strict=True))]


def best_rate(results: Results, arm: str) -> float:
    """Return the learning rate with the best validation top-1; of equal ones, the smallest."""
    return min(_by_rate(results, arm).items(), key=lambda each: (-each[1], each[0]))[0]


def _by_rate(results: Results, arm: str) -> dict[float, float]:
    rows = [row for row in results.rows if row["run_name"] == arm and row["state"] != "diverged"]
    return {float(row["optimizer.lr"]): float(row["val/top1_best"]) for row in rows}


def text(rows: Iterable[Sequence[str]], footer: str) -> str:
    """Return a table in Markdown with a line below it; the first row is the header."""
    header, *others = rows
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *others]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in lines), "", footer])


def replace_results(page: Path, name: str, results: str) -> None:
    """Replace the text between the markers of `name` in a page."""
    begin = f"<!-- results of {name}: experiments/claims.py -->"
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(END)
    if not found:
        raise ZooError(f"{page} has no line {begin} with {END} below it")
    page.write_text(f"{before}{begin}\n{results}\n{END}{after}")


def write(name: str) -> None:
    """Write table and picture of a study to its page."""
    results = Results(name)
    replace_results(HERE / f"{results.study.page or name}.md", name, results.text())
    if results.study.draw:
        results.study.draw(results).savefig(HERE / f"{name}.svg", metadata={"Date": None})


# Pictures

GRIDS = {"grid28": "14x14", "grid14": "7x7", "grid7": "3x3"}  # with 28 px and the stem `small`


def heat_map(results: Results) -> Figure:
    """Draw the differences of arms named ``VARIANT at STAGE``, with half the width of their intervals; * p < 0.05."""
    differences = results.differences()
    places = [arm.split(" at ") for arm in differences if " at " in arm]
    variants, stages = (list(dict.fromkeys(names)) for names in zip(*places, strict=True))
    grid = np.array([[differences[f"{variant} at {stage}"].mean for stage in stages] for variant in variants])
    figure, axes = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    limit = float(np.abs(grid).max())
    image = axes.imshow(grid, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(stages)), [f"{stage}: {GRIDS[stage]}" for stage in stages])
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
    against = results.study.against
    names = [f"{arm}\nagainst {results.compared_with(arm)}" if against else arm for arm in differences]
    axes.set_yticks(range(len(differences)), names, fontsize=8 if against else None)
    axes.set_ylim(len(differences) - 0.5, -0.5)
    label = "points of test top-1, 95 % interval"
    axes.set_xlabel(label if against else f"{label}\nagainst {results.study.reference}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def by_cost(results: Results) -> Figure:
    """Draw mean and standard deviation of each arm over its multiply-adds."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for index, arm in enumerate(results.arms):
        top1 = [100 * value for value in results.of(arm).values()]
        cost = next(float(row["multiply_adds"]) / 1e6 for row in results.rows if row["run_name"] == arm)
        axes.errorbar(cost, statistics.mean(top1), statistics.stdev(top1), fmt="o", capsize=3, color=f"C{index}", label=arm)
    axes.set(xlabel="multiply-adds per image, M", ylabel="test top-1, %: mean ± sd", xscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure


def by_recipe(results: Results) -> Figure:
    """Draw mean and standard deviation of arms named ``NETWORK RECIPE``: the networks side by side, a line per recipe."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    networks, recipes = (
        list(dict.fromkeys(names)) for names in zip(*(arm.rsplit(" ", 1) for arm in results.arms), strict=True)
    )
    for recipe in recipes:
        top1 = [[100 * value for value in results.of(f"{network} {recipe}").values()] for network in networks]
        mean, spread = ([of(values) for values in top1] for of in (statistics.mean, statistics.stdev))
        axes.errorbar(range(len(networks)), mean, spread, fmt="o-", capsize=3, label=f"recipe of {recipe}")
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel("test top-1, %: mean ± sd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def curves(results: Results) -> Figure:
    """Draw validation accuracy by step: the mean of each arm, between its lowest and its highest run."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for index, arm in enumerate(results.arms):
        by_step: dict[int, list[float]] = {}
        for row in results.points:
            if row["run_name"] == arm:
                by_step.setdefault(int(row["step"]), []).append(float(row["val/top1"]))
        steps = sorted(by_step)
        low, mean, high = ([of(by_step[step]) for step in steps] for of in (min, statistics.mean, max))
        axes.fill_between(steps, low, high, color=f"C{index}", alpha=0.2, linewidth=0)
        axes.plot(steps, mean, color=f"C{index}", label=arm)
    axes.set(xlabel="steps", ylabel="validation top-1: mean, lowest, highest seed")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


@dataclass(frozen=True)
class Study:
    """Content of the page of a study.

    Attributes:
        reference: arm with which the others are compared.
        against: arm → another arm with which it is compared.
        draw: draws the picture; None for none.
        table: yields the rows of the table.
        timed: `speed.py` measures how fast the networks train.
        curves: record validation accuracy by step, and count the steps to the best accuracy of the reference.
        page: name of the page; empty for that of the study.
    """

    reference: str = ""
    against: Mapping[str, str] = field(default_factory=dict)
    draw: Callable[[Results], Figure] | None = intervals
    table: Callable[[Results], Iterator[Sequence[str]]] = table_of_arms
    timed: bool = False
    curves: bool = False
    page: str = ""


V3_LINES = {
    "GoogLeNet without auxiliary heads": "GoogLeNet",
    "GoogLeNet with BatchNorm": "GoogLeNet",
    "BN-Inception": "GoogLeNet with BatchNorm",
    "Inception-v2": "BN-Inception",
    "with RMSProp": "Inception-v2",
    "and label smoothing": "with RMSProp",
    "and factorized 7x7": "and label smoothing",
    "and factorized 7x7 without auxiliary head": "and factorized 7x7",
    "Inception-v3": "and factorized 7x7",
    "Inception-v3 without auxiliary head": "Inception-v3",
}
SCALES = {f"{n} channels at scale {scale}": f"{n} channels at scale 0.1" for n in (536, 1072, 2144) for scale in (0.3, 1.0)}
WIDTHS = {f"width {wide}": f"width {narrow}" for narrow, wide in ((0.25, 0.375), (0.375, 0.5), (0.5, 0.75))}
NETWORKS = "GoogLeNet", "BN-Inception", "Inception-v3", "Inception-ResNet-v2"
RECIPES = {f"{network} today": f"{network} 2014" for network in NETWORKS}
STUDIES = {
    "rates": Study(draw=None, table=table_of_rates, page="claims"),
    "block_swap": Study("parallel", draw=heat_map),
    "factorization": Study("5x5", timed=True),
    "batchnorm_rate": Study(draw=None, table=table_of_rates, page="batchnorm"),
    "batchnorm": Study("V1", draw=curves, curves=True),
    "residual_rate": Study(draw=None, table=table_of_rates, page="residual"),
    "residual": Study("V4", draw=curves, curves=True),
    "reduction": Study("convolutions beside the pool"),
    "low_resolution": Study("32 px"),
    "v3_ablation_rate": Study(draw=None, table=table_of_rates, page="v3_ablation"),
    "v3_ablation": Study("GoogLeNet", V3_LINES),
    "residual_scale": Study("536 channels at scale 0.1", SCALES, page="residual"),
    "width_rate": Study(draw=None, table=table_of_rates, page="channels"),
    "width": Study("width 0.125", WIDTHS, draw=by_cost, page="channels"),
    "tricks_rate": Study(draw=None, table=table_of_rates, page="tricks"),
    "tricks": Study("GoogLeNet 2014", RECIPES, draw=by_recipe),
    "cost_rate": Study(draw=None, table=table_of_rates, page="cost"),
    "cost": Study("GoogLeNet", draw=by_cost, timed=True),
}


def main(command: str, *names: str) -> None:
    """Run a command for the named studies, or for all of them."""
    matplotlib.use("Agg")
    plt.rcParams["svg.hashsalt"] = "claims"  # equal results give an equal file
    commands: dict[str, Callable[[str], None]] = {"collect": collect, "write": write, "names": print}
    try:
        for name in names or STUDIES:
            if command not in commands or name not in STUDIES:
                raise ZooError(f"{command} {name}: valid: {', '.join(commands)}, with {', '.join(STUDIES)}")
            commands[command](name)
    except ZooError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
