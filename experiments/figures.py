"""Pictures of the studies."""

import math
import statistics
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from paired import shown_p

if TYPE_CHECKING:
    from claims import Results

GRIDS = {"grid28": "14x14", "grid14": "7x7", "grid7": "3x3"}  # with 28 px and the stem `small`


def heat_map(results: "Results") -> Figure:
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


def intervals(results: "Results") -> Figure:
    """Draw each difference with its 95 % interval."""
    differences = results.differences()
    figure, axes = plt.subplots(figsize=(6, 0.8 + 0.35 * len(differences)), layout="constrained")
    for y, each in enumerate(differences.values()):
        axes.errorbar(each.mean, y, xerr=each.half, fmt="o", capsize=3, color="C0" if each.p < 0.05 else "grey")
        axes.text(
            1.01,
            y,
            f"p {shown_p(each)}" if each.p < 0.001 else f"p = {shown_p(each)}",
            va="center",
            fontsize=8,
            transform=axes.get_yaxis_transform(),
        )
    axes.axvline(0, color="black", linewidth=0.8)
    against = results.study.against
    names = [f"{arm}\nagainst {results.compared_with(arm)}" if against else arm for arm in differences]
    axes.set_yticks(range(len(differences)), names, fontsize=8 if against else None)
    axes.set_ylim(len(differences) - 0.5, -0.5)
    label = "points of test top-1, 95 % interval"
    axes.set_xlabel(label if against else f"{label}\nagainst {results.study.reference}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def by_cost(results: "Results") -> Figure:
    """Draw mean and standard deviation of each arm over its training speed; without speeds, over its multiply-adds."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for index, arm in enumerate(results.arms):
        top1 = [100 * value for value in results.of(arm).values()]
        macs = next(float(row["multiply_adds"]) / 1e6 for row in results.rows if row["run_name"] == arm)
        cost = statistics.median(results.speeds[arm]) if results.speeds else macs
        if len(top1) > 1:
            label = f"{arm}, {macs:.0f} M" if results.speeds else arm
            axes.errorbar(
                cost, statistics.mean(top1), statistics.stdev(top1), fmt="o", capsize=3, color=f"C{index}", label=label
            )
    axes.set(
        ylabel="test top-1, %: mean ± sd", xlabel="images/s in training" if results.speeds else "multiply-adds per image, M"
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())  # 200, not 2 x 10^2
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def by_recipe(results: "Results") -> Figure:
    """Draw mean and standard deviation of arms named ``NETWORK RECIPE``: the networks side by side, a line per recipe."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    networks, recipes = (
        list(dict.fromkeys(names)) for names in zip(*(arm.rsplit(" ", 1) for arm in results.arms), strict=True)
    )
    for recipe in recipes:
        top1 = [[100 * value for value in results.of(f"{network} {recipe}").values()] or [math.nan] for network in networks]
        mean, spread = (
            [statistics.mean(values) for values in top1],
            [float(np.std(values, ddof=len(values) > 1)) for values in top1],
        )
        axes.errorbar(range(len(networks)), mean, spread, fmt="o-", capsize=3, label=f"recipe of {recipe}")
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel("test top-1, %: mean ± sd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def curves(results: "Results") -> Figure:
    """Draw validation accuracy and training loss by step: the mean of each arm, between its lowest and its highest run."""
    figure, pair = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, key in zip(pair, ("val/top1", "train/loss_step"), strict=True):
        for index, arm in enumerate(results.arms):
            by_step: dict[int, list[float]] = {}
            for row in results.points:
                if row["run_name"] == arm and row[key]:
                    by_step.setdefault(int(row["step"]), []).append(float(row[key]))
            steps = sorted(by_step)
            low, mean, high = ([of(by_step[step]) for step in steps] for of in (min, statistics.mean, max))
            axes.fill_between(steps, low, high, color=f"C{index}", alpha=0.2, linewidth=0)
            axes.plot(steps, mean, color=f"C{index}", label=arm)
        axes.spines[["top", "right"]].set_visible(False)
    pair[0].set(xlabel="steps", ylabel="validation top-1: mean, lowest, highest seed")
    pair[1].set(xlabel="steps", ylabel="training loss: mean, lowest, highest seed")
    pair[0].legend(frameon=False)
    return figure
