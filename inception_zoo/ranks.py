"""Which of a job's processes this is, and what they agree on before they can talk to each other."""

import os
from collections import Counter

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
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)  # torchrun's own
    _asked[key] += 1
    name = f"inception_zoo/{os.environ['TORCHELASTIC_RESTART_COUNT']}/{key}/{_asked[key]}"
    if is_first():
        store.set(name, value)
    return store.get(name).decode()
