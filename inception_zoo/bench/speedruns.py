"""Seconds from the start of a process to a test accuracy, beside ten epochs of the tutorial: the figure that users feel."""

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
TURNS = 3  # of the tutorial's training after each seed


def measure(experiment: str, options: Options) -> Measured:
    """One run for each round, which is its seed; the tutorial's speed is measured after each, in the same minutes.

    The tutorial's time is that of its training steps alone: its data pipeline and its evaluation are a present to it.
    The runs stay in ``outputs/bench/DATE/EXPERIMENT/SEED``.
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
        # After each seed, so that what was measured before Ctrl-C is kept.
        yield f"{experiment}/time/inception_zoo", Figure("s", list(ours))
        yield f"{experiment}/time/ten epochs of the tutorial", Figure("s", list(theirs))
        yield f"{experiment}/test accuracy/inception_zoo", Figure("top-1", list(accuracies))


speedrun, speedrun_full, speedrun_937 = (partial(measure, experiment) for experiment in SPEEDRUNS)
