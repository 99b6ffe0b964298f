"""Contenders of each comparison, ready to train or evaluate: our networks and other libraries' networks (their peers)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.nets.table import Net
from inception_zoo.architecture.plan import Plan, make_plan
from inception_zoo.bench.tutorial import Tutorial
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.models import create_model
from inception_zoo.network.autograd.segments import SaveInput
from inception_zoo.network.inception import Inception
from inception_zoo.system.devices import auto_precision

OURS = "inception_zoo"


@dataclass(frozen=True)
class Case:
    """One of our networks, the input that it is measured on, and its peers."""

    name: str
    net: Net
    batch: int
    image_size: int
    choices: Mapping[str, Any] = field(default_factory=dict)
    peers: Mapping[str, str] = field(default_factory=dict)  # library → name of the network in that library
    num_classes: int = 1000
    in_channels: int = 3

    @property
    def plan(self) -> Plan:
        """Plan without auxiliary heads, unless `choices` sets them."""
        return make_plan(self.net, self.num_classes, self.in_channels, **{"aux": False, **self.choices})

    def images(self, batch: int | None = None) -> Tensor:
        """Return random images (N, C, S, S) in fp32, with a fixed seed; N is `batch`, or the case's batch."""
        shape = batch or self.batch, self.in_channels, self.image_size, self.image_size
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def labels(self) -> Tensor:
        """Return int64 labels (N,), with N the case's batch."""
        return torch.arange(self.batch) % self.num_classes


def _usual(name: str, batch: int = 8, **peers: str) -> Case:
    return Case(name, ZOO[name], batch, ZOO[name].image_size, peers=peers)


TUTORIAL = {  # the choices of conf/experiment/tutorial.yaml
    "norm": "none",
    "dropout": 0.0,
    "init": "xavier",
    "blocks": {f"pool{n}": ["max/2"] for n in (1, 2, 3, 4)},
}
CASES = {
    "googlenet_bn": _usual("googlenet_bn", 16, torchvision="googlenet"),
    "inception_v3": _usual("inception_v3", torchvision="inception_v3", timm="inception_v3"),
    "inception_v4": _usual("inception_v4", timm="inception_v4"),
    "inception_resnet_v2_slim": _usual("inception_resnet_v2_slim", timm="inception_resnet_v2"),
    "tutorial": Case("tutorial", ZOO["googlenet"], 128, 96, TUTORIAL, {"d2l": "GoogLeNet"}, 10, 1),
}


def case_of(name: str, batch: int | None = None, image_size: int | None = None) -> Case:
    """Return the case of a network of the zoo, or of the tutorial's network.

    Args:
        name: key of `CASES`, or name in the zoo.
        batch: number of images; None: the case's own.
        image_size: pixels; None: the case's own.

    Raises:
        ZooError: the network is unknown, or the images are too small for it.
    """
    if name in CASES:
        case = CASES[name]
    else:
        if name not in ZOO:
            raise ZooError(f"'{name}' is not a network; {did_you_mean(name, [*CASES, *ZOO])}")
        case = _usual(name)
    case = replace(case, batch=batch or case.batch, image_size=image_size or case.image_size)
    case.plan.shapes(case.image_size)
    return case


@dataclass(frozen=True)
class Contender:
    """A library's implementation of a network, as shipped (fp32, contiguous) or tuned (our precision, channels_last)."""

    library: str = OURS
    tuned: bool = True
    choices: Mapping[str, Any] = field(default_factory=dict)  # options of our networks, added to the case's
    recompute: float = 0.0  # share of a peer's blocks, the first ones, that torch.utils.checkpoint recomputes

    @property
    def label(self) -> str:
        """Name in the figures: the library, ``LIBRARY tuned``, or our memory mode."""
        if self.library != OURS:
            return f"{self.library} tuned" if self.tuned else self.library  # `memory` adds `recompute`
        return str(self.choices["memory"]) if "memory" in self.choices else OURS

    @property
    def precision(self) -> torch.dtype:
        return fast_precision() if self.tuned else torch.float32

    def build(self, case: Case) -> nn.Module:
        """Return the network in training mode, on the device."""
        if self.library == OURS:
            choices = {"aux": False, **case.choices, **self.choices}
            if case.net is ZOO[case.net.name]:
                model: nn.Module = create_model(case.net.name, case.num_classes, case.in_channels, **choices)
            else:  # a table that the benchmark derives, such as a deeper network
                model = Inception(make_plan(case.net, case.num_classes, case.in_channels, **choices))
        else:
            model = _recomputing(_peer(self.library, case.peers[self.library]), self.recompute)
        return model.to(device(), memory_format=self.layout).train()  # type: ignore[call-overload]

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.tuned else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[Any]:
        half = self.precision == torch.bfloat16
        return torch.autocast(device().type, torch.bfloat16) if half else nullcontext()

    def trains(self, case: Case) -> Callable[[], float]:
        """Return a turn that trains on one batch and returns its number of images.

        A turn is a forward pass, cross entropy, a backward pass and an SGD step.
        """
        model = self.build(case)
        images, labels = case.images().to(device(), memory_format=self.layout), case.labels().to(device())
        fused = {"fused": True} if self.tuned else {}
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, **fused)

        def turn() -> float:
            with self.autocast():
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return len(images)

        return turn

    def evaluates(self, case: Case) -> Callable[[], float]:
        """Return a turn that evaluates one batch and returns its number of images; weights and images are in `precision`."""
        model = self.build(case).eval().to(self.precision)
        images = case.images().to(device(), self.precision, memory_format=self.layout)

        def turn() -> float:
            with torch.inference_mode():
                model(images)
            return len(images)

        return turn


def contenders(case: Case) -> Iterator[Contender]:
    """Yield our network, then each peer as shipped and tuned."""
    yield Contender()
    for library in case.peers:
        yield from (Contender(library, tuned) for tuned in (False, True))


def of_mode(mode: str) -> Contender:
    """Return our network in a memory mode, see `model.memory`."""
    return Contender(choices={"memory": mode} if mode != "plain" else {})


@cache
def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def fast_precision() -> torch.dtype:
    """Return bf16 if this hardware computes it fast, else fp32; see `devices.auto_precision`."""
    return torch.bfloat16 if auto_precision("auto")[0] == "bf16-mixed" else torch.float32


def _recomputing(model: nn.Module, share: float) -> nn.Module:
    """Recompute this share of the blocks of a public network, the first ones, in the backward pass; return the network."""
    children = [part for child in model.children() for part in (child if isinstance(child, nn.Sequential) else [child])]
    blocks = [child for child in children if any(isinstance(layer, nn.Conv2d) for layer in child.modules())]
    for block in blocks[: round(share * len(blocks))]:
        block.forward = partial(_recomputed, block.forward)
    return model


def _recomputed(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(forward, SaveInput.apply(x), use_reentrant=False)


def _peer(library: str, name: str) -> nn.Module:
    if library == "d2l":
        return Tutorial()
    with torch.device("meta"):  # skip the slow initialization: speed does not depend on the weights
        if library == "torchvision":
            import torchvision

            model = torchvision.models.get_model(name, weights=None, aux_logits=False, init_weights=False)
        else:
            import timm

            model = timm.create_model(name)
    model = model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        # Activations must have a usual magnitude: denormal numbers are many times slower on CPUs.
        tensor.fill_(1) if tensor.dim() < 2 else nn.init.kaiming_normal_(tensor)
    return model
