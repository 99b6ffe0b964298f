"""Match the tensors of a state dict with those of a network, and report all that do not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.choices import ADAPT
from inception_zoo.architecture.plan import Block, plan_of
from inception_zoo.errors import ZooError
from inception_zoo.network.inception import Inception
from inception_zoo.weights.keras_files import BEYOND
from inception_zoo.weights.mapping import CLASSIFIER, EMBEDDING, Translation, part_of
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
    """Return the new values of a network's tensors.

    Args:
        model: the network, which is not changed.
        weights: tensors by key in the names of a layout. Shape and dtype are compared with those of the network.
        translation: mapping from the network's keys to those of `weights`.
        adapt: allowed differences, see `load_weights`.
        source: name of the weights for error messages.
        notes: a list to which a note on each allowed difference is appended.
        other: endpoints that differ between `model` and the network of the weights, see `other_blocks`.

    Returns:
        Tensors by the network's keys, with the network's shapes. With `input` in `adapt`, the first convolution's weight
        (out, C, kH, kW) keeps the number of input channels that it has in `weights`. Parts that keep their initial weights
        are absent.

    Raises:
        ZooError: lists all keys that are missing, unexpected, or of another shape or dtype.
    """
    if other and "blocks" not in adapt:
        blocks = f"{source} does not fit {model.plan.net.name}: different blocks: {listed(sorted(other))}"
        raise ZooError(f"{blocks}; set adapt to allow blocks ({ADAPT['blocks']})")
    values: dict[str, Tensor] = {}
    missing: list[str] = []
    mismatched: list[str] = []
    hints: set[str] = set()  # values of `adapt` that would allow the differences
    swapped = {block.name for block in model.plan.blocks if block.swapped}
    initial = _initial_parts(model, weights, translation, swapped, adapt) | other
    for key, ours in model.state_dict().items():
        theirs = translation.keys.get(key, key)
        part = part_of(key)
        if part in initial or (is_classifier(key) and "head" in adapt):
            continue
        if theirs is None or theirs not in weights:
            if key.endswith("norm.weight") and theirs is None:  # a BatchNorm without scale
                values[key] = torch.ones_like(ours)
            elif not key.endswith("num_batches_tracked"):  # older files have none
                missing.append(theirs or key)
                hints |= {"blocks"} if part in swapped else {"aux"} if part.startswith("aux ") else set()
                hints |= {"head"} if part == EMBEDDING else set()
            continue
        value = weights[theirs]
        adaptable = key == f"{first_conv(model)}.weight" and _but_for_channels(value) == _but_for_channels(ours)
        if not _is_dense(value) or value.is_floating_point() != ours.is_floating_point():
            mismatched.append(f"{theirs} is {value.dtype}, {value.layout}, expected dense {ours.dtype}")
        elif value.shape == ours.shape or (adaptable and value.numel() and "input" in adapt):
            values[key] = value
        else:
            mismatched.append(f"{theirs} is {tuple(value.shape)}, expected {tuple(ours.shape)}")
            hints.add(
                "input"
                if adaptable
                else "head"
                if is_classifier(key) or part == EMBEDDING
                else "blocks"
                if part in swapped
                else ""
            )
    left = weights.keys() - translation.keys.values()
    parts = {key: translation.spare.get(key, part_of(key) if "." in key else key) for key in left}
    own = {f"aux {tap}" for tap in model.aux}
    unneeded = {key for key, part in parts.items() if part.startswith("aux ") and part not in own}
    unneeded |= {key for key, part in parts.items() if part in initial}
    unneeded |= {key for key, part in parts.items() if part == CLASSIFIER and not model.plan.num_classes}
    beyond = {key for key in left if key.startswith(BEYOND) or (parts[key] == EMBEDDING and not model.plan.embedding)}
    unneeded |= beyond if "head" in adapt or not model.plan.num_classes else set()
    unexpected = sorted(left - unneeded)
    hints |= {"blocks" for key in unexpected if parts[key] in swapped}
    hints |= {"head" for key in unexpected if key in beyond}
    if missing or mismatched or unexpected:
        kinds = {"missing": missing, "mismatched": mismatched, "unexpected": unexpected}
        found = "; ".join(f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in kinds.items() if keys)
        ask = ", ".join(f"{hint} ({ADAPT[hint]})" for hint in ADAPT if hint in hints)
        raise ZooError(f"{source} does not fit {model.plan.net.name}: {found}" + (f"; set adapt to allow {ask}" if ask else ""))
    heads = sorted({part for part in parts.values() if part.startswith("aux ")})
    notes += [f"auxiliary heads left out: {', '.join(head.removeprefix('aux ') for head in heads)}"] if heads else []
    after = sorted({EMBEDDING if parts[key] == EMBEDDING else key.removeprefix(BEYOND).partition("/")[0] for key in beyond})
    notes += [f"layers after the network left out: {', '.join(after)}"] if after else []
    notes += ["classifier left out"] if CLASSIFIER in parts.values() and not model.plan.num_classes else []
    notes += [f"re-initialized: {', '.join(sorted(initial))}"] if initial else []
    if "head" in adapt and model.plan.num_classes:
        notes.append(f"classifier re-initialized for {model.plan.num_classes} classes")
    return values


def _but_for_channels(value: Tensor) -> tuple[int, ...]:
    return (value.shape[0], *value.shape[2:]) if value.ndim == 4 else ()


def _is_dense(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized and not value.is_meta


def other_blocks(model: Inception, card: Card | None) -> frozenset[str]:
    """Return the endpoints that differ between a card's network and `model`; none if that network needs foreign code."""
    if card is None or card.foreign_code:
        return frozenset()
    theirs = plan_of(card.model)
    alike = theirs.choices.residual_scale == model.plan.choices.residual_scale  # otherwise `differences` notes it
    computed = [{block.name: _computes(block, alike) for block in plan.blocks} for plan in (theirs, model.plan)]
    return frozenset(name for name in computed[0].keys() & computed[1].keys() if computed[0][name] != computed[1][name])


