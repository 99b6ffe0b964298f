"""What a sweep ends with: one table of its jobs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "val/top1_best": ("val top-1", "{:.4f}", 1),
    "test/top1": ("test top-1", "{:.4f}", 1),
    "parameters": ("params, M", "{:.2f}", 1e6),
    "multiply_adds": ("mult-adds, M", "{:,.0f}", 1e6),
    "train/images_per_second": ("images/s", "{:,.0f}", 1),
    "minutes": ("min", "{:.1f}", 1),
}


class SweepTable(Callback):
    """After `-m`: every job with its network, what was swapped in it, the other keys that vary, and its results.

    Hydra makes one at the start of every job, so what prints loads only at the end of a sweep.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from rich.console import Console

        folder = Path(config.hydra.sweep.dir)
        jobs = {path.parent: json.loads(path.read_text()) for path in folder.glob("*/results.json")}
        if jobs:
            Console(width=max(Console().width, 140)).print(sweep_table(jobs))
            print(f"sweep folder: {folder}")


def sweep_table(jobs: dict[Path, dict[str, Any]]) -> "Table":
    """Jobs, by run folder → results, in the order of their numbers."""
    from rich import box
    from rich.table import Table

    folders = sorted(jobs, key=lambda folder: (len(folder.name), folder.name))
    keys = {folder: _overrides(folder) for folder in folders}
    varying = [key for key in keys[folders[0]] if len({keys[folder].get(key) for folder in folders}) > 1]
    shown = [key for key in COLUMNS if any(key in results for results in jobs.values())]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("job", "model", "swapped", *varying):
        table.add_column(name, no_wrap=True)
    for key in shown:
        table.add_column(COLUMNS[key][0], justify="right", no_wrap=True)
    for folder in folders:
        results = jobs[folder]
        figures = [COLUMNS[key][1].format(results[key] / COLUMNS[key][2]) if key in results else "" for key in shown]
        words = (keys[folder].get(key, "") for key in varying)
        table.add_row(folder.name, results["model"], results["swapped"] or "–", *words, *figures)
    return table


def _overrides(folder: Path) -> dict[str, str]:
    """A job's own words, but for those that its model and what is swapped say already."""
    words: Any = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
    pairs = (word.partition("=") for word in words)
    return {key: value for key, _, value in pairs if key not in ("model", "block") and not key.startswith("model.blocks.")}
