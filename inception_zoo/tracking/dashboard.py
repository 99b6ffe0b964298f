"""The W&B workspace of a project as code, with panels for everything that a run logs."""

from pathlib import Path
from typing import Any

from inception_zoo.errors import ZooError, check_installed, one_line
from inception_zoo.system.atomic_files import write_whole
from inception_zoo.tracking.service import STEP

PARAMETERS, MULTIPLY_ADDS = "parameters", "multiply_adds"
BEST = "val/top1_best"


def write_dashboard(entity: str | None, project: str, out: Path) -> str:
    """Save the workspace to W&B, or write its JSON to `out` without a login.

    Args:
        entity: user or team; None: the user's default.
        project: name of the W&B project.
        out: path of the JSON file.

    Returns:
        Message about the result, and the next step if there was no login.

    Raises:
        ZooError: wandb-workspaces is not installed, W&B refuses the workspace, or `out` cannot be written.
    """
    check_installed("wandb_workspaces", "dashboard", "inception-zoo dashboard")
    import wandb

    try:
        if wandb.login(prompt=False):
            entity = entity or wandb.Api().default_entity
            return f"workspace: {workspace(entity or '', project).save().url}"
    except Exception as error:  # connection, API key or project
        raise ZooError(f"W&B refused the workspace of {project}: {one_line(error)}") from error
    write_whole(out.resolve(), as_json(entity or "", project))
    return f"workspace: {out}; not logged in to W&B: run `wandb login` or set WANDB_API_KEY, then repeat this command"


def as_json(entity: str, project: str) -> str:
    """Return the workspace as JSON."""
    return workspace(entity, project)._to_model().model_dump_json(indent=1, by_alias=True, exclude_none=True)


def workspace(entity: str, project: str) -> Any:
    """Build the workspace, a `wandb_workspaces.workspaces.Workspace`.

    Args:
        entity: user or team.
        project: name of the W&B project.
    """
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.reports.v2 import interface as wr

    def lines(title: str, *metrics: str, **more: Any) -> Any:
        return wr.LinePlot(title=title, x=STEP, y=list(metrics), **more)

    def against(key: str, title: str) -> Any:
        return wr.ScatterPlot(title=title, x=key, y=BEST, log_x=True)

    def column(key: str | wr.Config, name: str, **more: Any) -> Any:
        return wr.ParallelCoordinatesPlotColumn(key, display_name=name, **more)

    learning = [
        lines("loss", "train/loss_step", "train/loss", "val/loss"),
        lines("top-1", "train/top1", "val/top1"),
        lines("top-5", "train/top5", "val/top5"),
        lines("loss of auxiliary heads", metric_regex="train/aux_loss/.*"),
        lines("learning rate", metric_regex="lr-.*"),
        lines("gradient norm before clipping", "train/gradient_norm", log_y=True),
        wr.MediaBrowser(title="first training images", media_keys=["train/images"]),
        wr.MediaBrowser(title="network", media_keys=["network"]),
    ]
    speed = [lines("images per second", "train/images_per_second"), lines("peak memory, GiB", "train/peak_memory_gib")]
    comparison = [
        wr.ParallelCoordinatesPlot(
            title="hyperparameters and accuracy",
            columns=[
                column(wr.Config("model.name"), "network"),
                column(wr.Config("optimizer.lr"), "learning rate", log=True),
                column(PARAMETERS, "parameters", log=True),
                column(MULTIPLY_ADDS, "multiply-adds", log=True),
                column(BEST, "best validation top-1"),
            ],
        ),
        wr.ParameterImportancePlot(with_respect_to=BEST),
        against(PARAMETERS, "validation top-1 by parameters"),
        against(MULTIPLY_ADDS, "validation top-1 by multiply-adds"),
        wr.RunComparer(diff_only="split"),
    ]
    sections = {"training": learning, "speed": speed, "evaluation": _errors(wr, lines), "sweep comparison": comparison}
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Inception",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis=STEP),
    )


def _errors(wr: Any, lines: Any) -> list[Any]:
    return [
        wr.BarPlot(title="test top-1", metrics=["test/top1"]),
        wr.BarPlot(title="test macro accuracy", metrics=["test/macro"]),
        wr.BarPlot(title="test calibration error", metrics=["test/ece"]),
        lines("validation macro accuracy", "val/macro"),
        lines("validation calibration error", "val/ece"),
        wr.CustomChart(
            query={"summaryTable": {"tableKey": "test/confusion_table"}},
            chart_name="wandb/confusion_matrix/v1",
            chart_fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
            chart_strings={"title": "confusion matrix"},
        ),
        wr.CustomChart(
            query={"summaryTable": {"tableKey": "test/calibration_table"}},
            chart_name="wandb/lineseries/v0",
            chart_fields={name: name for name in ("step", "lineKey", "lineVal")},
            chart_strings={"title": "calibration", "xname": "confidence"},
        ),
        wr.WeavePanelSummaryTable(table_name="test/per_class"),
        wr.WeavePanelSummaryTable(table_name="test/worst"),
    ]
