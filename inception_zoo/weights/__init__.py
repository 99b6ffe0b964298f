"""Weights in and out: our own, and those of the public implementations."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from inception_zoo.choices import ADAPT
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.nets import find_net
from inception_zoo.network import Inception, create_model
from inception_zoo.plan import make_plan
from inception_zoo.preprocessing import IMAGENET, Preprocessing
from inception_zoo.variants import BLOCKS, REDUCTIONS
from inception_zoo.weights.card import Card, Provenance, model_arguments
from inception_zoo.weights.files import read_weights, resolve, sha256, write_weights
from inception_zoo.weights.layouts import LAYOUTS
from inception_zoo.weights.mapping import CLASSIFIER, Translation, names_of, part_of, recognize, slots, translate
from inception_zoo.weights.normalization import adapted, first_conv, fold_normalization, pads
from inception_zoo.weights.sources import is_name, published

__all__ = ["card_of", "export_weights", "fold_normalization", "load_model", "load_weights", "pretrain", "save_model"]

log = logging.getLogger(__name__)
NAMES = ("native", *LAYOUTS)
State = Mapping[str, Tensor]


def load_weights(model: Inception, weights: State | str | Path, layout: str = "auto", adapt: Sequence[str] = ()) -> Provenance:
    """Copy weights into `model`, from a state dict or a file; every tensor must have its place, and every place its tensor.

    `model.preprocessing`, `.classes` and `.provenance` follow from the file's card, or from the layout where all its weights
    have one preprocessing. What a network has beside these weights, or they beside it, is an error unless `adapt` names it:

    * `head`: the classifiers (of auxiliary heads too) stay as drawn, for other classes;
    * `input`: the first convolution is adapted to `in_channels`;
    * `aux`: auxiliary heads that the weights lack stay as drawn;
    * `blocks`: so do blocks that are swapped.

    Auxiliary heads that only the weights have are left out, which is said.

    Args:
        model: a network of the zoo; changed in place.
        weights: tensors by key, or the path of a `.safetensors`, `.pth`, `.ckpt` or Keras `.h5` file, or a run folder.
        layout: `native`, `torchvision`, `timm`, `cadene`, `keras`, or `auto`, which recognizes it.
        adapt: see above.

    Returns:
        Where the weights came from, and notes of what was adapted.

    Raises:
        ZooError: lists the keys that are missing, unexpected or misshapen. `model` is then as it was.
    """
    for part in adapt:
        if part not in ADAPT:
            raise ZooError(f"adapt={part} is unknown; {did_you_mean(part, ADAPT)}")
    card, source, digest = None, "the state dict", None
    if not isinstance(weights, Mapping):
        path = resolve(weights)
        weights, plain = read_weights(path)
        card, source, digest = Card.of(plain) if plain else None, str(path), sha256(path)
    layout = _layout(model, weights, layout, card, source)
    names = LAYOUTS[layout][model.plan.net.name] if layout != "native" else None
    preprocessing = card.preprocessing if card else None
    if names and names.normalized:
        size = model.plan.net.image_size
        preprocessing = Preprocessing(size, *names.normalized, resize=round(size / 0.875))
    notes = _differences(model, card, layout, source)
    model.preprocessing = _copy(model, weights, layout, adapt, preprocessing, source, notes)
    model.classes = list(card.classes) if card and card.classes and "head" not in adapt else None
    origin = asdict(card.provenance) if card and card.provenance else None
    model.provenance = Provenance(source, layout, digest, notes=notes, origin=origin)
    _say(model.provenance)
    return model.provenance


def pretrain(model: Inception, source: str | Path, adapt: Sequence[str] = ()) -> None:
    """Load published weights by name (``torchvision:IMAGENET1K_V1``, ``timm:inception_v4.tf_in1k``), or as `load_weights`.

    Raises:
        ZooError: the library has no such weights, they do not fit, or they cannot be downloaded.
    """
    if not is_name(str(source)):
        load_weights(model, source, adapt=adapt)
        return
    entry = published(str(source), model.plan.net.name)
    path = entry.download()
    layout, notes = entry.provenance.layout, _differences(model, None, entry.provenance.layout, str(source))
    model.preprocessing = _copy(model, read_weights(path)[0], layout, adapt, entry.preprocessing, str(source), notes)
    model.classes = entry.classes if "head" not in adapt else None
    if entry.normalized_again:
        if pads(model) or model.plan.in_channels != len(IMAGENET[0]):
            notes.append("transform_input: the images are normalized for it from the start, with mean and std 0.5")
        else:
            fold_normalization(model, *IMAGENET)
            notes.append(f"transform_input is folded into {first_conv(model)}")
    model.provenance = replace(entry.provenance, sha256=sha256(path), notes=notes)
    _say(model.provenance)


def _say(provenance: Provenance) -> None:
    for note in provenance.notes:
        log.warning("%s: %s", provenance.source, note)


def _copy(
    model: Inception,
    weights: State,
    layout: str,
    adapt: Sequence[str],
    preprocessing: Preprocessing | None,
    source: str,
    notes: list[str],
) -> Preprocessing | None:
    """Copy what fits, adapt what may be, add notes of it; the preprocessing for the channels that `model` reads."""
    for part in adapt:
        if part not in ADAPT:
            raise ZooError(f"adapt={part} is unknown; {did_you_mean(part, ADAPT)}")
    values = _matched(model, weights, translate(model, layout), adapt, f"{source} ({layout})", notes)
    conv, channels = first_conv(model), model.plan.in_channels
    if (weight := values.get(f"{conv}.weight")) is not None:
        if layout != "native" and LAYOUTS[layout][model.plan.net.name].bgr:
            values[f"{conv}.weight"] = weight.flip(1)
            notes.append(f"{conv} read blue, green, red and reads red, green, blue now")
        if weight.shape[1] != channels:
            if pads(model) and preprocessing and len(set(preprocessing.mean)) > 1:
                notes.append(f"{conv} pads with zeros and its channels have different means, so the edge is not exact")
            changed, preprocessing = adapted(values, conv, channels, preprocessing)
            values |= changed
            notes.append(f"{conv} adapted from {weight.shape[1]} to {channels} channels")
    state = model.state_dict()
    for key, value in values.items():
        state[key].copy_(value)
    return preprocessing


def _layout(model: Inception, weights: State, layout: str, card: Card | None, source: str) -> str:
    """The layout that is meant; ZooError if the weights are another network's, or nobody's."""
    net = model.plan.net.name
    if card and card.model["name"] != net:
        raise ZooError(f"{source} holds {card.model['name']}, not {net}")
    if layout in LAYOUTS or layout == "native":
        return layout
    if layout != "auto":
        raise ZooError(f"layout={layout} is unknown; {did_you_mean(layout, [*NAMES, 'auto'])}")
    if card or len(weights.keys() & model.state_dict().keys()) > len(weights) / 2:
        return "native"
    found = recognize(weights.keys())
    if not found:
        raise ZooError(f"{source} has no known layout; its keys are like {_listed(sorted(weights), 3)}")
    if found[1] != net:
        raise ZooError(f"{source} holds {found[1]} in the layout of {found[0]}, not {net}")
    return found[0]


def _differences(model: Inception, card: Card | None, layout: str, source: str) -> list[str]:
    """Notes of what the network computes otherwise than that of the weights; ZooError if the weights would mean nothing."""
    if card is None and layout == "native":
        return []
    table = {"norm": model.plan.net.norm, "activation": "relu", "stem": "imagenet", "residual_scale": None}
    theirs = {key: card.model.get(key) if card else value for key, value in table.items()}
    ours = {key: getattr(model.plan.choices, key) for key in table}
    if ours["norm"] != theirs["norm"]:
        raise ZooError(f"{source}: the weights were trained with norm={theirs['norm']}, this network has norm={ours['norm']}")
    return [f"trained with {key}={theirs[key]}, used with {ours[key]}" for key in table if ours[key] != theirs[key]]


def _matched(
    model: Inception, weights: State, translation: Translation, adapt: Sequence[str], source: str, notes: list[str]
) -> dict[str, Tensor]:
    """Our tensors' new values; ZooError with every key that has no counterpart."""
    values: dict[str, Tensor] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    hints: set[str] = set()  # what `adapt` could do about it
    swapped = {block.name for block in model.plan.blocks if block.swapped}
    drawn = _drawn_anew(model, weights, translation, swapped, adapt)
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
        adaptable = key == f"{first_conv(model)}.weight" and value.ndim == 4 and value.shape[::2] == ours.shape[::2]
        if value.shape == ours.shape or (adaptable and "input" in adapt):
            values[key] = value
        else:
            misshapen.append(f"{theirs} is {tuple(value.shape)}, due {tuple(ours.shape)}")
            hints.add("input" if adaptable else "head" if is_classifier(key) else "blocks" if part in swapped else "")
    left = weights.keys() - translation.keys.values()
    parts = {key: translation.spare.get(key, part_of(key) if "." in key else key) for key in left}
    unneeded = {key for key, part in parts.items() if part.startswith("aux ")}
    unneeded |= {key for key, part in parts.items() if part in drawn}
    unexpected = sorted(left - unneeded)
    hints |= {"blocks" for key in unexpected if parts[key] in swapped}
    if missing or misshapen or unexpected:
        kinds = {"missing": missing, "misshapen": misshapen, "unexpected": unexpected}
        found = "; ".join(f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in kinds.items() if keys)
        asked = ", ".join(f"{hint}: {ADAPT[hint]}" for hint in ADAPT if hint in hints)
        raise ZooError(f"{source} does not fit {model.plan.net.name}: {found}" + (f"; adapt takes {asked}" if asked else ""))
    heads = sorted({part for part in parts.values() if part.startswith("aux ")})
    notes += [f"auxiliary heads left out: {', '.join(head.removeprefix('aux ') for head in heads)}"] if heads else []
    notes += [f"drawn anew: {', '.join(sorted(drawn))}"] if drawn else []
    notes += [f"classifier drawn anew for {model.plan.num_classes} classes"] if "head" in adapt else []
    return values


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


