"""Assign the tensors of a state dict to a network; report those that do not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.choices import ADAPT
from inception_zoo.architecture.plan import Block, plan_of
from inception_zoo.errors import ZooError
from inception_zoo.network.inception import Inception
from inception_zoo.weights.mapping import CLASSIFIER, Translation, part_of
from inception_zoo.weights.normalization import first_conv

State = Mapping[str, Tensor]


def matched(
    model: Inception,
    weights: State,
    translation: Translation,
    adapt: Sequence[str],
    source: str,
    notes: list[str],
    other: frozenset[str] = frozenset(),
) -> dict[str, Tensor]:
    """Our tensors' new values; ZooError with every key that has no counterpart.

    `other`: endpoints whose rows in the weights' own network are not those of `model`.
    """
    if other and "blocks" not in adapt:
        blocks = f"{source} holds other blocks than {model.plan.net.name} has here: {listed(sorted(other))}"
        raise ZooError(f"{blocks}; adapt takes blocks: {ADAPT['blocks']}")
    values: dict[str, Tensor] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    hints: set[str] = set()  # what `adapt` could do about it
    swapped = {block.name for block in model.plan.blocks if block.swapped}
    drawn = _drawn_anew(model, weights, translation, swapped, adapt) | other
    for key, ours in model.state_dict().items():
        theirs = translation.keys.get(key, key)
        part = part_of(key)
        if part in drawn or (is_classifier(key) and "head" in adapt):
            continue
        if theirs is None or theirs not in weights:
            if key.endswith("norm.weight") and theirs is None:  # a BatchNorm without scale
                values[key] = torch.ones_like(ours)
            elif not key.endswith("num_batches_tracked"):  # older files have none
                missing.append(theirs or key)
                hints |= {"blocks"} if part in swapped else {"aux"} if part.startswith("aux ") else set()
            continue
        value = weights[theirs]
        adaptable = key == f"{first_conv(model)}.weight" and _but_for_channels(value) == _but_for_channels(ours)
        if not _is_dense(value) or value.is_floating_point() != ours.is_floating_point():
            misshapen.append(f"{theirs} is {value.dtype}, {value.layout}, due dense {ours.dtype}")
        elif value.shape == ours.shape or (adaptable and value.numel() and "input" in adapt):
            values[key] = value
        else:
            misshapen.append(f"{theirs} is {tuple(value.shape)}, due {tuple(ours.shape)}")
            hints.add("input" if adaptable else "head" if is_classifier(key) else "blocks" if part in swapped else "")
    left = weights.keys() - translation.keys.values()
    parts = {key: translation.spare.get(key, part_of(key) if "." in key else key) for key in left}
    own = {f"aux {tap}" for tap in model.aux}
    unneeded = {key for key, part in parts.items() if part.startswith("aux ") and part not in own}
    unneeded |= {key for key, part in parts.items() if part in drawn}
    unexpected = sorted(left - unneeded)
    hints |= {"blocks" for key in unexpected if parts[key] in swapped}
    if missing or misshapen or unexpected:
        kinds = {"missing": missing, "misshapen": misshapen, "unexpected": unexpected}
        found = "; ".join(f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in kinds.items() if keys)
        asked = ", ".join(f"{hint}: {ADAPT[hint]}" for hint in ADAPT if hint in hints)
        raise ZooError(f"{source} does not fit {model.plan.net.name}: {found}" + (f"; adapt takes {asked}" if asked else ""))
    heads = sorted({part for part in parts.values() if part.startswith("aux ")})
    notes += [f"auxiliary heads left out: {', '.join(head.removeprefix('aux ') for head in heads)}"] if heads else []
    notes += [f"drawn anew: {', '.join(sorted(drawn))}"] if drawn else []
    notes += [f"classifier drawn anew for {model.plan.num_classes} classes"] if "head" in adapt else []
    return values


def _but_for_channels(value: Tensor) -> tuple[int, ...]:
    return (value.shape[0], *value.shape[2:]) if value.ndim == 4 else ()


def _is_dense(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized and not value.is_meta


def other_blocks(model: Inception, card: Card | None) -> frozenset[str]:
    """Endpoints that compute something else in the network of a card; where that needs foreign code, none are known."""
    if card is None or card.foreign_code:
        return frozenset()
    theirs = plan_of(card.model)
    alike = theirs.choices.residual_scale == model.plan.choices.residual_scale  # else it is noted as a choice
    computed = [{block.name: _computes(block, alike) for block in plan.blocks} for plan in (theirs, model.plan)]
    return frozenset(name for name in computed[0].keys() & computed[1].keys() if computed[0][name] != computed[1][name])


def _computes(block: Block, with_scale: bool) -> tuple[Any, ...]:
    residual = block.residual
    return block.rows, residual and (residual.relu, residual.shortcut, residual.scale if with_scale else None)


def _drawn_anew(
    model: Inception, weights: State, translation: Translation, swapped: set[str], adapt: Sequence[str]
) -> set[str]:
    """The parts that keep their random weights: those of `adapt` that the weights do not have just so."""
    has: dict[str, list[bool]] = {}
    for key, ours in model.state_dict().items():
        theirs = translation.keys.get(key)
        if not key.endswith("num_batches_tracked"):
            has.setdefault(part_of(key), []).append(
                theirs is not None and theirs in weights and weights[theirs].shape == ours.shape
            )
    blocks = {part for part in swapped if part in has and not all(has[part])} if "blocks" in adapt else set()
    return blocks | ({part for part in has if part.startswith("aux ") and not any(has[part])} if "aux" in adapt else set())


def differences(model: Inception, card: Card | None, layout: str, source: str) -> list[str]:
    """Notes of what the network computes otherwise than that of the weights; ZooError if the weights would mean nothing."""
    if card is None and layout == "native":
        return []
    table = {"norm": model.plan.net.norm, "activation": "relu", "stem": "imagenet", "residual_scale": None}
    theirs = {key: card.model.get(key) if card else value for key, value in table.items()}
    ours = {key: getattr(model.plan.choices, key) for key in table}
    if ours["norm"] != theirs["norm"]:
        raise ZooError(f"{source}: the weights were trained with norm={theirs['norm']}, this network has norm={ours['norm']}")
    return [f"trained with {key}={theirs[key]}, used with {ours[key]}" for key in table if ours[key] != theirs[key]]


def is_classifier(key: str) -> bool:
    """Return True for a tensor with one entry for each class."""
    return part_of(key) == CLASSIFIER or (part_of(key).startswith("aux ") and key.split(".")[-2] == "fc")


def listed(keys: Sequence[str], most: int = 6) -> str:
    return ", ".join(keys[:most]) + (f", and {len(keys) - most} more" if len(keys) > most else "")
