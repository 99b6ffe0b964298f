"""`inception-zoo dashboard`: the W&B workspace of a project."""

from pathlib import Path
from typing import Annotated

import typer


def write_workspace(
    entity: Annotated[str | None, typer.Option(help="user or team; your default one when left out")] = None,
    project: Annotated[str, typer.Option(help="as logger.wandb.project")] = "inception_zoo",
    out: Annotated[Path, typer.Option(help="the workspace as JSON, where nobody is logged in")] = Path("dashboard.json"),
) -> None:
    """Build the W&B workspace of a project: learning, speed, errors, and the jobs of a sweep compared."""
    from inception_zoo.tracking.dashboard import write_dashboard

    print(write_dashboard(entity, project, out))
