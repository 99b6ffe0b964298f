"""What a job prints: on a narrow terminal, in an encoding without box characters, and in a log file."""

import re

import pytest
from conftest import SMALL

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
    assert re.search(r"it/s val: \d\.\d+$", last.rstrip())


@pytest.mark.parametrize("frozen", [False, True])
def test_the_summary_counts_what_is_trained(frozen, capsys):
    rows = [(" ", ["0", "1"]), ("Name", ["model", "val"]), ("Type", ["Inception", "Evaluation"]), ("Params", ["26.1 K", "0"])]
    ModelSummary.summarize(rows, 26_100, 0 if frozen else 26_100, 0.1, {}, 0)
    printed = capsys.readouterr().out
    assert "Inception" in printed and "Evaluation" not in printed
    assert f"{'0' if frozen else '26.1 K'} of 26.1 K parameters are trained, 0.1 MB in fp32" in printed
