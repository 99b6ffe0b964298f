"""Memory of training: bytes saved for the backward pass, peak memory of a process, and the largest batch that fits."""

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
from inception_zoo.system.terminal import tell

RECOMPUTED = (0.0, 0.25, 1.0)  # shares of a peer's blocks: with PyTorch's checkpointing, memory is a choice of blocks


def measure(options: Options) -> Measured:
    """Measure bytes saved for the backward pass, peak memory of real steps, and the speed of each memory mode."""
    for name, case in options.cases().items():
        if case.net.norm != "batch" and not options.networks:  # without BatchNorm, lean has nothing to recompute
            continue
        every = _contenders(case)
        for each in every:
            count = saved_bytes(each.build(case), case.images(3).to(device(), memory_format=each.layout))
            yield f"memory/{name}/saved/{_label(each)}", Figure("bytes/image", [count])
        for each in every:
            yield f"memory/{name}/peak/{_label(each)}", Figure("bytes", [peak(case, each)])
        turns = {_label(each): each.trains(case) for each in every}
        yield from contested(f"memory/{name}/speed", turns, options.rounds)


def _contenders(case: Case) -> list[Contender]:
    """Return our network in each memory mode, and the tuned peers, which recompute none, some or all of their blocks."""
    peers = [each for each in contenders(case) if each.library != OURS and each.tuned]
    return [*map(of_mode, MEMORY), *(replace(each, recompute=share) for each in peers for share in RECOMPUTED)]


def _label(contender: Contender) -> str:
    """Return the memory mode of our network, or the library of a peer; only tuned peers are measured."""
    if contender.library == OURS:
        return str(contender.choices.get("memory", "plain"))
    return contender.library + (f" recomputing {contender.recompute:.0%}" if contender.recompute else "")


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes per image that autograd saves for the backward pass.

    Each storage counts once. Memory that does not grow with the batch (weights, statistics) does not count.

    Args:
        model: any network, in training mode.
        images: batch (N, C, H, W) with N of at least 3.
    """
    fewer = images[:-1].clone(memory_format=torch.preserve_format)  # a slice would share the storage of the whole batch
    return _saved(model, images) - _saved(model, fewer)


def _saved(model: nn.Module, images: Tensor) -> int:
    sizes: list[int] = []
    with counting(sizes.append):
        model(images)
    return sum(sizes)


def peak(case: Case, contender: Contender) -> int:
    """Run two training steps in a new process and return its peak memory in bytes; on a GPU, the peak that torch allocated.

    Raises:
        ZooError: the process failed or was killed.
    """
    words = {"name": case.name, "batch": case.batch, "image_size": case.image_size, "contender": asdict(contender)}
    command = [sys.executable, "-m", "inception_zoo.bench.memory", json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = "killed" if done.returncode < 0 else (done.stderr.strip() or "failed").splitlines()[-1]
        raise ZooError(f"{case.name}, {contender.label}, batch {case.batch}: {why}")
    return int(done.stdout.split()[-1])


def largest_batch(fits: Callable[[int], bool]) -> int:
    """Return the largest batch for which `fits` is true, by doubling and then bisection; 0 if one image does not fit."""
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
    """Yield (label, largest batch) whose training steps stay within `gib` GiB, for each memory mode and tuned peer.

    Args:
        name: network of the zoo, or the tutorial's.
        gib: memory limit in GiB.
        image_size: pixels; None: the network's usual input.

    Raises:
        ZooError: the network is unknown, cannot take such images, or failed for another reason than memory.
    """
    case = case_of(name, image_size=image_size)
    for contender in _contenders(case):

        def fits(batch: int, contender: Contender = contender) -> bool:
            try:
                taken = peak(replace(case, batch=batch), contender)
            except ZooError as error:
                if "out of memory" in str(error) or "allocate" in str(error) or "killed" in str(error):
                    return False
                raise
            tell(f"{_label(contender)}, batch {batch}: {taken / 2**30:.2f} GiB")
            return taken <= gib * 2**30

        yield _label(contender), largest_batch(fits)


def memory_of_device() -> int:
    """Return the bytes of memory of the GPU; without one, of this machine."""
    if device().type == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _child(name: str, batch: int, image_size: int, contender: dict) -> None:
    turn = Contender(**contender).trains(case_of(name, batch, image_size))
    for _ in range(2):  # the first step creates the optimizer's state
        turn()
    tell(peak_memory(device()), stdout=True)


if __name__ == "__main__":
    _child(**json.loads(sys.argv[1]))
