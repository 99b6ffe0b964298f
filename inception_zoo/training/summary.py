"""Result table at the end of a job."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from inception_zoo.architecture.cost import Cost
from inception_zoo.architecture.decision import LOGGED
from inception_zoo.architecture.plan import Plan
from inception_zoo.runs.results import best_key, minutes_of
from inception_zoo.system.terminal import console

TRAINED = ("train/loss", "train/top1", "val/loss", "val/top1")
TESTED = ("test/loss", "test/top1", "test/top5", "test/macro", "test/ece", "test_raw/top1")


def print_summary(plan: Plan, cost: Cost, results: Mapping[str, Any], folder: Path, ckpt: Path | None) -> None:
    """Print the result table. Its last row is the run folder.

    Args:
        plan: plan of the network.
        cost: cost of the network.
        results: content of results.json.
        folder: the run folder.
        ckpt: the tested checkpoint or weights; None: the weights after training.
    """
    table = Table(title=f"{plan.net.name} at {results['image_size']} px", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # paths are not shortened, so that they can be copied
    if plan.swapped:
        table.add_row("block changes", plan.swapped)
    table.add_row("parameters", f"{cost.params:,}")
    table.add_row("multiply-adds per image", f"{cost.macs / 1e6:,.0f} M")
    usual = {*TESTED, *(f"test/{key}" for key in LOGGED if "test/top1" in results)}  # decisions.csv has the others
    own = [key for key in results if key.startswith("test/") and key not in usual]  # the user's, and those of several labels
    for key in (*TRAINED, best_key(results), *TESTED, *own):
        if key in results:
            table.add_row(key, f"{results[key]:.4f}")
    if "train/images_per_second" in results:
        table.add_row("training speed", f"{results['train/images_per_second']:,.0f} images/s")
    if "stopped_epoch" in results:
        table.add_row("stopped early", f"epoch {results['stopped_epoch']}: {results['stopped_reason']}")
    table.add_row("time", f"{minutes_of(results):.1f} min")
    table.add_row("tested checkpoint", short(ckpt) if ckpt else "–")
    table.add_row("run folder", short(folder))
    console().print(table)


def short(path: Path) -> str:
    """Return the path relative to the current folder if it is inside it, else unchanged."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
