"""Measure convolutions by their number of channels, and write the page's table and picture.

python experiments/channels.py measure    # → experiments/results/channels.csv (three minutes)
python experiments/channels.py write      # that file → experiments/channels.md and .svg
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import product

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
KERNELS = 1, 3
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
GROUPS = {
    "powers of 2": (64, 128, 256),
    "other multiples of 32": (96, 160, 192, 224),
    "other multiples of 16": (80, 112, 144, 176),
    "other multiples of 8": (72, 88, 104, 120, 136, 152),
    "other multiples of 4": (68, 84, 100, 116, 132, 148),
    "other even numbers": (66, 98, 126, 130),
    "odd numbers": (65, 97, 127, 129),
}


def measure() -> None:
    """Time a training step of a 1x1 and a 3x3 convolution for each number of channels, in interleaved rounds."""
    every = sorted(n for group in GROUPS.values() for n in group)
    rows = []
    for (name, precision), kernel in product(PRECISIONS.items(), KERNELS):
        found = rates({str(n): _step(n, kernel, precision) for n in every}, ROUNDS)
        rows += [[name, kernel, n, index, rate / 1e9] for n, values in found.items() for index, rate in enumerate(values)]
    facts = [commit_of_the_code() or "", date.today().isoformat(), machine()]
    header = ["precision", "kernel", "channels", "round", "gflops", "commit", "day", "machine"]
    write_table(RESULTS / "channels.csv", header, [[*row, *facts] for row in rows])


def _step(channels: int, kernel: int, precision: torch.dtype) -> Callable[[], float]:
    """Return a function that runs forward and backward once and returns the FLOPs."""
    layer = torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False, dtype=precision)
    layer = layer.to(memory_format=torch.channels_last)
    shape = BATCH, channels, SIDE, SIDE
    x, gradient = (torch.randn(shape, dtype=precision).to(memory_format=torch.channels_last) for _ in range(2))
    x.requires_grad_()

    def step() -> float:
        layer(x).backward(gradient)
        x.grad = layer.weight.grad = None
        return 3 * 2 * BATCH * SIDE**2 * kernel**2 * channels**2

    return step


def measured(precision: str, kernel: int) -> dict[int, np.ndarray]:
    """Return GFLOP/s of each round, by number of channels."""
    found = defaultdict(list)
    for row in load("channels"):
        if (row["precision"], int(row["kernel"])) == (precision, kernel):
            found[int(row["channels"])].append(float(row["gflops"]))
    return {channels: np.array(values) for channels, values in sorted(found.items())}


def relative(found: dict[int, np.ndarray], group: Sequence[int]) -> np.ndarray:
    """Return for each round the mean rate of a group, relative to a smooth curve through the multiples of 8.

    The curve is a parabola of the logarithm of the rate over the logarithm of the channels, fitted in each round.
    """
    eights = [n for n in found if n % 8 == 0]
    curve = np.polyfit(np.log(eights), np.log([found[n] for n in eights]), 2)
    each = [np.log(found[n]) - np.array([np.polyval(line, np.log(n)) for line in curve.T]) for n in group]
    return np.exp(np.mean(each, axis=0))


def table() -> Iterator[Sequence[str]]:
    """Yield the rows of the page's table."""
    yield ["channels", "numbers", *(f"{kernel}x{kernel} {name}" for name, kernel in product(PRECISIONS, KERNELS))]
    for title, group in GROUPS.items():
        cells = []
        for name, kernel in product(PRECISIONS, KERNELS):
            ratios = relative(measured(name, kernel), group)
            interval = bootstrap([ratios], np.median, method="percentile", rng=0).confidence_interval
            cells.append(f"{np.median(ratios):.2f} ({interval.low:.2f} to {interval.high:.2f})")
        yield [title, ", ".join(map(str, group)), *cells]


def results() -> str:
    """Return the text between the markers of the page."""
    rows = load("channels")
    facts = "; ".join("; ".join(sorted({row[key] for row in rows})) for key in ("day", "commit", "machine"))
    return text(table(), f"{ROUNDS} interleaved rounds; {facts}.")


def write() -> None:
    """Write table and picture."""
    replace_results(HERE / "channels.md", "channels", results())
    draw()


def draw() -> None:
    """Draw the median rate by number of channels."""
    figure, grid = plt.subplots(2, 2, figsize=(8.4, 6), layout="constrained", sharex=True)
    for axes, (name, kernel) in zip(grid.flat, product(PRECISIONS, KERNELS), strict=True):
        found = measured(name, kernel)
        for (title, group), marker in zip(GROUPS.items(), "oosDv^x", strict=True):
            axes.plot(group, [np.median(found[n]) for n in group], marker, markersize=5, label=title)
        axes.set(title=f"{kernel}x{kernel} {name}", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("GFLOP/s")
    for axes in grid[1]:
        axes.set_xlabel("channels")
    grid[1, 1].legend(frameon=False, fontsize=7)
    figure.savefig(HERE / "channels.svg", metadata={"Date": None})


if __name__ == "__main__":
    matplotlib.use("Agg")
    plt.rcParams["svg.hashsalt"] = "channels"  # equal results give an equal file
    commands = {"measure": measure, "write": write}
    commands[sys.argv[1]]()
