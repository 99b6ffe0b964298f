"""Which of a job's processes this is, and what they agree on before they can talk to each other."""

import os
from collections import Counter
from functools import cache
from typing import Any

_asked: Counter[str] = Counter()


def is_first() -> bool:
    """Whether this process is the one that speaks and writes for its job: rank 0."""
    names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


def by_torchrun() -> bool:
    """Whether torchrun started this process: then every rank composes the config by itself."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def agreed(key: str, value: str) -> str:
    """What rank 0 says, where torchrun has started the processes; else `value`: one process decides for its job.

    All processes must ask for the same keys in the same order.
    """
    if not by_torchrun():
        return value
    _asked[key] += 1
    name = f"inception_zoo/{os.environ['TORCHELASTIC_RESTART_COUNT']}/{key}/{_asked[key]}"
    if is_first():
        _torchruns_store().set(name, value)
    return _torchruns_store().get(name).decode()


def meet_anew() -> None:
    """Let the processes that torchrun started meet at a port of this job's own: at torchrun's they can meet only once."""
    if by_torchrun():
        from lightning.fabric.plugins.environments.lightning import find_free_network_port

        port = agreed("port", str(find_free_network_port()))
        os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}


@cache
def _torchruns_store() -> Any:
    from torch.distributed import TCPStore

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
