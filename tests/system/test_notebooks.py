"""The notebooks run from top to bottom, and are stored with their outputs."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count == number for number, cell in enumerate(cells, 1))
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) // 2
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


def test_the_notebooks_are_found():
    assert {path.stem for path in NOTEBOOKS} == {
        "circuits",
        "embeddings",
        "fine_tune",
        "read_a_sweep",
        "recombine",
        "score_images",
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
