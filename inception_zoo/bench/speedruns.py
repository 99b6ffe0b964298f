"""Seconds from the start of a process to a test accuracy, compared with ten epochs of the tutorial."""

import time
from datetime import datetime
from functools import partial
from pathlib import Path

import torch

from inception_zoo.bench.contenders import CASES, Contender
from inception_zoo.bench.framework import run_job
from inception_zoo.bench.options import Options
from inception_zoo.bench.sections import SPEEDRUNS
from inception_zoo.bench.turns import Figure, Measured, rates
from inception_zoo.runs.results import read_results

EPOCHS, IMAGES = 10, 60_000  # of the tutorial
TURNS = 3  # timed training steps of the tutorial after each seed


def measure(experiment: str, options: Options) -> Measured:
    """Measure the time and accuracy of one run per round, with the round as its seed; time the tutorial after each run.

    The tutorial's time counts its training steps alone. Its data pipeline and evaluation are not counted, in its favour.
    The runs are stored in ``outputs/bench/DATE/EXPERIMENT/SEED``.

    Args:
        experiment: name in conf/experiment.
        options: rounds and data folder.
    """
    started = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    tutorial = {"": Contender("d2l", tuned=False).trains(CASES["tutorial"])}
    ours, theirs, accuracies = [], [], []
    for seed in range(1, options.rounds + 1):
        folder = Path("outputs/bench", started, experiment, str(seed)).absolute()
        words = f"experiment={experiment}", f"seed={seed}", f"data.root={options.fashion_mnist()}"
        start = time.perf_counter()
        run_job(words, folder, torch.get_num_threads())
        ours.append(time.perf_counter() - start)
        accuracies.append(read_results(folder)["test/top1"])
        theirs.append(EPOCHS * IMAGES / Figure("images/s", rates(tutorial, TURNS)[""]).median)
        # Yield after each seed, so that Ctrl-C does not lose figures.
        yield f"{experiment}/time/inception_zoo", Figure("s", list(ours))
        yield f"{experiment}/time/ten epochs of the tutorial", Figure("s", list(theirs))
        yield f"{experiment}/test accuracy/inception_zoo", Figure("top-1", list(accuracies))


speedrun, speedrun_full, speedrun_937 = (partial(measure, experiment) for experiment in SPEEDRUNS)
