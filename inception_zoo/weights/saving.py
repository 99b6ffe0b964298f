"""Export weights in the names of another implementation, or save them in the zoo's own file format."""

import logging
from pathlib import Path

from torch import Tensor

from inception_zoo.architecture.card import Card, model_arguments
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.network.inception import Inception
from inception_zoo.weights.files import with_transform, write_weights
from inception_zoo.weights.layouts import LAYOUTS, Normalized
from inception_zoo.weights.mapping import names_of, part_of, translate, twins_of
from inception_zoo.weights.matching import differences
from inception_zoo.weights.normalization import Tensors, first_conv, pads, renormalized

log = logging.getLogger(__name__)
NAMES = ("native", *LAYOUTS)


def export_weights(model: Inception, layout: str = "native") -> dict[str, Tensor]:
    """Return the state dict of `model` in the names of another implementation, which then computes the same outputs.

    If BatchNorm has no scale there (Keras), a scale other than 1 is multiplied into the convolution. The outputs in
    evaluation mode stay equal.

    Args:
        model: a network of the zoo; not changed.
        layout: `native` (the zoo's names), `torchvision`, `timm`, `cadene`, `keras`, `fid`, `lucid` or `facenet`.

    Returns:
        Copies of the tensors by the layout's keys, with the shapes and dtypes of `model.state_dict()`. In torchvision's
        names, the attribute `transform_input` of the dictionary is False: its network must be built without it. `torch.save`
        keeps it.

    Raises:
        ZooError: the layout does not have this network, or not with these classes, swapped blocks or choices.
    """
    if layout not in NAMES:
        raise ZooError(f"layout={layout} is unknown; {did_you_mean(layout, NAMES)}")
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    if layout == "native":
        return state
    names = names_of(layout, model.plan.net.name)
    if names.read_only:
        raise ZooError(f"layout={layout} cannot be written for {model.plan.net.name}: {names.read_only}; use the native layout")
    for twin in twins_of(layout, model.plan.net.name):
        if model.plan.num_classes not in (0, twin.classes):
            raise ZooError(
                f"layout={layout} has {twin.classes} classes: a file with {model.plan.num_classes} would be read as another "
                f"network's, since the names are equal; use the native layout"
            )
    if bool(model.plan.embedding) != bool(names.embedding):
        has = "no embedding, but this network has one" if model.plan.embedding else "an embedding, which this network lacks"
        raise ZooError(f"layout={layout} of {model.plan.net.name} has {has}; use the native layout")
    swapped = [block.name for block in model.plan.blocks if block.swapped]
    if swapped:
        raise ZooError(f"layout={layout} has only the published blocks, but these are swapped: {', '.join(swapped)}")
    if other := differences(model, None, layout, f"layout={layout}"):
        raise ZooError(f"layout={layout} has only the published network: {'; '.join(other)}")
    _normalize_as_theirs(model, state, names.normalized, layout)
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
        log.warning("layout=%s does not have %s: not exported", layout, ", ".join(lost))
    renamed = {theirs: state[key] for key, theirs in keys.items() if theirs is not None}
    return with_transform(renamed, False) if names.transforms or names.twin else renamed


def _normalize_as_theirs(model: Inception, state: Tensors, normalized: Normalized | None, layout: str) -> None:
    """Adapt the first convolution to the normalization of the layout's published weights; else log the required one."""
    ours = model.preprocessing
    if ours is None or (ours.mean, ours.std) == normalized:
        return
    if normalized and not pads(model) and len(ours.mean) == len(normalized[0]):
        state |= renormalized(state, first_conv(model), ours, *normalized)
        log.warning("layout=%s: first convolution adapted to the usual mean %s, std %s", layout, *normalized)
    else:
        log.warning("layout=%s stores no preprocessing: use mean %s, std %s", layout, list(ours.mean), list(ours.std))


def save_model(model: Inception, path: str | Path) -> None:
    """Save a network as safetensors, with its card in the metadata. `load_model` rebuilds the network from the file.

    Args:
        model: a network of the zoo.
        path: ends in .safetensors; an existing file is replaced atomically.

    Raises:
        ZooError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ZooError(f"{path}: the name of a saved model must end in .safetensors")
    write_weights(path, model.state_dict(), card_of(model).text())


def card_of(model: Inception) -> Card:
    """Return the card of `model`: its arguments, classes, preprocessing, provenance and decision."""
    return Card(model_arguments(model.plan), model.classes, model.preprocessing, model.provenance, model.decision)
