"""Learning rate against progress. Each: (optimizer, steps in all, steps per epoch, ...) → scheduler, stepped per batch."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR


def one_cycle(optimizer: Optimizer, steps: int, epoch_steps: int, warmup: float = 0.25, **options: Any) -> LRScheduler:
    """Up to the optimizer's rate in the share `warmup` of all steps, then down to nearly nothing (arXiv 1708.07120)."""
    rates = [group["lr"] for group in optimizer.param_groups]
    # The scheduler is stepped once before the first batch and once after the last.
    return OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=warmup, **options)


def cosine(optimizer: Optimizer, steps: int, epoch_steps: int, warmup_epochs: float = 1.0) -> LRScheduler:
    """Linear warmup over `warmup_epochs`, at most half of all steps, then half a cosine to zero."""
    warmup = min(round(warmup_epochs * epoch_steps), steps // 2)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, steps: int, epoch_steps: int) -> LRScheduler:
    """The optimizer's rate, always."""
    return LambdaLR(optimizer, lambda step: 1.0)
