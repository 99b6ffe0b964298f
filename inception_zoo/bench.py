"""Images per second of our networks and of their peers, in turns on the same machine, threads, batch and input."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.errors import ZooError
from inception_zoo.models import create_model
from inception_zoo.nets import find_net
from inception_zoo.plan import make_plan

PEERS = {  # network → (library, its name there)
    "googlenet_bn": [("torchvision", "googlenet")],
    "inception_v3": [("torchvision", "inception_v3"), ("timm", "inception_v3")],
    "inception_v4": [("timm", "inception_v4")],
    "inception_resnet_v2_slim": [("timm", "inception_resnet_v2")],
}


@dataclass(frozen=True)
class Result:
    """Images per second of one contender: the rates of all rounds."""

    contender: str
    phase: str  # "train" or "eval"
    rates: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def bench(name: str, batch: int, image_size: int | None, rounds: int) -> Iterator[Result]:
    """Time forward plus backward ("train") and evaluation of `name` and its peers, fp32, without auxiliary heads.

    Peers stand "as shipped" (contiguous) and "tuned" (channels_last), so that nobody is beaten by a default alone.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = find_net(name)
    size = image_size or net.image_size
    make_plan(net, aux=False).shapes(size)
    images, labels = torch.randn(batch, 3, size, size, device=device), torch.randint(0, 1000, (batch,), device=device)
    models: list[tuple[str, nn.Module, bool]] = [("inception_zoo", create_model(net.name, aux=False), True)]
    for library, peer in PEERS.get(net.name, []):
        models += [(f"{library}, as shipped", _peer(library, peer), False), (f"{library}, tuned", _peer(library, peer), True)]
    contenders = {}
    for label, model, tuned in models:
        layout = torch.channels_last if tuned else torch.contiguous_format
        contenders[label] = model.to(device).to(memory_format=layout), images.to(memory_format=layout)
    for phase, step in (("train", _train_step), ("eval", _eval_step)):
        rates: dict[str, list[float]] = {label: [] for label in contenders}
        for number in range(rounds + 1):  # the first round warms up
            for label, (model, x) in contenders.items():
                seconds = _seconds(step, model.train(phase == "train"), x, labels)
                if number:
                    rates[label].append(batch / seconds)
        yield from (Result(label, phase, found) for label, found in rates.items())


def _peer(library: str, name: str) -> nn.Module:
    with torch.device("meta"):  # skips a slow initialization: speed does not depend on the weights
        if library == "torchvision":
            import torchvision

            model = torchvision.models.get_model(name, weights=None, aux_logits=False, init_weights=False)
        else:
            try:
                import timm
            except ImportError:
                raise ZooError("bench compares with timm, which is not installed; run `pip install timm`") from None
            model = timm.create_model(name)
    model = model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        # Signal of a usual size everywhere: denormal numbers are many times slower on CPUs.
        tensor.fill_(1) if tensor.dim() < 2 else nn.init.kaiming_normal_(tensor)
    return model


def _train_step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    F.cross_entropy(model(images), labels).backward()
    model.zero_grad(set_to_none=True)


@torch.inference_mode()
def _eval_step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    model(images)


def _seconds(step: Callable[..., None], *args: object) -> float:
    _synchronize()
    start = time.perf_counter()
    step(*args)
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
