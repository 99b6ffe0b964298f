"""The page of the results: README.md with every table, and its pictures, made from results.json alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from inception_zoo.bench.results import Results
from inception_zoo.bench.roofline import CONCAT, GPU_BATCH, H100, OPTIMIZER, PASSES
from inception_zoo.bench.scaling import lines
from inception_zoo.bench.sections import SECTIONS
from inception_zoo.bench.tables import COLUMNS, TARGET_COLUMNS, markdown, number, provenance_line, rows, target_rows
from inception_zoo.bench.targets import Target
from inception_zoo.bench.turns import Figures

NAMES = {
    "googlenet_bn": "GoogLeNet",
    "inception_v3": "Inception-v3",
    "inception_v4": "Inception-v4",
    "inception_resnet_v2_slim": "Inception-ResNet-v2",
}
ROOFS = {"fp32": "-", "bf16": "--"}
INK, OURS, SHIPPED, TUNED = "#263238", "#1e88e5", "#cfd8dc", "#90a4ae"
ASSUMED = f"""Projections are no measurements. A step of training on one GPU is bounded layer by layer: a convolution takes
its FLOPs (three products of 2 x multiply-adds) at {H100.flops / 1e12:.0f} TFLOP/s bf16 or its bytes (each
product reads and writes its maps and weights once, 2 bytes a number) at {H100.bandwidth / 1e12:.2f} TB/s,
whichever is more; BatchNorm and ReLU pass over each map {PASSES} times, concatenations {CONCAT} times, the
optimizer moves {OPTIMIZER} bytes a weight. Pools, losses and the data pipeline cost nothing. The network is
taken to reach the same share of its bound as it was measured to reach here, at a batch of {GPU_BATCH} a GPU.
Gradients are summed in fp32 by rings, {H100.node / 1e9:.0f} GB/s each way within a node of {H100.node_size} and
{H100.network / 1e9:.0f} GB/s a GPU between nodes, hidden behind the backward pass (two thirds of a step) as far
as that goes, or not at all. The peaks are the vendor's figures: 989 TFLOP/s bf16 dense, 3.35 TB/s, NVLink 900
GB/s, InfiniBand 400 Gb/s."""


READ = (
    "Ratios are medians of rounds taken in turns A B A B; of several peers the worst counts. In the tables below, the last "
    "column divides what is ours by each line: more than 1 is good for us where that is a speed, less than 1 where it is time "
    "or memory. Each section says where and when it was measured."
)


def write_page(results: Results, targets: Sequence[Target], folder: Path) -> None:
    """Write README.md and the pictures of the measured sections into `folder`."""
    figures = results.figures
    text = ["# Benchmarks", "", "Made by `inception-zoo bench --page` from `results.json`; do not edit.", ""]
    if targets:
        text += ["## Targets", "", markdown(TARGET_COLUMNS, target_rows(targets, figures)), ""]
    text += [READ, ""]
    for section in SECTIONS:
        every = list(rows(figures, section))
        if not every:
            continue
        text += [f"## {section}", ""]
        if draw := PICTURES.get(section):
            with matplotlib.rc_context({"svg.hashsalt": section}):
                figure = draw(figures)
            if figure:
                figure.savefig(folder / f"{section}.svg", metadata={"Date": None})
                text += [f"![{section}]({section}.svg)", ""]
        if section == "scaling":
            text += [markdown(("axis", "cost: a step in s, or MiB", "departs by more than 10 % at"), _laws(figures)), ""]
        text += [markdown(COLUMNS, every), ""]
        if section == "roofline":
            text += [" ".join(ASSUMED.split()), ""]
        runs = sorted({results.run_of[name] for name in figures if name.startswith(f"{section}/")})
        text += [*(f"{provenance_line(results.runs[number])}." for number in runs), ""]
    (folder / "README.md").write_text("\n".join(text))


def _laws(figures: Figures) -> list[tuple[str, ...]]:
    return [
        (name, str(line), "nowhere" if line.departs is None else f"{line.departs:g} and below") for name, line in lines(figures)
    ]


def _axes(count: int, lines: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = -(-count // lines)
    figure = Figure(figsize=(3.4 * columns, 3.2 * lines), layout="constrained", facecolor="white")
    axes = [figure.add_subplot(lines, columns, number + 1) for number in range(count)]
    for each in axes:
        each.grid(alpha=0.3)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bars(figures: Figures, section: str) -> Any:
    """Images/s of each network, and of each way to serve it, a bar for each contender."""
    found: dict[str, dict[str, Any]] = {}
    for key, each in figures.items():
        group, _, label = key.removeprefix(f"{section}/").rpartition("/")
        if key.startswith(f"{section}/") and each.unit == "images/s":
            found.setdefault(group, {})[label] = each
    if not found:
        return None
    figure, axes = _axes(len(found), lines=-(-len(found) // 5))
    for each, (group, bars) in zip(axes, found.items(), strict=True):
        how, _, name = group.rpartition("/")
        colours = [OURS if label == "inception_zoo" else TUNED if label.endswith("tuned") else SHIPPED for label in bars]
        heights = [bar.median for bar in bars.values()]
        off = [
            [bar.median - min(bar.values) for bar in bars.values()],
            [max(bar.values) - bar.median for bar in bars.values()],
        ]
        drawn = each.barh(list(bars), heights, xerr=off, color=colours, ecolor=INK)
        each.bar_label(drawn, [number(height, "") for height in heights], label_type="center", color=INK, fontsize=8)
        each.invert_yaxis()
        each.set(title=", ".join(filter(None, [NAMES.get(name, name), how])), xlabel="images/s")
    return figure


def _memory(figures: Figures) -> Any:
    names = [name for name in NAMES if any(key.startswith(f"memory/{name}/saved/") for key in figures)]
    if not names:
        return None
    figure, axes = _axes(len(names))
    for each, name in zip(axes, names, strict=True):
        prefix = f"memory/{name}/saved/"
        bars = {key.removeprefix(prefix): figure.median / 2**20 for key, figure in figures.items() if key.startswith(prefix)}
        colours = [OURS if label in ("plain", "lean", "minimal") else TUNED for label in bars]
        drawn = each.barh(list(bars), list(bars.values()), color=colours)
        each.bar_label(drawn, [number(size, "") for size in bars.values()], padding=2, color=INK, fontsize=8)
        each.margins(x=0.15)
        each.invert_yaxis()
        each.set(title=NAMES[name], xlabel="MiB per image saved for backward")
    return figure


def _scaling(figures: Figures) -> Any:
    every = dict(lines(figures))
    if not every:
        return None
    figure, axes = _axes(len(every), lines=2)
    for each, (name, line) in zip(axes, every.items(), strict=True):
        xs = list(line.points)
        each.plot(xs, list(line.points.values()), "o", color=OURS)
        each.plot(xs, [line.at(x) for x in xs], color=INK, linewidth=0.8)
        if line.law == "power":
            each.set(xscale="log", yscale="log")
            each.set_xticks(xs, [f"{x:g}" for x in xs], minor=False, fontsize=7)
            each.set_xticks([], minor=True)
            each.yaxis.set_major_formatter("{x:.3g}")
            each.yaxis.set_minor_formatter("{x:.3g}")
        each.set_title(f"{name}\n{line}", fontsize=8)
        each.set_ylabel("seconds of a step" if line.unit == "s" else "MiB")
        each.tick_params(axis="y", which="both", labelsize=7)
    return figure


def _roofline(figures: Figures) -> Any:
    bandwidth = figures.get("roofline/peak/bandwidth")
    if not bandwidth:
        return None
    figure, (axes,) = _axes(1)
    figure.set_size_inches(7, 4)
    peaks = {key.rpartition("/")[2]: each.median for key, each in figures.items() if each.unit == "FLOP/s"}
    xs = [2.0 ** (power / 16) for power in range(-16, 161)]
    for name, peak in peaks.items():
        roof = [min(peak, x * bandwidth.median) / 1e9 for x in xs]
        axes.plot(xs, roof, ROOFS[name], color=INK, linewidth=1, label=f"{name} GEMM peak, copy bandwidth")
    most = max(peaks.values())
    for key, intensity in figures.items():
        group, _, label = key.rpartition("/")
        reached = figures.get(f"{group}/reached")
        if label == "intensity" and reached and reached.share is not None:
            axes.plot(intensity.median, reached.share * most / 1e9, "o", label=group.removeprefix("roofline/"))
    axes.set(xscale="log", yscale="log", xlabel="FLOPs for each byte of a training step", ylabel="GFLOP/s")
    axes.legend(frameon=False, fontsize=8, loc="center right")
    return figure


PICTURES: Mapping[str, Any] = {
    "training": lambda figures: _bars(figures, "training"),
    "evaluation": lambda figures: _bars(figures, "evaluation"),
    "memory": _memory,
    "scaling": _scaling,
    "roofline": _roofline,
}
