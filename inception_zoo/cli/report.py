"""`inception-zoo report`: write an HTML page that compares runs."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.system.terminal import tell


def report_runs(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Runs, sweeps, or folders that contain them.")],
    out: Annotated[Path, typer.Option(help="Page to write, a single file that works offline.")] = Path("report.html"),
) -> None:
    """Write an HTML page that compares runs: leaderboard over seeds, curves, cost, hyperparameters, misclassified images."""
    from inception_zoo.report.page import write_report

    summary = write_report(folders, out, lambda line: tell(f"warning: {line}"))
    tell(f"report: {out} ({summary})")
