"""Learning rate schedules. Each function returns a scheduler that is stepped once per optimizer step."""

import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

OURS = ("interval", "monitor")  # options that are Lightning's, not those of a class of torch


def scheduled(call: Callable[..., LRScheduler], optimizer: Optimizer, **known: int) -> dict[str, Any]:
    """Return Lightning's `lr_scheduler` for a function of this module, or for a class such as torch's `StepLR`.

    Args:
        call: function (optimizer, steps, epoch_steps) → scheduler, stepped once per optimizer step; or a class without these
            arguments, stepped once per epoch. As a partial function it may have the options `interval` (`step` or `epoch`)
            and, for `ReduceLROnPlateau`, `monitor` (`val/loss`; with ``mode=max`` `val/top1`).
        optimizer: the optimizer.
        **known: `steps` and `epoch_steps`.
    """
    options = dict(getattr(call, "keywords", {}))
    ours = {key: options.pop(key) for key in OURS if options.get(key)}
    call = partial(getattr(call, "func", call), *getattr(call, "args", ()), **options)
    given = {key: value for key, value in known.items() if key in signature(call).parameters}
    scheduler = call(optimizer, **given)
    if isinstance(scheduler, ReduceLROnPlateau):
        ours.setdefault("monitor", "val/loss" if scheduler.mode == "min" else "val/top1")
    return {"scheduler": scheduler, "interval": "step" if given else "epoch", **ours}


def one_cycle(
    optimizer: Optimizer,
    steps: int,
    epoch_steps: int,
    warmup: float = 0.25,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
) -> LRScheduler:
    """Increase the rate to the optimizer's rate, then decrease it to nearly zero.

    Source: arXiv 1708.07120.

    Args:
        optimizer: the optimizer.
        steps: total number of optimizer steps.
        epoch_steps: optimizer steps per epoch; not used.
        warmup: fraction of the steps in which the rate increases.
        base_momentum: lowest momentum, at the highest rate.
        max_momentum: highest momentum, at the lowest rate.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    total = steps + 1  # stepped once before the first batch and once after the last
    share = warmup if warmup * total != 1 else 1.5 / total  # torch divides by the warmup steps - 1
    return OneCycleLR(optimizer, rates, total, pct_start=share, base_momentum=base_momentum, max_momentum=max_momentum)


def cosine(optimizer: Optimizer, steps: int, epoch_steps: int, warmup_epochs: float = 1.0) -> LRScheduler:
    """Increase the rate linearly, then decrease it to zero along half a cosine.

    Args:
        optimizer: the optimizer.
        steps: total number of optimizer steps.
        epoch_steps: optimizer steps per epoch.
        warmup_epochs: length of the warmup in epochs; at most half of all steps.
    """
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
    """Multiply the rate by `factor` every `epochs` epochs, after a linear warmup.

    Source: 0.94 every 2 epochs: arXiv 1512.00567, section 8. 0.96 every 8 epochs: arXiv 1409.4842, section 6.

    Args:
        optimizer: the optimizer.
        steps: total number of optimizer steps.
        epoch_steps: optimizer steps per epoch.
        factor: factor on the rate.
        epochs: interval in epochs.
        staircase: decay in discrete intervals; False: a little at each step.
        warmup_epochs: length of the warmup in epochs; at most half of all steps.
    """
    warmup = min(round(warmup_epochs * epoch_steps), steps // 2)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        times = step / (epochs * epoch_steps)
        return factor ** (math.floor(times) if staircase else times)

    return LambdaLR(optimizer, rate)


def constant(optimizer: Optimizer, steps: int, epoch_steps: int) -> LRScheduler:
    """Keep the optimizer's rate constant.

    Args:
        optimizer: the optimizer.
        steps: total number of optimizer steps; not used.
        epoch_steps: optimizer steps per epoch; not used.
    """
    return LambdaLR(optimizer, lambda step: 1.0)
