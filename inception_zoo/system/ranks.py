"""The rank of this process, and values that all ranks share before they can communicate."""

import os
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import cache
from typing import Any
from uuid import uuid4

from inception_zoo.errors import ZooError

SECONDS = 300  # in which rank 0 must choose a value
_asked: Counter[str] = Counter()


def is_first() -> bool:
    """Return True if this process has rank 0, which prints and writes files for its job."""
    names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def local_rank() -> int:
    """Return the rank of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


def process_name() -> str:
    """Return a name for this process among the processes of a job, such as `rank1`, for its log file."""
    names = {"RANK": "rank", "SLURM_PROCID": "rank", "NODE_RANK": "machine", "LOCAL_RANK": "rank"}
    return next(f"{word}{os.environ[name]}" for name, word in names.items() if name in os.environ)


def by_torchrun() -> bool:
    """Return True if torchrun started this process. Then every rank composes the config itself."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def agreed(key: str, value: str) -> str:
    """Return rank 0's value on all ranks if torchrun started them; otherwise return `value`, as one process decides.

    Args:
        key: Name of the value. All ranks must ask for the same keys in the same order.
        value: Value of this process; only rank 0's is used.
    """
    if not by_torchrun():
        return value
    _asked[key] += 1
    name = f"inception_zoo/{_start()}/{key}/{_asked[key]}"
    if is_first():
        _torchruns_store().set(name, value)
    return _waited(name)


def meet_anew() -> None:
    """Choose a new port for the ranks that torchrun started, because torchrun's port can be used only once."""
    if by_torchrun():
        from lightning.fabric.plugins.environments.lightning import find_free_network_port

        port = agreed("port", str(find_free_network_port()))
        os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}


def is_elastic() -> bool:
    """Return True if torchrun restarts the job when a process or a machine is lost."""
    return by_torchrun() and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"


def machines() -> int | None:
    """Return the number of machines on which torchrun or SLURM has started this job; None if neither has."""
    if by_torchrun():
        return int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])
    return int(os.environ["SLURM_NNODES"]) if "SLURM_NNODES" in os.environ else None


@cache
def _torchruns_store() -> Any:
    """Return a connection to the store of torchrun, or to rank 0's if torchrun does not share its own."""
    from torch.distributed import TCPStore

    mine = is_first() and os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=mine, wait_for_workers=False)


@cache
def _start() -> str:
    """Return a name of this start of the ranks, the same on all of them.

    torchrun keeps its store when it restarts them, and counts the restarts on each machine for itself. So each rank asks
    with a name of its own, and rank 0 answers until all have asked.
    """
    mine = uuid4().hex
    if is_first():
        threading.Thread(target=_answer, args=[_torchruns_store().clone(), mine], daemon=True).start()
        return mine
    store, rank = _torchruns_store(), os.environ["RANK"]
    store.set(f"inception_zoo/asks/{rank}", mine)
    start = _waited(f"inception_zoo/answer/{mine}")
    store.set(f"inception_zoo/{start}/knows/{rank}", "")
    return start


def _answer(store: Any, start: str) -> None:
    """Tell each rank that asks the name of this start, until all know it; a rank of an earlier start may have asked, too."""
    left = list(range(1, int(os.environ["WORLD_SIZE"])))
    with suppress(RuntimeError):  # the store ends before this process
        while left:
            for rank in left:
                if store.check([asking := f"inception_zoo/asks/{rank}"]):
                    store.set(f"inception_zoo/answer/{store.get(asking).decode()}", start)
            left = [rank for rank in left if not store.check([f"inception_zoo/{start}/knows/{rank}"])]
            time.sleep(0.2)


def _waited(name: str) -> str:
    """Return a value of torchrun's store that rank 0 sets. The wait is in Python, where signals are handled.

    Raises:
        ZooError: rank 0 has not set it in time, or the store has ended.
    """
    until = time.monotonic() + SECONDS
    with suppress(RuntimeError):
        while time.monotonic() < until:
            if _torchruns_store().check([name]):
                return _torchruns_store().get(name).decode()
            time.sleep(0.05)
    raise ZooError("rank 0 has ended, or cannot be reached, before the job began; its own message says why")
