"""Memory that training needs by PyTorch's own kernels: what autograd keeps of the forward pass for the backward pass.

Our kernels on CPUs, and `model.memory`, keep less: `inception-zoo bench memory` counts it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inception_zoo.architecture.plan import Plan
from inception_zoo.network.inception import Inception


def saved_activations(plan: Plan, image_size: int) -> dict[str, int]:
    """Bytes per image in fp32, by endpoint, then `classifier` and `aux <endpoint>`.

    Counted on the meta device: nothing is computed. Each tensor counts once, where it is saved first; what does not grow
    with the batch (weights, statistics) does not count.
    """
    with torch.device("meta"):
        model = Inception(plan)
    small, large = (_saved(model.train(), torch.empty(n, plan.in_channels, image_size, image_size)) for n in (2, 3))
    return {part: large[part] - small[part] for part in large}


@contextmanager
def counting(count: Callable[[int], None]) -> Iterator[None]:
    """Call `count` with the bytes of each storage that autograd saves for the backward pass, once."""
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen[storage._cdata] = tensor  # held, so that its identity is not given to another
            count(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def _saved(model: Inception, images: Tensor) -> Counter[str]:
    parts = {block.name: model.get_submodule(block.name) for block in model.plan.blocks}
    heads = {f"aux {tap}": head for tap, head in model.aux.items()}
    parts |= {"classifier": nn.Sequential(model.pool, nn.Flatten(), model.dropout, model.fc), **heads}
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
        for tap, head in model.aux.items():  # last, so that what they share with the network counts as the network's
            head(maps[tap])
    for hook in hooks:
        hook.remove()
    return saved
