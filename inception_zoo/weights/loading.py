"""Weights into a network: from a state dict, a file, or published ones by name."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from inception_zoo.architecture.card import Card, Provenance
from inception_zoo.architecture.choices import ADAPT
from inception_zoo.architecture.preprocessing import IMAGENET, Preprocessing, usual_resize
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.network.inception import Inception
from inception_zoo.weights.files import read_weights, resolve, sha256
from inception_zoo.weights.layouts import LAYOUTS
from inception_zoo.weights.mapping import names_of, recognize, translate
from inception_zoo.weights.matching import State, differences, listed, matched, other_blocks
from inception_zoo.weights.normalization import adapted, first_conv, fold_normalization, pads
from inception_zoo.weights.sources import is_name, published

log = logging.getLogger(__name__)


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
    if isinstance(weights, Mapping):
        return fill(model, weights, None, "the state dict", None, layout, adapt)
    path = resolve(weights)
    state, plain = read_weights(path)
    card = Card.of(plain) if plain is not None else None
    return fill(model, state, card, str(path), sha256(path), layout, adapt)


def fill(
    model: Inception,
    weights: State,
    card: Card | None,
    source: str,
    digest: str | None,
    layout: str = "auto",
    adapt: Sequence[str] = (),
) -> Provenance:
    """`load_weights` of what was read already: tensors, card and SHA-256 of `source`."""
    layout = _layout(model, weights, layout, card, source)
    names = names_of(layout, model.plan.net.name) if layout != "native" else None
    preprocessing = card.preprocessing if card else None
    if names and names.normalized:
        size = model.plan.net.image_size
        preprocessing = Preprocessing(size, *names.normalized, resize=usual_resize(size))
    notes = differences(model, card, layout, source)
    other = other_blocks(model, card)
    model.preprocessing = _copy(model, weights, layout, adapt, preprocessing, source, notes, other)
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
    layout, notes = entry.provenance.layout, differences(model, None, entry.provenance.layout, str(source))
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


def _layout(model: Inception, weights: State, layout: str, card: Card | None, source: str) -> str:
    """The layout that is meant; ZooError if the weights are another network's, or nobody's."""
    net = model.plan.net.name
    if card and card.model["name"] != net:
        raise ZooError(f"{source} holds {card.model['name']}, not {net}")
    if layout in LAYOUTS or layout == "native":
        return layout
    if layout != "auto":
        raise ZooError(f"layout={layout} is unknown; {did_you_mean(layout, ['native', *LAYOUTS, 'auto'])}")
    if card or len(weights.keys() & model.state_dict().keys()) > len(weights) / 2:
        return "native"
    found = recognize(weights.keys())
    if not found:
        raise ZooError(f"{source} has no known layout; its keys are like {listed(sorted(weights), 3)}")
    if found[1] != net:
        raise ZooError(f"{source} holds {found[1]} in the layout of {found[0]}, not {net}")
    return found[0]


def _copy(
    model: Inception,
    weights: State,
    layout: str,
    adapt: Sequence[str],
    preprocessing: Preprocessing | None,
    source: str,
    notes: list[str],
    other: frozenset[str] = frozenset(),
) -> Preprocessing | None:
    """Copy what fits, adapt what may be, add notes of it; the preprocessing for the channels that `model` reads."""
    for part in adapt:
        if part not in ADAPT:
            raise ZooError(f"adapt={part} is unknown; {did_you_mean(part, ADAPT)}")
    values = matched(model, weights, translate(model, layout), adapt, f"{source} ({layout})", notes, other)
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
    if preprocessing and len(preprocessing.mean) != channels:  # the first convolution was drawn anew
        preprocessing = None
        notes.append("what its images were normalized with does not fit the channels, and is left out")
    state = model.state_dict()
    for key, value in values.items():
        state[key].copy_(value)
    return preprocessing


def _say(provenance: Provenance) -> None:
    for note in provenance.notes:
        log.warning("%s: %s", provenance.source, note)
