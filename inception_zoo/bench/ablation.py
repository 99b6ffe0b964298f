"""Ablation: the gain of each implementation choice, from interleaved training steps with and without it."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from inception_zoo.bench.contenders import CASES, Case, Contender, device, fast_precision
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Contest, Measured, contested
from inception_zoo.network import kernels
from inception_zoo.network.autograd import layers

WITHOUT = {  # choice, as named in the figures → module, attribute, and the replacement that disables the choice
    "kernels of our own": (kernels, "library", lambda: None),
    "1x1 convolutions joined": (layers, "opening", lambda branch, x: None),
    "average pool after its 1x1": (layers, "commute", lambda pool, unit: False),
}
NETWORKS = ("googlenet_bn", "inception_v3")
COMPILED = "googlenet_bn"  # one network only, since torch.compile takes minutes
KEPT = "with"
UNITS = {"optimizer": "steps/s"}


def measure(options: Options) -> Measured:
    """Measure ``choices/NETWORK, CHOICE`` with and without each choice, and convolutions with 64, 60 and 63 channels."""
    for name in NETWORKS:
        for what, contest in _contests(CASES[name]):
            if what != "average pool after its 1x1" or name == "inception_v3":  # GoogLeNet's blocks have no average pool
                yield from contested(f"choices/{name}, {what}", contest, options.rounds, UNITS.get(what, "images/s"))
    yield from contested("choices/64 channels, not 60 or 63", _rounded(), options.rounds, "channel pairs/s")


def _contests(case: Case) -> Iterator[tuple[str, Contest]]:
    turn = Contender().trains(case)
    for what, (module, attribute, instead) in WITHOUT.items():
        yield what, {KEPT: turn, "without": _without(turn, module, attribute, instead)}
    if case.name == COMPILED:
        yield "torch.compile", {"without": turn, KEPT: Contender(choices={"compile": True}).trains(case)}
    yield "optimizer", {name: _optimizer(case, **how) for name, how in OPTIMIZERS.items()}


OPTIMIZERS: dict[str, dict[str, Any]] = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}


def _without(turn: Callable[[], float], module: Any, attribute: str, instead: Any) -> Callable[[], float]:
    def changed() -> float:
        with patch.object(module, attribute, instead):
            return turn()

    return changed


def _optimizer(case: Case, **how: Any) -> Callable[[], float]:
    """Return a turn of five SGD steps on a network's weights, without forward and backward passes."""
    weights = [nn.Parameter(torch.zeros(p.shape, device=device())) for p in Contender().build(case).parameters()]
    for each in weights:
        each.grad = torch.ones_like(each)
    optimizer = torch.optim.SGD(weights, lr=1e-3, momentum=0.9, **how)

    def turn() -> float:
        for _ in range(5):
            optimizer.step()
        return 5

    return turn


def _rounded() -> Contest:
    """Return the contest of 3x3 convolutions with 64, 60 and 63 channels; work is counted in (input, output) channel pairs."""

    def of(channels: int) -> Callable[[], float]:
        conv = nn.Conv2d(channels, channels, 3, padding=1).to(device(), fast_precision())
        maps = torch.randn(8, channels, 35, 35, device=device(), dtype=fast_precision())
        maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()

        def turn() -> float:
            for _ in range(10):
                conv(maps).sum().backward()
            return 10 * channels**2

        return turn

    return {str(channels): of(channels) for channels in (64, 60, 63)}
