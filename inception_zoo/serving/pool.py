"""Processes that share the images of a command."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from inception_zoo.errors import ZooError

SHARE = 256  # images that a process works on at a time, at most

S = TypeVar("S")
T = TypeVar("T")


def in_processes(
    paths: Sequence[Path], processes: int, network: S, open_network: Callable[[], S], work: Callable[[S, Sequence[Path]], T]
) -> Iterator[T]:
    """Yield the result of `work` for one share of the images after the other, in their order.

    Args:
        paths: Image files.
        processes: Processes that share the images; 1: this process.
        network: The network of this process.
        open_network: Function that opens the network in a worker process; picklable.
        work: Function of a network and a share of the images; picklable. It returns arrays: each tensor would need a file
            descriptor.

    Raises:
        ZooError: A process was killed.
    """
    size = min(SHARE, max(1, math.ceil(len(paths) / processes)))
    shares = [paths[start : start + size] for start in range(0, len(paths), size)]
    processes = min(processes, len(shares))
    if processes <= 1:
        yield from (work(network, share) for share in shares)
        return
    threads = max(1, torch.get_num_threads() // processes)
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), _start, (threads, open_network)) as pool:
            yield from pool.map(_work, [work] * len(shares), shares)
    except BrokenProcessPool:
        raise ZooError(f"--processes {processes}: a process was killed, perhaps for lack of memory; use fewer") from None


_network: list[Any] = []  # of a worker process


def _start(threads: int, open_network: Callable[[], Any]) -> None:
    logging.disable()  # the first process has logged the notes on the weights
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # as `cli.main` does
    torch.set_num_threads(threads)
    _network.append(open_network())


def _work(work: Callable[[Any, Sequence[Path]], T], paths: Sequence[Path]) -> T:
    return work(_network[0], paths)
