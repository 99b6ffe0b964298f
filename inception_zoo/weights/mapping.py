"""A network's tensors ↔ a layout's keys, by the rules of `layouts`."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from inception_zoo.errors import ZooError
from inception_zoo.network.blocks import ConvUnit, ResidualBlock
from inception_zoo.network.inception import Inception
from inception_zoo.weights.layouts import LAYOUTS, Names, Style

UNIT = (
    "conv.weight",
    "conv.bias",
    *(f"norm.{t}" for t in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
)
LINEAR = ("weight", "bias")
CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Slot:
    """A layer with weights, as a layout calls it."""

    part: str  # the endpoint, `aux <tap>`, or `classifier`
    kind: str  # `unit`: convolution and normalization; `project`: a bare convolution; `fc`
    name: str
    numbers: tuple[int, int] = (0, 0)  # of convolutions and normalizations before it

    def key(self, style: Style, tensor: str) -> str | None:
        """Their key of our tensor, such as `conv.weight`; None if they have no such tensor."""
        layer, _, last = tensor.rpartition(".")
        is_norm = layer == "norm"
        renamed = style.batch_norm if is_norm else style.layer
        if renamed is not None and last not in renamed:
            return None
        template = style.norm if is_norm else {"unit": style.conv, "project": style.project, "fc": style.fc}[self.kind]
        conv, norm = (f"_{n}" if n else "" for n in self.numbers)
        return template.format(name=self.name, tensor=renamed[last] if renamed else last, conv=conv, norm=norm)

    def keys(self, style: Style) -> set[str]:
        """All that can be in a file of this layer."""
        return {key for tensor in (UNIT if self.kind == "unit" else LINEAR) if (key := self.key(style, tensor))}


def slots(names: Names) -> Iterator[Slot]:
    """Every layer of a network in a layout, in order."""
    style = names.style
    convs = norms = 0
    for endpoint, place in names.places.items():
        units, projects = _names(place.rows), [place.project] if place.project else []
        for kind, layers in (("unit", units), ("project", projects)):
            for name in layers:
                full = f"{place.module}{style.separator}{name}" if name else place.module
                number = int(name) if style.counted else 0
                yield Slot(endpoint, kind, full, (convs + number, norms + number))
        if style.counted:
            convs, norms = convs + len(units) + len(projects), norms + len(units)
    for tap, head in names.heads.items():
        for kind, layers in (("unit", _names(head.rows)), ("fc", [name for name in (head.hidden, head.fc) if name])):
            yield from (Slot(f"aux {tap}", kind, f"{head.module}.{name}") for name in layers)
    yield Slot(CLASSIFIER, "fc", names.fc)


def _names(rows: Collection[str]) -> list[str]:
    return [name for row in rows for name in re.split(r"\s*[>|]\s*", row)]


def our_layers(model: Inception) -> dict[str, list[str]]:
    """The layers with weights by part, in the order of `slots`: their names in the state dict."""
    found: dict[str, list[str]] = {}
    for block in model.plan.blocks:
        module = model.get_submodule(block.name)
        found[block.name] = _units(module, block.name)
        if isinstance(module, ResidualBlock):
            found[block.name].append(f"{block.name}.project")
    for tap, head in model.aux.items():
        linear = [f"aux.{tap}.hidden.0"] if head.hidden is not None else []
        found[f"aux {tap}"] = [*_units(head, f"aux.{tap}"), *linear, f"aux.{tap}.fc"]
    return found | {CLASSIFIER: ["fc"]}


def _units(module: nn.Module, prefix: str) -> list[str]:
    return [f"{prefix}.{name}" for name, child in module.named_modules() if isinstance(child, ConvUnit)]


def part_of(key: str) -> str:
    """The part that a tensor of ours belongs to."""
    first, second, *_ = key.split(".")
    return f"aux {second}" if first == "aux" else CLASSIFIER if first == "fc" else first


@dataclass(frozen=True)
class Translation:
    """Our tensor → their key, None where they have no such tensor; and the keys for which `model` has no place, by part."""

    keys: dict[str, str | None]
    spare: dict[str, str]


def translate(model: Inception, layout: str) -> Translation:
    """Every tensor of `model` with its key in `layout`; `native` is our own names."""
    state = list(model.state_dict())
    if layout == "native":
        return Translation({key: key for key in state}, {})
    names = names_of(layout, model.plan.net.name)
    swapped = {block.name for block in model.plan.blocks if block.swapped}
    ours, keys, spare = our_layers(model), dict[str, str | None](), dict[str, str]()
    for part, group in groupby(slots(names), key=lambda slot: slot.part):
        theirs = list(group)
        if part in swapped or part not in ours:
            spare |= {key: part for slot in theirs for key in slot.keys(names.style)}
        elif ours[part]:  # else a pool
            for layer, slot in zip(ours[part], theirs, strict=True):
                tensors = [key.removeprefix(f"{layer}.") for key in state if key.startswith(f"{layer}.")]
                keys |= {f"{layer}.{tensor}": slot.key(names.style, tensor) for tensor in tensors}
    return Translation(keys, spare)


def names_of(layout: str, net: str) -> Names:
    """The layout's names for a network; ZooError with the networks that it has."""
    if net in LAYOUTS[layout]:
        return LAYOUTS[layout][net]
    pools = "; Keras leaves the padded zeros out of its average pools, torchvision and timm count them"
    hint = pools if net.startswith("inception_v3") else ""
    raise ZooError(f"layout={layout} has no {net}, it has {', '.join(LAYOUTS[layout])}{hint}")


def recognize(keys: Collection[str]) -> tuple[str, str] | None:
    """The layout and network that `keys` name most of, and little else; None if no layout does.

    torchvision's and timm's Inception-v3 have the same names; the answer is `torchvision`.
    """
    keys = set(keys)
    found = {}
    for layout, nets in LAYOUTS.items():
        for net, names in nets.items():
            layers = list(slots(names))
            weights = {slot.key(names.style, "conv.weight" if slot.kind == "unit" else "weight") for slot in layers}
            known = {key for slot in layers for key in slot.keys(names.style)}
            found[layout, net] = len(keys & weights) / len(weights) * len(keys & known) / max(1, len(keys))
    best = max(found, key=lambda pair: found[pair])
    return best if found[best] > 0.5 else None
