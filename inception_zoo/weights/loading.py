"""Load weights into a network from a state dict, a file, or a library that publishes them by name."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from inception_zoo.architecture.card import Card, Provenance
from inception_zoo.architecture.choices import ADAPT, Adapt
from inception_zoo.architecture.decision import Decision
from inception_zoo.architecture.preprocessing import HALF, IMAGENET, Preprocessing, usual_resize
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.network.inception import Inception
from inception_zoo.weights.entries import chosen
from inception_zoo.weights.files import read_weights, resolve, sha256, stated_transform, with_transform
from inception_zoo.weights.hub import hub_provenance, read_hub
from inception_zoo.weights.layouts import LAYOUTS
from inception_zoo.weights.mapping import names_of, recognize, translate
from inception_zoo.weights.matching import State, differences, listed, matched, other_blocks
from inception_zoo.weights.normalization import adapted, first_conv, fold_normalization, pads
from inception_zoo.weights.sources import is_hub, is_name, published
from inception_zoo.weights.undecided import decide_twin, transform_input_of

log = logging.getLogger(__name__)
REPLACED = "transform_input is replaced: images are normalized with mean 0.5 and std 0.5 instead"


def load_weights(
    model: Inception,
    weights: State | str | Path,
    layout: str = "auto",
    adapt: Sequence[Adapt] = (),
    ema: bool | None = None,
    transform_input: bool | None = None,
) -> Provenance:
    """Copy weights from a state dict or a file into `model`.

    Loading is strict: each tensor of the network needs a tensor in the weights, and the reverse. Name allowed differences
    in `adapt`; each one is logged:

    * `head`: all classifiers keep their initial weights, for other classes; so does an embedding that the weights lack;
    * `input`: the first convolution is adapted to `in_channels`;
    * `aux`: auxiliary heads that the weights lack keep their initial weights;
    * `blocks`: swapped blocks that the weights do not fit keep their initial weights.

    Auxiliary heads that only the weights have are ignored with a warning.

    The function also sets `model.preprocessing`, `model.classes` and `model.provenance` from the file's card. Without a
    card, the preprocessing is that of the layout, if all weights published in it share one.

    Facts that the weights do not decide are not assumed: without `ema` or `transform_input`, the function then raises.

    Args:
        model: a network of the zoo; changed in place.
        weights: tensors by key, with the shapes and dtypes of the layout; or the path of a `.safetensors`, `.pth`, `.ckpt`
            or Keras `.h5` file, or of a run folder.
        layout: `native`, `torchvision`, `timm`, `cadene`, `keras`, `fid`, `lucid`, `facenet`, or `auto`, which recognizes it.
        adapt: any of `head`, `input`, `aux` and `blocks`.
        ema: if the weights are there twice, raw and averaged over the training: True takes the average, False the raw ones.
        transform_input: for weights in torchvision's layout: True if torchvision's network was built with it, as its
            pretrained networks are. Such a network normalizes images again, after ImageNet's mean and std. This is folded
            into the first convolution where that is exact; otherwise `model.preprocessing` has mean 0.5 and std 0.5 instead.

    Returns:
        The origin of the weights, and notes on what was read and adapted.

    Raises:
        ZooError: the weights do not fit; lists all keys that are missing, unexpected or mismatched. Or the weights do not
            decide a fact, and no argument states it. `model` is unchanged.
    """
    if isinstance(weights, Mapping):
        entry, notes = chosen(weights, "the state dict", ema)
        stated = stated_transform(entry.holder)
        state = entry.state if stated is None else with_transform(entry.state, stated)
        return fill(model, state, None, "the state dict", None, layout, adapt, transform_input, notes)
    path = resolve(weights)
    state, plain, notes = read_weights(path, ema)
    card = Card.of(plain) if plain is not None else None
    return fill(model, state, card, str(path), sha256(path), layout, adapt, transform_input, notes)


def fill(
    model: Inception,
    weights: State,
    card: Card | None,
    source: str,
    digest: str | None,
    layout: str = "auto",
    adapt: Sequence[str] = (),
    transform_input: bool | None = None,
    read: Sequence[str] = (),
) -> Provenance:
    """Copy weights that were already read into `model`; otherwise as `load_weights`.

    Args:
        model: a network of the zoo; changed in place.
        weights: tensors by key, with the shapes and dtypes of the layout.
        card: of the file, if it has one.
        source: path of the file, or another name of the weights, for the provenance and for messages.
        digest: SHA-256 of the file.
        layout: see `load_weights`.
        adapt: see `load_weights`.
        transform_input: see `load_weights`.
        read: notes on what was read from the file.

    Returns:
        The origin of the weights, and notes on what was read and adapted.

    Raises:
        ZooError: see `load_weights`.
    """
    layout = _layout(model, weights, layout, card, source, digest)
    names = names_of(layout, model.plan.net.name) if layout != "native" else None
    transforms = transform_input_of(weights, names, source, transform_input, digest)
    preprocessing = card.preprocessing if card else None
    normalized = HALF if transforms else names and names.normalized
    if preprocessing is None and normalized:
        size = model.plan.net.image_size
        uncropped = names is not None and not names.cropped
        preprocessing = Preprocessing(size, *normalized, resize=size if uncropped else usual_resize(size))
    notes = [*read, *differences(model, card, layout, source)]
    other = other_blocks(model, card)
    model.preprocessing = _copy(model, weights, layout, adapt, preprocessing, source, notes, other)
    if transforms:
        _expect_imagenet(model, notes)
    elif names and names.transforms and transform_input is not None:
        notes.append("used without transform_input")
    own = "head" in adapt or not model.plan.num_classes
    model.classes = list(card.classes) if card and card.classes and not own else None
    model.decision = card.decision if card and not own else Decision()
    origin = asdict(card.provenance) if card and card.provenance else None
    model.provenance = Provenance(source, layout, digest, notes=notes, origin=origin)
    _log_notes(model.provenance)
    return model.provenance


def pretrain(model: Inception, source: str | Path, adapt: Sequence[Adapt] = ()) -> None:
    """Load published weights by name, or weights from a file.

    Args:
        model: a network of the zoo; changed in place.
        source: a name such as ``torchvision:IMAGENET1K_V1``, ``timm:inception_v4.tf_in1k`` or ``hf:owner/name``, or a path for
            `load_weights`.
        adapt: allowed differences, see `load_weights`.

    Raises:
        ZooError: the weights do not exist, do not fit, or cannot be downloaded.
    """
    if is_hub(str(source)):
        found = read_hub(str(source))
        fill(model, found.state, found.card, str(source), sha256(found.path), adapt=adapt, read=found.notes)
        model.provenance = hub_provenance(model, found)
        return
    if not is_name(str(source)):
        load_weights(model, source, adapt=adapt)
        return
    entry = published(str(source), model.plan.net.name)
    path = entry.download()
    layout, notes = entry.provenance.layout, differences(model, None, entry.provenance.layout, str(source))
    model.preprocessing = _copy(model, read_weights(path)[0], layout, adapt, entry.preprocessing, str(source), notes)
    model.classes = entry.classes if "head" not in adapt and model.plan.num_classes else None
    model.decision = Decision()
    if entry.normalized_again:
        _expect_imagenet(model, notes)
    model.provenance = replace(entry.provenance, sha256=sha256(path), notes=notes)
    _log_notes(model.provenance)


def _expect_imagenet(model: Inception, notes: list[str]) -> None:
    """Fold torchvision's `transform_input`, from ImageNet's normalization to -1 … 1, where that is exact; add a note."""
    if pads(model) or model.plan.in_channels != len(IMAGENET[0]):
        notes.append(REPLACED)
    else:
        fold_normalization(model, *IMAGENET)
        notes.append(f"transform_input is folded into {first_conv(model)}")


def normalizes_again(model: Inception, source: str | Path) -> bool:
    """Return True if the model was loaded from `source`, and its preprocessing replaces torchvision's `transform_input`."""
    origin = model.provenance
    return origin is not None and origin.source == str(Path(source)) and REPLACED in origin.notes


