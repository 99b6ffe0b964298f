"""The rank of this process, and values that all ranks share before they can communicate."""

import os
from collections import Counter
from functools import cache
from typing import Any

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
    name = f"inception_zoo/{os.environ['TORCHELASTIC_RESTART_COUNT']}/{key}/{_asked[key]}"
    if is_first():
        _torchruns_store().set(name, value)
    return _torchruns_store().get(name).decode()


def meet_anew() -> None:
    """Choose a new port for the ranks that torchrun started, because torchrun's port can be used only once."""
    if by_torchrun():
        from lightning.fabric.plugins.environments.lightning import find_free_network_port

        port = agreed("port", str(find_free_network_port()))
        os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}


@cache
def _torchruns_store() -> Any:
    from torch.distributed import TCPStore

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