def is_classifier(key: str) -> bool:
    """Whether a tensor has a length for each class."""
    return part_of(key) == CLASSIFIER or (part_of(key).startswith("aux ") and key.split(".")[-2] == "fc")


def _listed(keys: Sequence[str], most: int = 6) -> str:
    return ", ".join(keys[:most]) + (f", and {len(keys) - most} more" if len(keys) > most else "")


def export_weights(model: Inception, layout: str = "native") -> dict[str, Tensor]:
    """The state dict of `model` in another implementation's names; loaded there it computes the same.

    Where BatchNorm has no scale (Keras), one other than 1 is multiplied into the convolution: equal in evaluation.

    Raises:
        ZooError: the layout does not have this network, or has it otherwise: names the block that is swapped, or the choice.
    """
    if layout not in NAMES:
        raise ZooError(f"layout={layout} is unknown; {did_you_mean(layout, NAMES)}")
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    if layout == "native":
        return state
    names = names_of(layout, model.plan.net.name)
    swapped = [block.name for block in model.plan.blocks if block.swapped]
    if swapped:
        raise ZooError(f"layout={layout} has only the published blocks, and {', '.join(swapped)} of this network are swapped")
    if other := _differences(model, None, layout, f"layout={layout}"):
        raise ZooError(f"layout={layout} has only the published network: {'; '.join(other)}")
    conv = f"{first_conv(model)}.weight"
    if names.bgr:
        state[conv] = state[conv].flip(1)
    keys = translate(model, layout).keys
    for key in [key for key, theirs in keys.items() if theirs is None and key.endswith("norm.weight")]:
        scale = state[key]
        if (scale != 1).any():
            log.warning("layout=%s: the scale of %s is multiplied into its convolution", layout, key.removesuffix(".weight"))
            unit = key.removesuffix("norm.weight")
            state[f"{unit}conv.weight"] *= scale.view(-1, 1, 1, 1)
            state[f"{unit}norm.running_mean"] *= scale
    lost = sorted({part_of(key) for key in state if key not in keys})
    if lost:
        log.warning("layout=%s has no %s: left out", layout, ", ".join(lost))
    return {theirs: state[key] for key, theirs in keys.items() if theirs is not None}


