"""Memory of training: what autograd keeps for the backward pass, what a process takes, what batch fits."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from inception_zoo.architecture.choices import MEMORY
from inception_zoo.bench.contenders import OURS, Case, Contender, case_of, contenders, device, of_mode
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Figure, Measured, contested
from inception_zoo.describe.saved_bytes import counting
from inception_zoo.errors import ZooError
from inception_zoo.system.devices import peak_memory


def measure(options: Options) -> Measured:
    """Bytes saved for the backward pass, peak memory of a real step, and what the memory modes cost in time."""
    for name, case in options.cases().items():
        if case.net.norm != "batch" and not options.networks:  # lean has nothing to recompute in the tutorial's
            continue
        every = _contenders(case)
        for each in every:
            count = saved_bytes(each.build(case), case.images(3).to(device(), memory_format=each.layout))
            yield f"memory/{name}/saved/{_label(each)}", Figure("bytes/image", [count])
        for each in every:
            yield f"memory/{name}/peak/{_label(each)}", Figure("bytes", [peak(case, each)])
        turns = {mode: of_mode(mode).trains(case) for mode in MEMORY}
        yield from contested(f"memory/{name}/speed", turns, options.rounds)


def _contenders(case: Case) -> list[Contender]:
    """Return ours in each memory mode, and the tuned peers."""
    return [*map(of_mode, MEMORY), *(each for each in contenders(case) if each.library != OURS and each.tuned)]


def _label(contender: Contender) -> str:
    """Memory is told in fp32 and in one layout; "plain" is our default."""
    return str(contender.choices.get("memory", "plain")) if contender.library == OURS else contender.library


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps of each image for the backward pass, of any network in training.

    Each storage counts once. What does not grow with the batch (weights, statistics) does not count.

    Args:
        images: a batch (N, C, H, W) of at least three.
    """
    fewer = images[:-1].clone(memory_format=torch.preserve_format)  # a slice would keep the storage of all
    return _saved(model, images) - _saved(model, fewer)


def _saved(model: nn.Module, images: Tensor) -> int:
    sizes: list[int] = []
    with counting(sizes.append):
        model(images)
    return sum(sizes)


def peak(case: Case, contender: Contender) -> int:
    """Most bytes that two training steps take, in a process of their own; of a GPU, what torch allocated there."""
    words = {"name": case.name, "batch": case.batch, "image_size": case.image_size, "contender": asdict(contender)}
    command = [sys.executable, "-m", "inception_zoo.bench.memory", json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = "killed" if done.returncode < 0 else (done.stderr.strip() or "failed").splitlines()[-1]
        raise ZooError(f"{case.name}, {contender.label}, batch {case.batch}: {why}")
    return int(done.stdout.split()[-1])


def largest_batch(fits: Callable[[int], bool]) -> int:
    """By doubling, then bisection; 0 if not even one image fits."""
    if not fits(1):
        return 0
    low = 1
    while fits(2 * low):
        low *= 2
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fit(name: str, gib: float, image_size: int | None = None) -> Iterator[tuple[str, int]]:
    """The largest batch of each memory mode, and of the tuned peers, whose training step stays within `gib` GiB."""
    case = case_of(name, image_size=image_size)
    for contender in _contenders(case):

        def fits(batch: int, contender: Contender = contender) -> bool:
            try:
                taken = peak(replace(case, batch=batch), contender)
            except ZooError as error:
                if "out of memory" in str(error) or "allocate" in str(error) or "killed" in str(error):
                    return False
                raise
            print(f"{_label(contender)}, batch {batch}: {taken / 2**30:.2f} GiB", file=sys.stderr)
            return taken <= gib * 2**30

        yield _label(contender), largest_batch(fits)


def memory_of_device() -> int:
    """Bytes of the GPU, or of this machine."""
    if device().type == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _child(name: str, batch: int, image_size: int, contender: dict) -> None:
    turn = Contender(**contender).trains(case_of(name, batch, image_size))
    for _ in range(2):  # the optimizer's state is there from the second on
        turn()
    print(peak_memory(device()))


if __name__ == "__main__":
    _child(**json.loads(sys.argv[1]))
