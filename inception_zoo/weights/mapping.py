"""Mapping between the zoo's tensor names and the keys of a layout, by the rules in `layouts`."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from inception_zoo.errors import ZooError
from inception_zoo.network.blocks import ConvUnit, DepthwiseConv, ResidualBlock
from inception_zoo.network.inception import Inception
from inception_zoo.weights.layouts import LAYOUTS, Names, Style, Twin

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
LINEAR = ("weight", "bias")
TENSORS = {
    "unit": ("conv.weight", "conv.bias", *(f"norm.{tensor}" for tensor in NORM)),
    "norm": NORM,
    "conv": ("weight",),
    **dict.fromkeys(("project", "fc"), LINEAR),
}
EMBEDDING = "embedding"
CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Slot:
    """A layer with weights and its name in a layout."""

    part: str  # the endpoint, `aux <tap>`, `embedding` or `classifier`
    kind: str  # `unit`: convolution and normalization; `conv`, `project`: convolution alone; `fc`; `norm`: of the embedding
    name: str
    norm: str = ""  # the name of its normalization, if that has another one
    numbers: tuple[int, int] = (0, 0)  # of its convolution and its normalization, in layouts with numbered layers

    def key(self, style: Style, tensor: str) -> str | None:
        """Return the layout's key for the zoo's `tensor`, such as `conv.weight`; None if the layout has no such tensor."""
        layer, _, last = tensor.rpartition(".")
        is_norm = layer == "norm"
        renamed = style.batch_norm if is_norm else style.layer
        if renamed is not None and last not in renamed:
            return None
        templates = {"unit": style.conv, "conv": style.conv, "project": style.project}
        template = style.norm if is_norm else templates.get(self.kind, style.fc)
        conv, norm = (f"_{n}" if n else "" for n in self.numbers)
        name = self.norm if is_norm and self.norm else self.name
        return template.format(name=name, tensor=renamed[last] if renamed else last, conv=conv, norm=norm)

    def keys(self, style: Style) -> set[str]:
        """Return all keys that a file can have for this layer."""
        return {key for tensor in TENSORS[self.kind] if (key := self.key(style, tensor))}


def slots(names: Names) -> Iterator[Slot]:
    """Yield every layer of a network in a layout, in order."""
    style = names.style
    convs = norms = 0
    for endpoint, place in names.places.items():
        if style.absolute:
            for conv, _, norm in (name.partition("+") for name in _names(place.rows)):
                yield Slot(endpoint, "unit" if norm else "conv", conv, norm)
            continue
        units, projects = _names(place.rows), [place.project] if place.project else []
        for kind, layers in (("unit", units), ("project", projects)):
            for name in layers:
                full = f"{place.module}{style.separator}{name}" if name else place.module
                number = int(name) if style.counted else 0
                yield Slot(endpoint, kind, full, numbers=(convs + number, norms + number))
        if style.counted:
            convs, norms = convs + len(units) + len(projects), norms + len(units)
    for tap, head in names.heads.items():
        for kind, layers in (("unit", _names(head.rows)), ("fc", [name for name in (head.hidden, head.fc) if name])):
            yield from (Slot(f"aux {tap}", kind, f"{head.module}.{name}") for name in layers)
    if names.embedding:
        yield from (Slot(EMBEDDING, kind, name) for kind, name in zip(("fc", "norm"), names.embedding, strict=True))
    yield Slot(CLASSIFIER, "fc", names.fc)


def _names(rows: Collection[str]) -> list[str]:
    return [name for row in rows for name in re.split(r"\s*[>|]\s*", row)]


def our_layers(model: Inception) -> dict[str, list[str]]:
    """Return the names of the layers with weights in the state dict, by part, in the order of `slots`."""
    found: dict[str, list[str]] = {}
    for block in model.plan.blocks:
        module = model.get_submodule(block.name)
        found[block.name] = _units(module, block.name)
        if isinstance(module, ResidualBlock) and block.residual and block.residual.project:
            found[block.name].append(f"{block.name}.project")
    for tap, head in model.aux.items():
        linear = [f"aux.{tap}.hidden.0"] if head.hidden is not None else []
        found[f"aux {tap}"] = [*_units(head, f"aux.{tap}"), *linear, f"aux.{tap}.fc"]
    embedding = {EMBEDDING: ["embedding.linear", "embedding.norm"]} if model.plan.embedding else {}
    return found | embedding | {CLASSIFIER: ["fc"]}


def _units(module: nn.Module, prefix: str) -> list[str]:
    return [f"{prefix}.{name}" for name, child in module.named_modules() if isinstance(child, ConvUnit | DepthwiseConv)]


def part_of(key: str) -> str:
    """Return the part of a state dict key of the zoo: an endpoint, `aux <tap>`, `embedding` or `classifier`."""
    first, second, *_ = key.split(".")
    return f"aux {second}" if first == "aux" else CLASSIFIER if first == "fc" else first


@dataclass(frozen=True)
class Translation:
    """Mapping from the zoo's tensors to the keys of a layout.

    Attributes:
        keys: the zoo's tensor → the layout's key; None if the layout has no such tensor.
        spare: the layout's key without a tensor in the network → the part that it belongs to.
    """

    keys: dict[str, str | None]
    spare: dict[str, str]


def translate(model: Inception, layout: str) -> Translation:
    """Return the key in `layout` of every tensor of `model`; `native` has the zoo's own names."""
    state = list(model.state_dict())
    if layout == "native":
        return Translation({key: key for key in state}, {})
    names = names_of(layout, model.plan.net.name)
    swapped = {block.name for block in model.plan.blocks if block.swapped}
    ours, keys, spare = our_layers(model), dict[str, str | None](), dict[str, str]()
    for part, group in groupby(slots(names), key=lambda slot: slot.part):
        theirs = list(group)
        if part in swapped or part not in ours or (part == CLASSIFIER and not model.plan.num_classes):
            spare |= {key: part for slot in theirs for key in slot.keys(names.style)}
        elif ours[part]:  # pools have no layers with weights
            for layer, slot in zip(ours[part], theirs, strict=True):
                tensors = [key.removeprefix(f"{layer}.") for key in state if key.startswith(f"{layer}.")]
                keys |= {f"{layer}.{tensor}": slot.key(names.style, tensor) for tensor in tensors}
    return Translation(keys, spare)


