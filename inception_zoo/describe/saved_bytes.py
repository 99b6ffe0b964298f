"""Training memory with PyTorch's own kernels: the bytes that autograd saves for the backward pass.

Our CPU kernels and `model.memory` save less; `inception-zoo bench memory` measures that.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inception_zoo.architecture.plan import Plan
from inception_zoo.network.inception import Inception


def saved_activations(plan: Plan, image_size: int) -> dict[str, int]:
    """Return the saved bytes per image (fp32) by endpoint, then of `classifier` and each `aux <endpoint>`.

    The count uses the meta device, without any computation. Each storage counts once, for the part that saves it first.
    Memory that does not grow with the batch (weights, statistics) does not count.

    Args:
        plan: plan of the network.
        image_size: pixels.
    """
    with torch.device("meta"):
        model = Inception(plan)
    small, large = (_saved(model.train(), torch.empty(n, plan.in_channels, image_size, image_size)) for n in (2, 3))
    return {part: large[part] - small[part] for part in large}


@contextmanager
def counting(count: Callable[[int], None]) -> Iterator[None]:
    """Call `count` once for each storage that autograd saves for the backward pass, with the storage's bytes."""
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen[storage._cdata] = tensor  # keep it alive, so that its address is not reused
            count(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def _saved(model: Inception, images: Tensor) -> Counter[str]:
    parts = {block.name: model.get_submodule(block.name) for block in model.plan.blocks}
    heads = {f"aux {tap}": head for tap, head in model.aux.items()}
    parts |= {"classifier": nn.Sequential(model.pool, nn.Flatten(), model.dropout, model.embedding, model.fc), **heads}
    saved, current = Counter(dict.fromkeys(parts, 0)), ""

    def enter(part: str) -> None:
        nonlocal current
        current = part

    def count(size: int) -> None:
        saved[current] += size

    hooks = [part.register_forward_pre_hook(lambda *_, name=name: enter(name)) for name, part in parts.items()]
    with counting(count):
        maps = model.endpoints(images.to("meta"))
        parts["classifier"](maps[model.plan.blocks[-1].name])
        for tap, head in model.aux.items():  # last: storages that heads share with the network count for the network
            head(maps[tap])
    for hook in hooks:
        hook.remove()
    return saved
