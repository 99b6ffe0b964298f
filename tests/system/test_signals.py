"""The exit status after signals, at any interval, until the interpreter has ended."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, SMALL
from tools import commands

from inception_zoo.runs.results import read_results
from inception_zoo.system.atomic_files import is_whole_zip

SCRIPT = """
import atexit, sys, time
from inception_zoo.system.terminal import end_on_signals, leave
atexit.register(time.sleep, 0.3)
end_on_signals()
try:
    print("ready", flush=True)
    if sys.argv[1] == "done":
        leave(0)
    time.sleep(60)
finally:
    for _ in range(int(sys.argv[2])):
        time.sleep(0.1)
    print("cleaned up", flush=True)
    leave(0)
"""


def ended(*arguments, signals, every):
    """Send the signals, and the last one again and again; return the exit status and the output of the script."""
    signals, command = list(signals), [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout.readline() == b"ready\n"
        while process.poll() is None:
            process.send_signal(signals.pop(0) if len(signals) > 1 else signals[0])
            time.sleep(every)
        return process.returncode, process.stdout.read().decode()


@pytest.mark.parametrize(
    ("signals", "status", "every"),
    [
        (["SIGTERM"], 143, 0.005),
        (["SIGINT"], 130, 0.1),
        (["SIGHUP"], 129, 0.005),
        (["SIGINT", "SIGTERM"], 130, 0.005),
        (["SIGTERM", "SIGINT"], 143, 0.1),
    ],
)
def test_the_first_of_many_signals_decides_the_status_and_the_end_is_not_disturbed(signals, status, every):
    assert ended("wait", 3, signals=[getattr(signal, name) for name in signals], every=every) == (status, "cleaned up\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_after_the_work_does_not_change_the_status(name):
    status, said = ended("done", 0, signals=[getattr(signal, name)], every=0.01)
    assert status in (0, 128 + getattr(signal, name)) and "Traceback" not in said  # it may come before the end of the work


def test_ctrl_c_pressed_three_times_ends_what_hangs():
    begun = time.monotonic()
    status, said = ended("wait", 100, signals=[signal.SIGINT], every=1.2)
    assert (status, said) == (130, "") and time.monotonic() - begun < 8


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="needs signal.sigwaitinfo")
def test_only_its_parent_ends_a_data_worker():
    code = "from inception_zoo.system.terminal import obey_parent; obey_parent(); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        for name in ("TERM", "INT", "HUP"):
            subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)  # from another process
        time.sleep(0.2)
        assert worker.poll() is None
        worker.terminate()
        assert worker.wait(5) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "every", "processes"), [("SIGTERM", 0.1, 1), ("SIGINT", 0.02, 1), ("SIGTERM", 0.1, 2)])
def test_a_training_saves_under_a_rain_of_signals(name, every, processes, tmp_path):
    number, last = getattr(signal, name), tmp_path / "run/checkpoints/last.ckpt"
    words = [word for word in SMALL if word != "trainer=smoke"]
    words += ["trainer.max_epochs=99", "callbacks.last.every_n_steps=5", "logger=none", f"trainer.devices={processes}"]
    words += ["trainer.accelerator=cpu", "trainer.precision=32-true", f"hydra.run.dir={tmp_path}/run"]
    with commands.started([ROOT / "run.py", *words], tmp_path, tmp_path / "log") as process:
        while not last.exists():
            assert process.exitcode is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        while process.exitcode is None:
            os.killpg(process.pid, number)
            time.sleep(every)
    assert process.exitcode == 128 + number
    assert read_results(tmp_path / "run")["state"] == "interrupted" and is_whole_zip(last)
