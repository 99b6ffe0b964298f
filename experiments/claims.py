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
from figures import by_cost, by_recipe, curves, heat_map, intervals
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from paired import Difference, compare, shown_p
from summary import END, machine

from inception_zoo.architecture.plan import plan_of
from inception_zoo.describe.saved_bytes import saved_activations
from inception_zoo.errors import ZooError
from inception_zoo.runs.sweeps import jobs_of
from inception_zoo.system.csv_files import read_table, write_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DIVERGED = "the loss is ", "a weight is not finite"  # reasons of runs that diverged begin with one of these
COLLAPSED = 0.3  # a run with a lower test top-1 counts as diverged
DEAD = 2.25  # training loss of a dead network; that of equal probabilities is log(10) = 2.30
COSTS = ["params, M", "mult-adds, M", "saved, MiB"]
COMPARED = ["difference (95 % interval)", "p", "visible"]
FIGURES = [
    "train/loss_step",
    "val/top1",
    "val/top1_best",
    "test/top1",
    "test/loss",
    "parameters",
    "multiply_adds",
    "saved_mib",
    "minutes",
]
COLUMNS = ["run_name", "seed", "optimizer.lr", "state", *FIGURES, "commit", "day", "machine"]


# Collecting


def collect(name: str, folder: Path = Path("multirun")) -> None:
    """Write one row for each run of ``FOLDER/NAME`` to ``results/NAME.csv``, and the curves to ``results/NAME_curves.csv``."""
    rows, points = [], []
    for job, config in _saved_configs(name, folder):
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
        write_table(RESULTS / f"{name}_curves.csv", ["run_name", "seed", "step", "val/top1", "train/loss_step"], points)


