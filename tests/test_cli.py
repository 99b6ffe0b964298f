import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "inception_zoo.cli"]


def call(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=None)


def test_list_shows_the_published_figures():
    done = call("list")
    assert done.returncode == 0
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert rows["inception_v3"] == ["21.2", "/", "5.6", "23.83", "27.16", "5.71", "299", "75/39/21"]
    assert rows["bn_inception"][3:6] == ["11.30", "–", "2.03"]


def test_bench_times_us_and_the_peer_in_one_run():
    done = call("bench", "inception_v4", "--image-size", "96", "--batch", "2", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ") for line in done.stdout.splitlines() if "inception_zoo" in line or "timm" in line]
    assert [row[0].split()[0] for row in rows] == ["train", "train", "train", "eval", "eval", "eval"]
    assert all(float(row[-1]) > 0 for row in rows) and rows[0][-1].strip() == "1.00"


@pytest.mark.parametrize("arguments", [["bench", "inception_v5"], ["lst"]])
def test_mistakes_end_in_status_2(arguments):
    done = call(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