def names_of(layout: str, net: str) -> Names:
    """Return the layout's names for a network.

    Raises:
        ZooError: the layout does not have this network; lists those that it has.
    """
    if net in LAYOUTS[layout]:
        return LAYOUTS[layout][net]
    pools = "; Keras and FID exclude padded zeros from average pooling, torchvision and timm include them"
    hint = pools if net.startswith("inception_v3") else ""
    hint = "; Keras's Xception is xception, timm's is xception_timm" if net.startswith("xception") else hint
    raise ZooError(f"layout={layout} does not have {net}; it has {', '.join(LAYOUTS[layout])}{hint}")


def twins_of(layout: str, net: str) -> set[Twin]:
    """Return the entry for a layout's network as the twin of another one; its files are recognized as the other's."""
    every = {names.twin for nets in LAYOUTS.values() for names in nets.values() if names.twin}
    return {twin for twin in every if (twin.layout, twin.net) == (layout, net)}


def recognize(keys: Collection[str]) -> tuple[str, str] | None:
    """Return the layout and the network whose names match `keys` best, or None if none match well.

    The score is the share of the network's weights that are in `keys`, times the share of `keys` that the network has. It
    must be above 0.5. torchvision's and timm's Inception-v3 have the same names; the result is `torchvision`. A network's
    twin has them, too: see `decide_twin`.
    """
    keys = set(keys)
    found = {}
    for layout, nets in LAYOUTS.items():
        for net, names in nets.items():
            if twins_of(layout, net) or names.read_only:
                continue
            layers = list(slots(names))
            weights = {slot.key(names.style, "conv.weight" if slot.kind == "unit" else "weight") for slot in layers}
            known = {key for slot in layers for key in slot.keys(names.style)}
            found[layout, net] = len(keys & weights) / len(weights) * len(keys & known) / max(1, len(keys))
    best = max(found, key=lambda pair: found[pair])
    return best if found[best] > 0.5 else None
