"""What a job prints: on a narrow terminal, in an encoding without box characters, and in a log file."""

import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL
from tools.commands import environment

from inception_zoo.runs.results import read_results
from inception_zoo.training.callbacks import ModelSummary


def test_the_output_fits_eighty_columns_of_ascii(zoo):
    done = zoo(*SMALL, "logger=csv", fresh=True, env={"COLUMNS": "80", "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    assert text.isascii() and "\\u" not in text and "\x1b" not in text
    assert "site-packages" not in text and "Warning" not in text and "FLOPs" not in text
    printed = [line for line in done.stdout.splitlines() if not line.startswith("[")]  # log lines may be longer
    assert max(map(len, printed)) <= 80
    (last,) = [line for line in printed if line.startswith("Epoch")]
    assert re.search(r"it/s loss: \d\.\d+ val: \d\.\d+$", last.rstrip())


@pytest.mark.parametrize("frozen", [False, True])
def test_the_summary_counts_what_is_trained(frozen, capsys):
    rows = [(" ", ["0", "1"]), ("Name", ["model", "val"]), ("Type", ["Inception", "Evaluation"]), ("Params", ["26.1 K", "0"])]
    ModelSummary.summarize(rows, 26_100, 0 if frozen else 26_100, 0.1, {}, 0)
    printed = capsys.readouterr().out
    assert "Inception" in printed and "Evaluation" not in printed
    assert f"{'0' if frozen else '26.1 K'} of 26.1 K parameters are trained, 0.1 MB in fp32" in printed


def test_a_training_whose_output_is_closed_records_why_it_ended(tmp_path):
    run = [sys.executable, str(ROOT / "run.py"), *SMALL, "logger=none", "hydra.run.dir=run"]
    with subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        process.stdout.readline()
        process.stdout.close()
        printed = process.stderr.read().decode()
    assert process.returncode != 0 and "Traceback" not in printed and "Logging error" not in printed
    results = read_results(tmp_path / "run")
    assert (results["state"], results["reason"]) == ("interrupted", "the output was closed (broken pipe)")


@pytest.mark.slow
def test_a_training_whose_terminal_is_lost_saves(tmp_path):
    words = [*SMALL, "logger=none", "hydra.run.dir=run", "trainer.max_epochs=99", "trainer.limit_train_batches=40"]
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, [sys.executable, str(ROOT / "run.py"), *words], environment())
    printed = b""
    while b"Epoch" not in printed:
        printed += os.read(terminal, 4096)
    os.close(terminal)  # the kernel sends SIGHUP, and each write to the terminal fails
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 128 + signal.SIGHUP
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    assert read_results(tmp_path / "run")["state"] == "interrupted"
