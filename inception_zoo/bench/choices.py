"""What each choice below the network gains on this device: a step of training with it, beside one without it, in turns."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from inception_zoo import kernels
from inception_zoo.bench.contenders import CASES, Case, Contender, device, fast_precision
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Contest, Measured, contested
from inception_zoo.memory import layers
from inception_zoo.models import create_model

WITHOUT = {  # choice → what takes its place, where a network is trained without it
    "kernels of our own": (kernels, "library", lambda: None),
    "1x1 convolutions joined": (layers, "opening", lambda branch, x: None),
    "average pool after its 1x1": (layers, "commute", lambda pool, unit: False),
}
NETWORKS = ("googlenet_bn", "inception_v3")
KEPT = "with"


def measure(options: Options) -> Measured:
    for name in NETWORKS:
        for what, contest in _contests(CASES[name]):
            if what != "average pool after its 1x1" or name == "inception_v3":  # GoogLeNet has none
                yield from contested(f"choices/{name}, {what}", contest, options.rounds)
    yield from contested("choices/64 channels, not 60 or 63", _rounded(), options.rounds)


def _contests(case: Case) -> Iterator[tuple[str, Contest]]:
    turn = Contender().trains(case)
    for what, (module, attribute, instead) in WITHOUT.items():
        yield what, {KEPT: turn, "without": _while(_set(module, attribute, instead), turn)}
    yield "torch.compile", {"without": turn, KEPT: _compiled(case)}
    yield "optimizer", {name: _optimizer(case, **how) for name, how in OPTIMIZERS.items()}


OPTIMIZERS: dict[str, dict[str, Any]] = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}


def _while(change: Callable[[], AbstractContextManager[None]], turn: Callable[[], float]) -> Callable[[], float]:
    def changed() -> float:
        with change():
            return turn()

    return changed


def _set(module: Any, attribute: str, value: Any) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def change() -> Iterator[None]:
        before = getattr(module, attribute)
        setattr(module, attribute, value)
        try:
            yield
        finally:
            setattr(module, attribute, before)

    return change


def _compiled(case: Case) -> Callable[[], float]:
    """PyTorch's own modules by `torch.compile`, forward and backward; the first turn compiles."""
    model: Any = create_model(case.net.name, case.num_classes, aux=False, compile=True)
    model.to(device(), memory_format=torch.channels_last)
    images, labels = case.images().to(device(), memory_format=torch.channels_last), case.labels().to(device())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def turn() -> float:
        half = fast_precision() == torch.bfloat16
        with torch.autocast(device().type, torch.bfloat16) if half else nullcontext():
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return len(images)

    return turn


def _optimizer(case: Case, **how: Any) -> Callable[[], float]:
    """Steps of SGD alone, over a network's weights."""
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
    """The multiply-adds of a 3x3 convolution a second, forward and backward, by its channels."""

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
