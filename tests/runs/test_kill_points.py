"""A command that is killed before any change of a file leaves no half file, and ends as usual when it is run again.

`make test-faults FAULTS=--kill-points` tries more points.
"""

from pathlib import Path

import pytest
from tools import kill_points
from tools.kill_points import COMMANDS, Bench, contents, judged, left_in, page, spread

POINTS = {"fit": 12, "sweep.resume": 10}  # a training takes seconds


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("kills"))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_was_killed_leaves_whole_files_and_goes_on(name, bench):
    verdicts = list(judged(bench, name, POINTS.get(name, 8), jobs=1))
    assert len(verdicts) >= 3
    assert [f"{each.event}: {fault}" for each in verdicts for fault in each.faults] == []


def test_half_files_and_temporary_files_are_found(tmp_path):
    """A check that finds nothing would prove nothing."""
    whole = {"results.json": '{"a": 1}', "table.csv": "a,b\n1,2\n", "page.html": "<html></html>\n", "config.yaml": "a: 1\n"}
    for name, text in whole.items():
        (tmp_path / name).write_text(text)
    assert contents(tmp_path)[1] == [] and left_in(tmp_path) == []
    for name, text in whole.items():
        (tmp_path / name).write_text(text[:5] if name != "config.yaml" else "")
    for name in ("last.ckpt", "net.safetensors", "net.onnx", "net.pt2", "worst.png"):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
    (tmp_path / ".net.onnx.a1b2c3d4.onnx").touch()
    (tmp_path / "chunks.partial-a1b2c3d4").mkdir()
    named = {fault.split(" ")[0] for fault in contents(tmp_path)[1]}
    assert named == {*whole, "last.ckpt", "net.safetensors", "net.onnx", "net.pt2", "worst.png"}
    assert left_in(tmp_path) == [".net.onnx.a1b2c3d4.onnx", "chunks.partial-a1b2c3d4"]


def test_a_spread_has_the_first_and_last_change_of_each_file():
    events = ["create a", *["append log"] * 50, "create b", "rename a > c"]
    assert spread(events, 60) == list(range(1, 54))
    few = spread(events, 6)
    assert len(few) == 6 and {1, 2, 51, 52, 53} < set(few)


def test_the_page_keeps_its_other_parts():
    text = page("# Faults\n\ntable\n\n## Kill points\n\nearlier\n", [("`fit`", 70, 60, 0, 0, 0)])
    assert text.startswith("# Faults\n\ntable\n\n## Kill points\n") and "\nearlier" not in text
    assert "| `fit` | 70 | 60 | 0 | 0 | 0 |" in text
    assert kill_points.HEADING in Path(kill_points.__file__).with_name("faults.py").read_text()  # which keeps this part
