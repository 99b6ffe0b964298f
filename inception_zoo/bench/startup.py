"""Seconds that a user waits for the help, for an import, and for the first training step of `make run`."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import inception_zoo
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Figure, Measured, in_turns
from inception_zoo.config.targets import VARIABLE
from inception_zoo.errors import ZooError

CHECKOUT = Path(inception_zoo.__file__).parent.parent
RUN = [sys.executable, *([str(CHECKOUT / "run.py")] if (CHECKOUT / "run.py").exists() else ["-m", "inception_zoo.app"])]


def measure(options: Options) -> Measured:
    """Measure ``startup/COMMAND`` in seconds; each command runs in a new process."""
    data = options.fashion_mnist()
    contest = {
        "run.py --help": _command(*RUN, "--help"),
        "run.py --cfg job": _command(*RUN, "--cfg", "job"),
        "import torch": _command(sys.executable, "-c", "import torch"),
        "import inception_zoo": _command(sys.executable, "-c", "import inception_zoo"),
        "import create_model": _command(sys.executable, "-c", "from inception_zoo import create_model"),
        "first step of make run": lambda: _making_sure() + _first_step(data),
    }
    found = in_turns(contest, options.rounds)
    for label, values in found.items():
        yield f"startup/{label}", Figure("s", values)
    beyond = [ours - torch for ours, torch in zip(found["import create_model"], found["import torch"], strict=True)]
    yield "startup/import create_model beyond torch", Figure("s", beyond)


def _command(*words: str) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(words, cwd=folder, capture_output=True, check=True)
        return time.perf_counter() - start

    return seconds


def _making_sure() -> float:
    """Return the seconds of `make data`, which `make run` calls first; 0 if the checkout's environment is not installed."""
    if subprocess.run(["make", "-q", ".venv/.installed"], cwd=CHECKOUT, capture_output=True).returncode:
        return 0.0
    start = time.perf_counter()
    subprocess.run(["make", "data"], cwd=CHECKOUT, capture_output=True, check=True)
    return time.perf_counter() - start


def _first_step(data: Path) -> float:
    """Return the seconds from the start of `make run`'s command to the end of its first training step; it ends there."""
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "mark"
        target = "inception_zoo.bench.framework.FirstStep"
        callback = [f"+callbacks.first._target_={target}", f"+callbacks.first.mark={mark}"]
        words = ["experiment=quickstart", f"data.root={data}", *callback]
        environment = {**os.environ, VARIABLE: target}
        start = time.time()
        done = subprocess.run([*RUN, *words], cwd=folder, env=environment, capture_output=True, text=True)
        if not mark.exists():
            raise ZooError(f"run.py {' '.join(words)}: {(done.stderr.strip() or 'ended').splitlines()[-1]}")
        return mark.stat().st_mtime - start
