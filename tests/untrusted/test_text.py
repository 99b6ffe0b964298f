"""Untrusted text and secrets in all that leaves a process: terminal, pipes, logs, results, CSVs."""

import ast
import io
import json
import logging
import os
import re
import signal
import sys
import time
import traceback
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import rich.text
import torch
from conftest import ROOT, SMALL, processes_of
from omegaconf import OmegaConf
from rich.progress import track
from rich.table import Table
from tools import commands
from tools.hostile_text import CONTROLS, FORBIDDEN, FORMS, FORMULAS, NORMAL, PROPERTIES, SECRET

from inception_zoo import redaction
from inception_zoo.architecture.card import Card
from inception_zoo.architecture.decision import Decision
from inception_zoo.errors import ZooError, say
from inception_zoo.report.collect import read_confusion
from inception_zoo.runs.results import _write, reason_of
from inception_zoo.runs.sweeps import write_results
from inception_zoo.serving.predict import WRITERS, Listing, Prediction
from inception_zoo.system.csv_files import write_rows
from inception_zoo.system.records import save_redacted
from inception_zoo.system.terminal import console, data_output, guard_output, tell, tell_json


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that calls others with streams as an entry point makes them, and returns what they wrote."""
    monkeypatch.setattr(rich.text, "strip_control_codes", rich.text.strip_control_codes)
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    monkeypatch.setattr(redaction, "_learned", set())

    def written(*called):
        raw = io.BytesIO()
        with monkeypatch.context() as patched:
            for name in ("stdout", "stderr"):
                patched.setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", write_through=True))
            guard_output()
            for call in called:
                call()
            said = raw.getvalue().decode()
            for name in ("stdout", "stderr"):
                getattr(sys, name).detach()
        return said

    return written


def printed(terminal, sink, texts):
    return terminal(*(partial(PRINTED[sink], text) for text in texts))


def raised(text):
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


def logged(text):
    handler = logging.StreamHandler(sys.stdout)
    handler.handle(redaction._record("x", logging.WARNING, __file__, 1, "at %s", (text,), raised(text)))


def table(text):
    made = Table(title=text, caption=text)
    made.add_column(text)
    made.add_row(text)
    console(width=30).print(made, text)


def warned(text):
    sys.stderr.write(warnings.formatwarning(UserWarning(text), UserWarning, "x.py", 1, ""))  # pytest records warnings


PRINTED = {
    "print": print,
    "tell": tell,
    "JSON": lambda text: tell_json({"class": text, "list": [text]}),
    "error": lambda text: say([text]),
    "log": logged,
    "warning": warned,
    "last words": lambda text: redaction._say(*raised(text)),
    "traceback": lambda text: traceback.print_exception(*raised(text)),
    "lines": lambda text: sys.stderr.writelines([text, "\n"]),
    "table": table,
    "progress": lambda text: list(track([1], text, console=console(force_terminal=True, width=60))),
}
WRITTEN = {
    "results.json": lambda text, folder: _write(folder, {"reason": reason_of(ValueError(text)), "x": [text]}),
    "YAML": lambda text, folder: save_redacted(OmegaConf.create({"data": {"root": text}}), folder / "config.yaml"),
}
CURSOR = re.compile(r"\x1b\[[0-?]*[@-~]")  # of Rich


@pytest.mark.parametrize("sink", PRINTED)
def test_what_is_printed_holds_no_secret(sink, terminal):
    said = printed(terminal, sink, [text.format(SECRET) for text in FORMS.values()])
    said = re.sub(r"\s|[─━│╷╵]", "", CURSOR.sub("", said))
    assert "***" in said and "horse" not in said and "correct" not in said


@pytest.mark.parametrize("sink", WRITTEN)
@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_holds_no_secret(sink, form, tmp_path):
    WRITTEN[sink](FORMS[form].format(SECRET), tmp_path)
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "***" in written and "horse" not in written and "correct" not in written


@pytest.mark.parametrize("sink", PRINTED)
def test_untrusted_text_cannot_control_the_terminal(sink, terminal):
    said = printed(terminal, sink, CONTROLS.values())
    if sink == "progress":
        said = CURSOR.sub("", said).replace("\r", "")
        assert "\x1b" not in said
    kept = CURSOR.sub("", said).replace("\r", "") if sink in ("print", "warning", "traceback", "lines") else said
    assert not FORBIDDEN.search(kept)
    assert "x9b" in said or "u009b" in said


@pytest.mark.parametrize("sink", sorted(PRINTED.keys() - {"JSON", "progress"}))
def test_normal_text_stays_readable(sink, terminal):
    said = printed(terminal, sink, NORMAL)
    assert not [text for text in NORMAL if text not in said]


def test_json_stays_exact(terminal):
    content = {"token": None, "access_key": True, "names": [*CONTROLS.values()]}
    assert json.loads(terminal(lambda: tell_json(content))) == content


def test_the_stream_behaves_as_before(terminal):
    def same():
        assert (sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.errors) == ("utf-8", False, "inception_zoo.ascii")
        assert sys.stdout.buffer and not sys.stdout.closed and sys.stdout.writable()
        guard_output()
        print("once")

    assert terminal(same) == "once\n"


def test_a_recorder_of_the_output_gets_no_secret(terminal):
    """W&B replaces `write`, calls the one before, and sends what it was given."""
    seen = []

    def recorded():
        before = sys.stdout.write
        sys.stdout.write = lambda text: (before(text), seen.append(text))[0]
        print(FORMS["path"].format(SECRET))

    assert terminal(recorded) == "".join(seen) == "s3:/user:***@bucket/x\n"


def predictions(names):
    return iter([Prediction(name, torch.tensor([0.75, 0.25])) for name in names])


def test_predictions_of_hostile_names(terminal, tmp_path):
    classifier = SimpleNamespace(classes=[CONTROLS["title"], "=HYPERLINK(1)"], decision=Decision())
    names = ["token=abcdef.jpg", "\udc9b.jpg", "=1.jpg"]

    def all_layouts():
        for layout, write in WRITERS.items():
            write(predictions(names), classifier, Listing(top=2), sys.stdout if layout == "table" else data_output())

    said = terminal(all_layouts)
    assert not FORBIDDEN.search(said) and "'=HYPERLINK(1)" in said and said.count("token=abcdef.jpg") == 2
    with (tmp_path / "x.csv").open("w", encoding="utf-8", errors="surrogateescape") as file:
        WRITERS["csv"](predictions(names), classifier, Listing(top=2), file)
    assert b"\n\x9b.jpg,\x1b]0;x\x07,0,0.750000,'=HYPERLINK(1),1,0.250000\n'=1.jpg," in (tmp_path / "x.csv").read_bytes()


@pytest.mark.parametrize("holds", PROPERTIES)
def test_property(holds):
    holds()


def test_numbers_are_no_formulas():
    file = io.StringIO()
    write_rows(file, ["a"], [[-0.5], ["-0.5"], [None], ["-inf"], [-1e-7], ["+3"], [True]], "\n")
    assert file.getvalue().splitlines() == ["a", "-0.5", "-0.5", '""', "-inf", "-1e-07", "+3", "True"]


def test_tables_of_hostile_classes_are_read_as_they_were(tmp_path):
    names = [*FORMULAS, "\udc9b"]
    with (tmp_path / "confusion.csv").open("w", newline="", errors="surrogateescape") as file:
        write_rows(file, ["class", *names], ([name, *[0] * len(names)] for name in names))
    classes, _ = read_confusion(tmp_path / "confusion.csv")
    assert classes == [*FORMULAS, "\\x9b"]  # a page needs Unicode
    write_results(tmp_path, [{"job": "0", "overrides": {"=a": "=1+1"}, "top1": -0.5}])
    assert (tmp_path / "results.csv").read_text() == "job,top1,'=a\n0,-0.5,'=1+1\n"


def test_a_card_with_half_a_character_is_refused():
    model = {"name": "googlenet", "num_classes": 1, "in_channels": 3}
    plain = {"model": model, "preprocessing": None, "provenance": None}
    with pytest.raises(ZooError, match="is corrupt"):
        Card.of({**plain, "classes": ["\ud800"]})
    assert Card.of({**plain, "classes": ["\udc9b"]}).classes == ["\udc9b"]  # a folder with this byte in its name


def calls(name):
    for path in sorted((ROOT / "inception_zoo").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in name:
                yield path.relative_to(ROOT / "inception_zoo").as_posix()


def test_text_leaves_at_few_places():
    assert {*calls(("print",))} == {"errors.py", "redaction.py", "system/terminal.py"}
    assert {*calls(("csv.writer", "csv.DictWriter"))} == {"system/csv_files.py"}


def test_an_error_of_a_library_that_quotes_an_address(zoo, tmp_path):
    done = zoo(*SMALL[1:], "data=stream", "data.root=s3://user:SECRET@bucket/x", "data.num_classes=3", "hydra.run.dir=run")
    assert done.returncode == 2 and "***@bucket" in done.stderr
    assert "SECRET" not in done.stderr + done.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]


def test_killed_ranks_leave_no_secret(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    words = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=99", "hydra.run.dir=run"]
    words.append("+logger.wandb.notes='at s3://user:SECRET@bucket'")
    job = commands._start(
        [str(ROOT / "run.py"), *SMALL, *words],
        tmp_path,
        commands.environment(),
        (os.devnull, tmp_path / "log", tmp_path / "log"),
        leads=True,
    )
    rank = []
    until = time.monotonic() + 120
    while not rank and job.is_alive() and time.monotonic() < until:
        time.sleep(0.05)
        rank = [command for command in processes_of(tmp_path) if b"hydra.job.name=rank1" in command]
    assert rank, (tmp_path / "log").read_text()
    assert b"SECRET" not in rank[0]
    os.killpg(job.pid, signal.SIGKILL)
    job.join()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"SECRET" in path.read_bytes() or path.name == "job.yaml"]
