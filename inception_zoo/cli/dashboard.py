"""`inception-zoo dashboard`: create the W&B workspace of a project."""

from pathlib import Path
from typing import Annotated

import typer


def write_workspace(
    entity: Annotated[str | None, typer.Option(help="User or team in W&B. Default: your default entity.")] = None,
    project: Annotated[str, typer.Option(help="Project in W&B, as logger.wandb.project.")] = "inception_zoo",
    out: Annotated[Path, typer.Option(help="JSON file, written if you are not logged in.")] = Path("dashboard.json"),
) -> None:
    """Create the W&B workspace of a project: training, speed, evaluation, and a comparison of a sweep's jobs."""
    from inception_zoo.tracking.dashboard import write_dashboard

    typer.echo(write_dashboard(entity, project, out))
