"""Learning rate against progress. Each: (optimizer, steps in all, steps per epoch, ...) → scheduler, stepped per batch."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR


def one_cycle(
    optimizer: Optimizer,
    steps: int,
    epoch_steps: int,
    warmup: float = 0.25,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
) -> LRScheduler:
    """Up to the optimizer's rate in the share `warmup` of all steps, then down to nearly nothing (arXiv 1708.07120)."""
    rates = [group["lr"] for group in optimizer.param_groups]
    total = steps + 1  # it is stepped once before the first batch and once after the last
    return OneCycleLR(
        optimizer,
        rates,
        total_steps=total,
        pct_start=warmup if warmup * total != 1 else 1.5 / total,  # torch divides by the length of the way up, one step less
        base_momentum=base_momentum,
        max_momentum=max_momentum,
    )


def cosine(optimizer: Optimizer, steps: int, epoch_steps: int, warmup_epochs: float = 1.0) -> LRScheduler:
    """Linear warmup over `warmup_epochs`, at most half of all steps, then half a cosine to zero."""
    warmup = min(round(warmup_epochs * epoch_steps), steps // 2)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return LambdaLR(optimizer, factor)


def exponential(
    optimizer: Optimizer,
    steps: int,
    epoch_steps: int,
    factor: float = 0.94,
    epochs: float = 2.0,
    staircase: bool = True,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """Times `factor` every `epochs`, at once or, without `staircase`, bit by bit; after a linear warmup.

    0.94 every 2 epochs: arXiv 1512.00567, section 8. 0.96 every 8: arXiv 1409.4842, section 6.
    """
    warmup = min(round(warmup_epochs * epoch_steps), steps // 2)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        times = step / (epochs * epoch_steps)
        return factor ** (math.floor(times) if staircase else times)

    return LambdaLR(optimizer, rate)


def constant(optimizer: Optimizer, steps: int, epoch_steps: int) -> LRScheduler:
    """The optimizer's rate, always."""
    return LambdaLR(optimizer, lambda step: 1.0)