def _saved_configs(name: str, folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield (record, config) of each run of ``FOLDER/NAME``, as the arms are listed in the sweep."""
    for job in sorted(jobs_of(folder / name), key=itemgetter("started")):
        yield job, OmegaConf.load(folder / name / job["job"] / ".hydra/config.yaml")


def model_of(config: Any) -> dict[str, Any]:
    """Return the `model` node of a run's config, without interpolations."""
    return cast(dict[str, Any], OmegaConf.to_container(config.model, resolve=True))


def _saved(config: Any) -> float:
    """Return the activation memory per image in MiB, fp32."""
    return sum(saved_activations(plan_of(model_of(config)), config.data.image_size).values()) / 2**20


def _curve(run: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (steps, validation top-1, training loss) of a run; one of the two can be empty."""
    for path in sorted(run.glob("csv/**/metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                if any(found := (row.get("val/top1") or "", row.get("train/loss_step") or "")):
                    yield int(row["step"]) + 1, *found


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
        return {row["seed"]: float(row[key]) for row in self.rows if row["run_name"] == arm and not _diverged(row)}

    def diverged(self, arm: str) -> int:
        """Return the number of runs of an arm with a NaN or infinite loss, or with a test top-1 below `COLLAPSED`."""
        return sum(row["run_name"] == arm and _diverged(row) for row in self.rows)

    def differences(self) -> dict[str, Difference]:
        """Return the difference from its reference in points of top-1, for each arm.

        An arm is left out if one of its runs, or of its reference, diverged. If the study compares curves, their means are
        compared as ``ARM, curve``.
        """
        whole = [arm for arm in self.arms if not self.diverged(arm)]
        top1 = {arm: {seed: 100 * value for seed, value in self.of(arm).items()} for arm in whole}
        references = {arm: self.compared_with(arm) for arm in whole if arm != self.study.reference}
        references = {arm: other for arm, other in references.items() if other in whole}
        if self.study.compare_curves:
            top1 |= {f"{arm}, curve": self.heights(arm) for arm in whole}
            references |= {f"{arm}, curve": f"{other}, curve" for arm, other in references.items()}
        return compare(top1, references, self.study.pooled)

    def heights(self, arm: str) -> dict[str, float]:
        """Return the mean of the validation curve by seed, in points of top-1: the sooner a network learns, the higher."""
        found: dict[str, list[float]] = {}
        for point in self.points:
            if point["run_name"] == arm and point["val/top1"]:
                found.setdefault(point["seed"], []).append(100 * float(point["val/top1"]))
        return {seed: statistics.mean(values) for seed, values in found.items()}

    def compared_with(self, arm: str) -> str:
        """Return the arm with which `arm` is compared."""
        return self.study.against.get(arm, self.study.reference)

    def steps(self, arm: str) -> list[float]:
        """Return the steps in which each run reaches the best validation top-1 of the reference with its seed; or infinity."""
        best = self.of(self.study.reference, "val/top1_best")
        first = dict.fromkeys((row["seed"] for row in self.rows if row["run_name"] == arm), math.inf)
        for point in self.points:
            if point["run_name"] == arm and point["val/top1"] and float(point["val/top1"]) >= best.get(point["seed"], math.inf):
                first[point["seed"]] = min(first[point["seed"]], int(point["step"]))
        return list(first.values())

    def text(self) -> str:
        """Return the table, with a line for the cost, the days, the commits and the machines of the runs."""
        minutes = sum(float(row["minutes"]) for row in self.rows)
        day, commit, machine = ("; ".join(sorted({row[key] for row in self.rows})) for key in ("day", "commit", "machine"))
        footer = f"{len(self.rows)} runs, {minutes:.0f} minutes in all; {day}; commit {commit}; collected on {machine}."
        return text(self.study.table(self), footer)


def _diverged(row: Mapping[str, str]) -> bool:
    return row["state"] == "diverged" or float(row["test/top1"]) < COLLAPSED


def load(name: str) -> list[dict[str, str]]:
    """Return the rows of ``results/NAME.csv`` by column."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        study, _, kind = name.rpartition("_")
        makes = f"speed.py {study}" if kind == "speed" else f"claims.py collect {name.removesuffix('_curves')}"
        raise ZooError(f"{path} does not exist; run: python experiments/{makes}")
    header, *rows = read_table(path)
    return [dict(zip(header, row, strict=True)) for row in rows]


def table_of_arms(results: Results) -> Iterator[Sequence[str]]:
    """Yield the rows of the table that compares the arms with the reference."""
    study, differences = results.study, results.differences()
    header = ["arm", "rate", *COSTS, *(["images/s"] if study.timed else []), "test top-1, %"]
    header += [*(["compared with"] if study.against else []), *COMPARED]
    header += [f"curve: {title}" for title in COMPARED] if study.compare_curves else []
    yield [*header, *([f"steps to the best of {study.reference}"] if study.curves else [])]
    for arm in results.arms:
        row, each = next(row for row in results.rows if row["run_name"] == arm), differences.get(arm)
        cells = [arm, f"{float(row['optimizer.lr']):g}", *_costs(row)]
        cells += [_median(results.speeds[arm])] if study.timed else []
        cells += [_accuracy(results, arm)]
        cells += [results.compared_with(arm) if each else "–"] if study.against else []
        cells += _compared(each)
        cells += _compared(differences.get(f"{arm}, curve")) if study.compare_curves else []
        yield [*cells, *([_counted(results.steps(arm))] if study.curves else [])]


def _costs(row: Mapping[str, str]) -> list[str]:
    parameters, macs, saved = (float(row[key]) for key in ("parameters", "multiply_adds", "saved_mib"))
    return [f"{parameters / 1e6:.2f}", f"{macs / 1e6:.1f}", f"{saved:.2f}"]


def _compared(each: Difference | None) -> list[str]:
    if each is None:
        return ["–"] * len(COMPARED)
    interval = f"{each.mean:+.2f} ({each.mean - each.half:+.2f} to {each.mean + each.half:+.2f})"
    return [interval, shown_p(each), f"{each.visible:.2f}"]


def table_of_deaths(results: Results) -> Iterator[Sequence[str]]:
    """Yield the rows of the table that counts dead networks: their last training loss is above `DEAD`, or not finite."""
    yield ["arm", *COSTS, "training loss of each seed", "test top-1 of each seed, %", "dead"]
    for arm in results.arms:
        rows = [row for row in results.rows if row["run_name"] == arm]
        losses = [float(row["train/loss_step"] or "nan") for row in rows]
        shown = [
            ", ".join(f"{value:.2f}" for value in losses),
            ", ".join(f"{100 * float(row['test/top1'] or 'nan'):.1f}" for row in rows),
        ]
        yield [arm, *_costs(rows[0]), *shown, f"{sum(not loss <= DEAD for loss in losses)} of {len(rows)}"]


def _accuracy(results: Results, arm: str) -> str:
    top1, lost = [100 * value for value in results.of(arm).values()], results.diverged(arm)
    spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
    found = f"{statistics.mean(top1):.2f}{spread}" if top1 else ""
    return "; ".join(filter(None, [found, f"{lost} of {lost + len(top1)} diverged" if lost else ""]))


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
        best, run = best_rate(results, arm), {float(row["optimizer.lr"]) for row in results.rows if row["run_name"] == arm}
        found = {**dict.fromkeys(run, "diverged"), **{rate: f"{top1:.3f}" for rate, top1 in _by_rate(results, arm).items()}}
        cells = [found.get(rate, "–") for rate in rates]
        yield [arm, *(f"**{cell}**" if rate == best else cell for rate, cell in zip(rates, cells, strict=True))]


def best_rate(results: Results, arm: str) -> float:
    """Return the learning rate with the best validation top-1; of equal ones, the smallest."""
    if not (found := _by_rate(results, arm)):
        raise ZooError(f"{results.name}: all rates of {arm} diverged; search smaller ones")
    return min(found.items(), key=lambda each: (-each[1], each[0]))[0]


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


@dataclass(frozen=True)
class Study:
    """Content of the page of a study.

    Attributes:
        reference: arm with which the others are compared.
        against: arm → another arm with which it is compared; empty: with none.
        draw: draws the picture; None for none.
        table: yields the rows of the table.
        pooled: estimate one standard error from all arms.
        timed: `speed.py` measures how fast the networks train.
        curves: record validation accuracy by step, and count the steps to the best accuracy of the reference.
        compare_curves: compare the means of the curves, too.
        page: name of the page; empty for that of the study.
    """

    reference: str = ""
    against: Mapping[str, str] = field(default_factory=dict)
    draw: Callable[[Results], Figure] | None = intervals
    table: Callable[[Results], Iterator[Sequence[str]]] = table_of_arms
    pooled: bool = False
    timed: bool = False
    curves: bool = False
    compare_curves: bool = False
    page: str = ""


V3_LINES = {
    "GoogLeNet with BatchNorm": "GoogLeNet",
    "BN-Inception": "GoogLeNet with BatchNorm",
    "Inception-v2": "BN-Inception",
    "and RMSProp": "Inception-v2",
    "and label smoothing": "and RMSProp",
    "and factorized 7x7": "and label smoothing",
    "Inception-v3": "and factorized 7x7",
    "GoogLeNet with heads": "GoogLeNet",
    "and factorized 7x7 with head": "and factorized 7x7",
    "Inception-v3 with head": "Inception-v3",
}
WIDTHS = {f"width {wide}": f"width {narrow}" for narrow, wide in ((0.25, 0.375), (0.375, 0.5), (0.5, 0.75))}
NEWER = "BN-Inception", "Inception-v3", "Inception-ResNet-v2"
RECIPES = {f"{network} today": f"{network} 2014" for network in ("GoogLeNet", *NEWER)}
RECIPES["Inception-ResNet-v2 2014"] = "GoogLeNet today"  # the newest network with the old recipe, and the reverse
DATA_SETS = "5 labels", "100 labels", "skewed"
FINETUNED = {f"{data} whole network": f"{data} from scratch" for data in DATA_SETS}
FINETUNED |= {f"{data} recipe": f"{data} whole network" for data in DATA_SETS}
FINETUNED |= {
    "skewed recipe with balanced sampler": "skewed recipe",
    **dict.fromkeys(("100 labels from scratch", "skewed from scratch"), ""),
}
STUDIES = {
    "rates": Study(draw=None, table=table_of_rates, page="claims"),
    "block_swap": Study("parallel", draw=heat_map),
    "factorization": Study("5x5", timed=True),
    "batchnorm_rate": Study(draw=None, table=table_of_rates, page="batchnorm"),
    "batchnorm": Study("V1", draw=curves, curves=True),
    "residual_rate": Study(draw=None, table=table_of_rates, page="residual"),
    "residual": Study("V4", draw=curves, curves=True, compare_curves=True),
    "residual_scale": Study(draw=None, table=table_of_deaths, page="residual"),
    "reduction": Study("convolutions beside the pool"),
    "low_resolution": Study("32 px"),
    "v3_ablation_rate": Study(draw=None, table=table_of_rates, page="v3_ablation"),
    "v3_ablation": Study("GoogLeNet", V3_LINES, pooled=True),
    "width": Study("width 0.125", WIDTHS, draw=by_cost, pooled=True, page="channels"),
    "tricks_rate": Study(draw=None, table=table_of_rates, page="tricks"),
    "tricks": Study("GoogLeNet 2014", RECIPES, draw=by_recipe, pooled=True),
    "imbalance": Study("nothing"),
    "finetune_tuning": Study(draw=None, table=table_of_rates, page="finetune"),
    "finetune_rate": Study(draw=None, table=table_of_rates, page="finetune"),
    "finetune": Study("5 labels from scratch", FINETUNED),
    "cost_rate": Study(draw=None, table=table_of_rates, page="cost"),
    "cost": Study("GoogLeNet with BatchNorm", draw=by_cost, pooled=True, timed=True),
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
