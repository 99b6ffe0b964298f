"""`inception-zoo report`: one page of many runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def report_runs(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="runs, sweeps, or folders above them: outputs")],
    out: Annotated[Path, typer.Option(help="the page; it needs no network and no other file")] = Path("report.html"),
) -> None:
    """One page of many runs: leaderboard over seeds, curves, cost, what varies, comparison, the mistakes of each run."""
    from inception_zoo.report.page import write_report

    said = write_report(folders, out, lambda line: print(f"warning: {line}", file=sys.stderr))
    print(f"report: {out} ({said})", file=sys.stderr)
