"""Console output: users' text is printed unchanged, and tables fit a terminal of eighty columns."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import rich
from conftest import ROOT
from lightning.pytorch.callbacks.progress.rich_progress import CustomProgress
from rich.progress import Progress, TextColumn
from typer.testing import CliRunner

from inception_zoo import create_model
from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.preprocessing import HALF, Preprocessing
from inception_zoo.cli.main import app
from inception_zoo.serving.export import file_table
from inception_zoo.system.terminal import console
from inception_zoo.training.callbacks import ProgressBar
from inception_zoo.training.summary import print_summary

NAME = "runs [x]/[/bold] :rocket: [red]cat[/red]"


def test_text_of_users_is_printed_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    model = create_model("googlenet", 2, width=0.25, aux=False)
    model.classes, model.preprocessing = ["[x]", ":rocket: [/]"], Preprocessing(32, *HALF, resize=32)
    results = {"image_size": 32, "minutes": 1.0, "started": "2026-01-01T00:00:00+00:00"}
    print_summary(model.plan, plan_cost(model.plan, 32), results, Path("/tmp") / NAME, None)
    (tmp_path / "[x].onnx").touch()
    console().print(file_table(model, tmp_path / "[x].onnx", 0.0))
    printed = capsys.readouterr().out
    assert NAME in printed and "2: [x], :rocket: [/]" in printed and "[x].onnx" in re.sub(r"\s", "", printed)


def test_every_console_is_made_in_one_place():
    makers = [path for path in (ROOT / "inception_zoo").rglob("*.py") if "Console(" in path.read_text(encoding="utf-8")]
    assert makers == [ROOT / "inception_zoo/system/terminal.py"]


@pytest.mark.parametrize(
    "words", [["list"], ["describe", "inception_v4"], ["describe", "--diff", "googlenet_bn", "inception_v3"]]
)
def test_tables_fit_a_terminal_of_eighty_columns(words, monkeypatch):
    for terminal in (True, False):
        monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
        done = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
        lines = re.sub(r"\x1b\[[\d;]*m", "", done.output).splitlines()
        assert done.exit_code == 0
        assert (max(map(len, lines)) <= 80) == terminal  # a file has whole rows
        assert not [line for line in lines if re.search(r"\d…|[a-z_]…", line)]  # nothing is cut
    assert "one 3x3" in done.output or "--diff" in words or "list" in words


def test_the_progress_bar_fits_eighty_columns(monkeypatch, tmp_path):
    wide = console(markup=True, width=80, force_terminal=True)
    for place in ("inception_zoo.training.callbacks.get_console", "rich.get_console"):
        monkeypatch.setattr(place, lambda: wide)
    columns = ProgressBar(str(tmp_path)).configure_columns(SimpleNamespace())
    progress = CustomProgress(*columns, TextColumn("loss: 2.264 val: 0.712"), auto_refresh=False, console=rich.get_console())
    task = Progress.add_task(progress, "Epoch 10/299", total=1200)
    Progress.update(progress, task, completed=1000)
    progress.tasks[0].start_time = progress.get_time() - 3727
    with wide.capture() as captured:
        wide.print(progress.get_renderable())
    (line,) = captured.get().splitlines()
    assert "1000/1200" in line and "val: 0.712" in line
