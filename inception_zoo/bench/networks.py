"""Speed of training and evaluation, for our networks and their peers, and training time outside convolutions."""

import os
from collections.abc import Callable

from torch.autograd.profiler import profile

from inception_zoo.bench import serving
from inception_zoo.bench.contenders import Case, Contender, contenders, device
from inception_zoo.bench.machine import with_share
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Figure, Measured, contested, in_turns, seconds_of

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would write two lines to stderr per run

PRODUCTS = ("aten::mm", "aten::addmm")  # a 1x1 convolution may run as a matrix product


def training(options: Options) -> Measured:
    """Measure ``training/NETWORK/CONTENDER`` in images/s, and the seconds per image outside convolutions."""
    for name, case in options.cases().items():
        every = {each.label: each for each in contenders(case)}
        turns = {label: each.trains(case) for label, each in every.items()}
        yield from _with_shares(f"training/{name}", case, every, turns, options.rounds)
        tuned = {label: _outside(turns[label]) for label, each in every.items() if each.tuned}
        for label, values in in_turns(tuned, options.rounds).items():
            yield f"training/{name} outside convolutions/{label}", Figure("s/image", values)


def evaluation(options: Options) -> Measured:
    """Measure ``evaluation/NETWORK/CONTENDER`` in images/s; with the usual options, also the networks as served."""
    for name, case in options.cases().items():
        every = {each.label: each for each in contenders(case)}
        turns = {label: each.evaluates(case) for label, each in every.items()}
        yield from _with_shares(f"evaluation/{name}", case, every, turns, options.rounds)
    if options.are_usual:
        yield from serving.measure(options)


def _with_shares(
    prefix: str, case: Case, every: dict[str, Contender], turns: dict[str, Callable[[], float]], rounds: int
) -> Measured:
    for key, figure in contested(prefix, turns, rounds):
        precision = every[key.rpartition("/")[2]].precision
        yield key, with_share(figure, case.plan, case.image_size, precision, prefix.startswith("training"))


def _outside(turn: Callable[[], float]) -> Callable[[], float]:
    """Return a turn that returns its seconds per image outside convolutions and matrix products.

    These are the total seconds minus those that the profiler counts in convolutions and matrix products. The sum of the
    other operators would be too small: the profiler does not see kernels that are not called as operators.
    """
    gpu = device().type == "cuda"

    def outside() -> float:
        done = 0.0

        def work() -> None:
            nonlocal done
            done = turn()

        with profile(use_device="cuda" if gpu else None, use_kineto=gpu) as profiled:
            seconds = seconds_of(work)
        products = [each for each in profiled.key_averages() if "convolution" in each.key or each.key in PRODUCTS]
        inside = sum(each.self_device_time_total if gpu else each.self_cpu_time_total for each in products) / 1e6
        return (seconds - inside) / done

    return outside
