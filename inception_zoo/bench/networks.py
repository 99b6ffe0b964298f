"""Images per second of training and of evaluation, ours beside the peers, and what training spends outside convolutions."""

import os
from collections.abc import Callable

from torch.autograd.profiler import profile

from inception_zoo.bench import serving
from inception_zoo.bench.contenders import Case, Contender, contenders, device
from inception_zoo.bench.machine import with_share
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Figure, Measured, contested, in_turns, seconds_of

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler writes two lines to stderr for each of its runs

PRODUCTS = ("aten::mm", "aten::addmm")  # a 1x1 convolution may be one


def training(options: Options) -> Measured:
    for name, case in options.cases().items():
        every = {each.label: each for each in contenders(case)}
        turns = {label: each.trains(case) for label, each in every.items()}
        yield from _with_shares(f"training/{name}", case, every, turns, options.rounds)
        tuned = {label: _outside(turns[label]) for label, each in every.items() if each.tuned}
        for label, values in in_turns(tuned, options.rounds).items():
            yield f"training/{name} outside convolutions/{label}", Figure("s/image", values)


def evaluation(options: Options) -> Measured:
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
    """A turn that returns its seconds per image, less those that the profiler counts in convolutions and in matrix products.

    Not the sum of the other operators: the profiler does not see kernels that are called in other ways.
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
