"""Randomness that follows from where a run is, and from nothing before: a run that goes on draws what it would have drawn."""

import hashlib
import random
from functools import cache

import numpy as np
import torch


def seed_all(*place: int | str) -> None:
    """Seed Python's, NumPy's and torch's generators, on every device, by a place such as (seed, rank, epoch, batch)."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=4).digest()  # neighbours get unrelated seeds
    number = int.from_bytes(digest)
    random.seed(number)
    np.random.seed(number)
    # Without an accelerator torch.manual_seed notes the call and a traceback for each kind there might be, and keeps them.
    seed = torch.manual_seed if _has_accelerator() else torch.default_generator.manual_seed
    seed(number)


@cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()  # which asks the driver each time