def card_of(model: Inception) -> Card:
    """What `model` says of itself beside its weights."""
    return Card(model_arguments(model.plan), model.classes, model.preprocessing, model.provenance)


def save_model(model: Inception, path: str | Path) -> None:
    """Save weights as safetensors, with the card in its metadata; `load_model` builds the network again from it."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ZooError(f"{path}: a saved model's name ends in .safetensors")
    write_weights(path, model.state_dict(), card_of(model).text())


def load_model(path: str | Path, name: str | None = None, trust: bool = False) -> Inception:
    """Build the network that a file holds, in evaluation mode: a checkpoint, a run folder, `.safetensors`, or a known layout.

    Args:
        path: the file or run folder.
        name: the network, for files without a card; recognized when left out.
        trust: import a user's own block function that the card names. It runs that code.

    Raises:
        ZooError: the file is damaged or of no known layout, or it asks for code and is not trusted.
    """
    path = resolve(path)
    state, plain = read_weights(path)
    if plain:
        card = Card.of(plain)
        known = BLOCKS | REDUCTIONS
        foreign = [c for c in card.model.get("blocks", {}).values() if isinstance(c, str) and c not in known]
        if foreign and not trust:
            raise ZooError(
                f"{path} needs the function {foreign[0]}, which would run code; trust it only if it is yours (--trust)"
            )
        model = create_model(**card.model)
    else:
        model = _network_of(state, path, name)
    load_weights(model, path)
    model.provenance = card.provenance if plain else model.provenance
    return model.eval()


def _network_of(state: State, path: Path, name: str | None) -> Inception:
    """A network with the classes, channels and auxiliary heads of weights without a card."""
    found = recognize(state)
    if not found and not name:
        raise ZooError(
            f"{path} has no known layout; its keys are like {_listed(sorted(state), 3)}; if they are ours, give --model"
        )
    if not found or (name and name != found[1]):
        first = make_plan(find_net(name or "")).blocks[0].name
        conv, fc, aux = f"{first}.0.0.conv.weight", "fc.weight", any(key.startswith("aux.") for key in state)
    else:
        name = found[1]
        style, every = LAYOUTS[found[0]][name].style, list(slots(LAYOUTS[found[0]][name]))
        conv, fc = every[0].key(style, "conv.weight") or "", every[-1].key(style, "weight") or ""
        aux = any(slot.part.startswith("aux ") and slot.keys(style) & state.keys() for slot in every)
    if conv not in state or fc not in state:
        raise ZooError(f"{path} does not hold {name}: it has no {conv if conv not in state else fc}")
    return create_model(name or "", len(state[fc]), state[conv].shape[1], aux=aux)