def _computes(block: Block, with_scale: bool) -> tuple[Any, ...]:
    residual = block.residual
    return block.rows, residual and (residual.relu, residual.shortcut, residual.project, residual.scale if with_scale else None)


def _initial_parts(
    model: Inception, weights: State, translation: Translation, swapped: set[str], adapt: Sequence[str]
) -> set[str]:
    """Return the parts that keep their initial weights: `adapt` allows it, and the weights do not have them in this shape."""
    has: dict[str, list[bool]] = {}
    for key, ours in model.state_dict().items():
        theirs = translation.keys.get(key)
        if not key.endswith("num_batches_tracked"):
            fits = theirs is not None and theirs in weights and weights[theirs].shape == ours.shape
            has.setdefault(part_of(key), []).append(fits)
    blocks = {part for part in swapped if part in has and not all(has[part])} if "blocks" in adapt else set()
    embedding = {EMBEDDING} if "head" in adapt and not all(has.get(EMBEDDING, [])) else set()
    heads = {part for part in has if part.startswith("aux ") and not any(has[part])} if "aux" in adapt else set()
    return blocks | embedding | heads


def differences(model: Inception, card: Card | None, layout: str, source: str) -> list[str]:
    """Return a note on each choice, such as the activation, that differs between the network and its weights.

    Args:
        model: the network that uses the weights.
        card: of the weights. Without one, a public implementation's choices are assumed.
        layout: of the weights. With `native` and no card, there is nothing to compare.
        source: name of the weights for error messages.

    Raises:
        ZooError: the kinds of normalization differ, so the weights cannot be used.
    """
    if card is None and layout == "native":
        return []
    table = {"norm": model.plan.net.norm, "activation": "relu", "stem": "imagenet", "residual_scale": None}
    theirs = {key: card.model.get(key) if card else value for key, value in table.items()}
    ours = {key: getattr(model.plan.choices, key) for key in table}
    if ours["norm"] != theirs["norm"]:
        fix = f"this network has norm={ours['norm']}; set model.norm={theirs['norm']}"
        raise ZooError(f"{source}: the weights were trained with norm={theirs['norm']}, {fix}")
    return [f"trained with {key}={theirs[key]}, used with {ours[key]}" for key in table if ours[key] != theirs[key]]


def is_classifier(key: str) -> bool:
    """Return True for a tensor with one entry for each class."""
    return part_of(key) == CLASSIFIER or (part_of(key).startswith("aux ") and key.split(".")[-2] == "fc")


def listed(keys: Sequence[str], most: int = 6) -> str:
    """Join the first `most` keys with commas, and add how many more there are."""
    return ", ".join(keys[:most]) + (f", and {len(keys) - most} more" if len(keys) > most else "")
