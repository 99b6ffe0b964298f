"""Random seeds that depend only on the position in a run: a resumed run draws the same numbers as an uninterrupted one."""

import hashlib
import random
from functools import cache

import numpy as np
import torch


def seed_all(*place: int | str) -> None:
    """Seed the generators of Python, NumPy and torch, on every device, with a place such as (seed, rank, epoch, batch)."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=4).digest()  # similar places get unrelated seeds
    number = int.from_bytes(digest)
    random.seed(number)
    np.random.seed(number)
    # Without an accelerator, torch.manual_seed stores the call and a traceback for each possible device: they accumulate.
    seed = torch.manual_seed if _has_accelerator() else torch.default_generator.manual_seed
    seed(number)


@cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()  # cached: it asks the driver each time
