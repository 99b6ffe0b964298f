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
    paths: Sequence[Path], processes: int, own: S, opened: Callable[[], S], work: Callable[[S, Sequence[Path]], T]
) -> Iterator[T]:
    """Yield the result of `work` for one share of the images after the other, in their order.

    Args:
        paths: Image files.
        processes: Processes that share the images; 1: this process.
        own: The network, as this process has opened it.
        opened: Open it in another process. It must be picklable, as `work`.
        work: Map the network and a share of the images to a result. Return arrays, not tensors, which would need a file
            descriptor each on their way back.

    Raises:
        ZooError: A process was killed.
    """
    size = min(SHARE, max(1, math.ceil(len(paths) / processes)))
    shares = [paths[start : start + size] for start in range(0, len(paths), size)]
    processes = min(processes, len(shares))
    if processes <= 1:
        yield from (work(own, share) for share in shares)
        return
    threads = max(1, torch.get_num_threads() // processes)
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), _start, (threads, opened)) as pool:
            yield from pool.map(_work, [work] * len(shares), shares)
    except BrokenProcessPool:
        raise ZooError(f"--processes {processes}: a process was killed, perhaps for lack of memory; use fewer") from None


_own: list[Any] = []  # of a process of the pool


def _start(threads: int, opened: Callable[[], Any]) -> None:
    logging.disable()  # the first process has logged the notes on the weights
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # as `cli.main` does
    torch.set_num_threads(threads)
    _own.append(opened())


def _work(work: Callable[[Any, Sequence[Path]], T], paths: Sequence[Path]) -> T:
    return work(_own[0], paths)
