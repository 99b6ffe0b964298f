"""Measure convolutions by their number of channels, and write the page's table and picture.

python experiments/channels.py measure    # → experiments/results/channels.csv (two minutes)
python experiments/channels.py write      # that file → experiments/channels.md and .svg
"""

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from claims import HERE, RESULTS, load, replace_results, text
from scipy.stats import bootstrap
from summary import machine

from inception_zoo.bench.turns import rates
from inception_zoo.runs.results import commit_of_the_code
from inception_zoo.system.csv_files import write_table

ROUNDS, BATCH, SIDE = 25, 32, 14
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
GROUPS = {
    "powers of 2": (64, 128),
    "other multiples of 32": (96, 160),
    "other multiples of 16": (80, 112, 144),
    "other multiples of 8": (72, 88, 104, 120, 136, 152),
    "other multiples of 4": (68, 84, 100, 116, 132, 148),
    "other even numbers": (66, 98, 126, 130),
    "odd numbers": (65, 97, 127, 129),
}
ROUND_NUMBERS = tuple(range(32, 193, 32))  # 32 and 192 only bound the interpolation


def measure() -> None:
    """Time a training step of a 3x3 convolution for each number of channels, in interleaved rounds."""
    every = sorted({*ROUND_NUMBERS, *(n for group in GROUPS.values() for n in group)})
    rows = []
    for name, precision in PRECISIONS.items():
        found = rates({str(n): _step(n, precision) for n in every}, ROUNDS)
        rows += [[name, n, index, rate / 1e9] for n, values in found.items() for index, rate in enumerate(values)]
    facts = [commit_of_the_code() or "", date.today().isoformat(), machine()]
    header = ["precision", "channels", "round", "gflops", "commit", "day", "machine"]
    write_table(RESULTS / "channels.csv", header, [[*row, *facts] for row in rows])


def _step(channels: int, precision: torch.dtype) -> Callable[[], float]:
    """Return a function that runs forward and backward once and returns the FLOPs."""
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False, dtype=precision)
    layer = layer.to(memory_format=torch.channels_last)
    shape = BATCH, channels, SIDE, SIDE
    x, gradient = (torch.randn(shape, dtype=precision).to(memory_format=torch.channels_last) for _ in range(2))
    x.requires_grad_()

    def step() -> float:
        layer(x).backward(gradient)
        return 3 * 2 * BATCH * SIDE**2 * 9 * channels**2

    return step


def by_channels(precision: str) -> dict[int, np.ndarray]:
    """Return GFLOP/s of each round, by number of channels."""
    found = defaultdict(list)
    for row in load("channels"):
        if row["precision"] == precision:
            found[int(row["channels"])].append(float(row["gflops"]))
    return {channels: np.array(values) for channels, values in sorted(found.items())}


def relative(found: dict[int, np.ndarray], group: Sequence[int]) -> np.ndarray:
    """Return for each round the mean rate of a group, relative to the line between its neighbours among the multiples of 32."""
    ratios = []
    for n in group:
        below, above = max(m for m in ROUND_NUMBERS if m < n), min(m for m in ROUND_NUMBERS if m > n)
        share = (n - below) / (above - below)
        ratios.append(found[n] / ((1 - share) * found[below] + share * found[above]))
    return np.mean(ratios, axis=0)


def table() -> Iterator[Sequence[str]]:
    """Yield the rows of the page's table."""
    found = {name: by_channels(name) for name in PRECISIONS}
    yield ["channels", "numbers", *(f"{name}: relative speed" for name in PRECISIONS)]
    for title, group in GROUPS.items():
        cells = []
        for each in found.values():
            ratios = relative(each, group)
            interval = bootstrap([ratios], np.median, rng=0).confidence_interval
            cells.append(f"{np.median(ratios):.2f} ({interval.low:.2f} to {interval.high:.2f})")
        yield [title, ", ".join(map(str, group)), *cells]


def write() -> None:
    """Write table and picture."""
    rows = load("channels")
    facts = "; ".join("; ".join(sorted({row[key] for row in rows})) for key in ("day", "commit", "machine"))
    replace_results(HERE / "channels.md", "channels", text(table(), f"{ROUNDS} interleaved rounds; {facts}."))
    draw()


def draw() -> None:
    """Draw the median rate by number of channels."""
    figure, pair = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    for axes, name in zip(pair, PRECISIONS, strict=True):
        found = by_channels(name)
        median = {n: statistics.median(values) for n, values in found.items()}
        line = [n for n in ROUND_NUMBERS if n in median]
        axes.plot(line, [median[n] for n in line], color="lightgrey", zorder=0)
        for (title, group), marker in zip(GROUPS.items(), "oosDv^x", strict=True):
            axes.plot(group, [median[n] for n in group], marker, markersize=5, label=title)
        axes.set(title=name, xlabel="channels", ylabel="GFLOP/s", xlim=(56, 168), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    pair[1].legend(frameon=False, fontsize=7)
    figure.savefig(HERE / "channels.svg", metadata={"Date": None})


if __name__ == "__main__":
    matplotlib.use("Agg")
    plt.rcParams["svg.hashsalt"] = "channels"  # equal results give an equal file
    commands = {"measure": measure, "write": write}
    commands[sys.argv[1]]()