def _layout(model: Inception, weights: State, layout: str, card: Card | None, source: str, digest: str | None) -> str:
    """Return the layout; raise ZooError if the weights are of another network or in an unknown layout."""
    net = model.plan.net.name
    if card and card.model["name"] != net:
        raise ZooError(f"{source} has weights of {card.model['name']}, not of {net}")
    if layout in LAYOUTS or layout == "native":
        if net in LAYOUTS.get(layout, {}):
            _check_net(decide_twin(weights, (layout, net), source, digest, layout_given=True), net, source)
        return layout
    if layout != "auto":
        raise ZooError(f"layout={layout} is unknown; {did_you_mean(layout, ['native', *LAYOUTS, 'auto'])}")
    if card:
        return layout_with_card(weights, net)
    if len(weights.keys() & model.state_dict().keys()) > len(weights) / 2:
        return "native"
    found = recognize(weights.keys())
    if not found:
        raise ZooError(f"{source}: unknown layout, with keys like {listed(sorted(weights), 3)}")
    found = decide_twin(weights, found, source, digest, net)
    _check_net(found, net, source)
    return found[0]


def layout_with_card(weights: State, net: str) -> str:
    """Return the layout of weights that have a card: timm's in a folder for the Hub, else native."""
    return "timm" if net in LAYOUTS["timm"] and recognize(weights.keys()) else "native"


def _check_net(found: tuple[str, str], net: str, source: str) -> None:
    if found[1] != net:
        raise ZooError(f"{source} has weights of {found[1]} in the layout of {found[0]}, not of {net}")


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
    """Copy the weights into `model`, with notes on what was adapted; return the preprocessing for its input channels."""
    for part in adapt:
        if part not in ADAPT:
            raise ZooError(f"adapt={part} is unknown; {did_you_mean(part, ADAPT)}")
    values = matched(model, weights, translate(model, layout), adapt, f"{source} ({layout})", notes, other)
    stored = {str(value.dtype).removeprefix("torch.") for value in values.values() if value.is_floating_point()}
    used = {str(value.dtype).removeprefix("torch.") for value in model.parameters()}
    notes += [f"stored as {', '.join(sorted(stored))}, used as {', '.join(used)}"] if stored - used else []
    conv, channels = first_conv(model), model.plan.in_channels
    if (weight := values.get(f"{conv}.weight")) is not None:
        if layout != "native" and LAYOUTS[layout][model.plan.net.name].bgr:
            values[f"{conv}.weight"] = weight.flip(1)
            notes.append(f"{conv} converted from BGR to RGB input")
        if weight.shape[1] != channels:
            if pads(model) and preprocessing and len(set(preprocessing.mean)) > 1:
                notes.append(f"{conv} pads with zeros and its channels have different means: values at edges are not exact")
            changed, preprocessing = adapted(values, conv, channels, preprocessing)
            values |= changed
            notes.append(f"{conv} adapted from {weight.shape[1]} to {channels} input channels")
    if preprocessing and len(preprocessing.mean) != channels:  # the first convolution was re-initialized
        preprocessing = None
        notes.append("the normalization of the weights has another number of channels and is ignored")
    state = model.state_dict()
    for key, value in values.items():
        state[key].copy_(value)
    return preprocessing


def _log_notes(provenance: Provenance) -> None:
    for note in provenance.notes:
        log.warning("%s: %s", provenance.source, note)
