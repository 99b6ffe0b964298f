"""Facts about a network that its file may leave open: they are read from the file, asked for, or the file is refused."""

from pathlib import Path

from inception_zoo.errors import ZooError
from inception_zoo.weights.entries import CONVERT
from inception_zoo.weights.files import stated_transform
from inception_zoo.weights.layouts import LAYOUTS, Names
from inception_zoo.weights.mapping import slots, twins_of
from inception_zoo.weights.matching import State

# First digits of the SHA-256 of torchvision's published Inception-v3 and GoogLeNet, whose networks have transform_input:
PRETRAINED = ("0cc3c7bd", "1378be20")


def decide_twin(
    weights: State,
    found: tuple[str, str],
    source: str,
    digest: str | None = None,
    net: str | None = None,
    layout_given: bool = False,
) -> tuple[str, str]:
    """Return the layout and the network of weights whose names and shapes two networks share.

    Args:
        weights: tensors by key in the names of `found`.
        found: layout and network that the names of the weights match.
        source: path of the file, or another name of the weights.
        digest: SHA-256 of the file.
        net: the network that the user named.
        layout_given: the user named the layout.

    Raises:
        ZooError: nothing distinguishes the two networks, or the weights are not those of a network that the user named.
    """
    names = LAYOUTS[found[0]][found[1]]
    for entry in twins_of(*found):
        fc = weights.get(f"{names.fc}.weight")
        if stated_transform(weights) is not None or (fc is not None and fc.shape[:1] != (entry.classes,)):
            raise ZooError(f"{source} has the weights of another network with {found[1]}'s names, not of {found[1]}")
    twin = names.twin
    if twin is None or stated_transform(weights) is not None:  # an export of this package
        return found
    layers = list(slots(names))
    fc = weights.get(layers[-1].key(names.style, "weight") or "")
    heads = any(slot.part.startswith("aux ") and slot.keys(names.style) & weights.keys() for slot in layers)
    if heads or (fc is not None and fc.shape[:1] != (twin.classes,)):
        return found
    if net == twin.net or (digest or "").startswith(twin.sha256) or twin.file in Path(source).name:
        return twin.layout, twin.net
    if fc is None and layout_given:
        return found
    classes = "no classifier" if fc is None else f"{twin.classes} classes"
    own = "" if fc is not None else f'; if it is {found[1]}, load it with layout="{found[0]}" in Python'
    raise ZooError(
        f"{source} may be {twin.net}, FID's network ({classes}, no auxiliary head): {found[1]} has the same names and shapes, "
        f"but computes other outputs ({twin.differs}); if it is {twin.net}, give this name (convert: --model {twin.net}){own}"
    )


def transform_input_of(weights: State, names: Names | None, source: str, given: bool | None, digest: str | None = None) -> bool:
    """Return True if the network of the weights normalizes images a second time (torchvision's `transform_input`).

    Args:
        weights: tensors by key in the names of a layout.
        names: of the layout; None for the native one.
        source: name of the weights for messages.
        given: the user's answer; None if there is none.
        digest: SHA-256 of the file.

    Raises:
        ZooError: nothing decides, or `given` contradicts what is known.
    """
    known = stated_transform(weights)
    if names is None or not names.transforms:
        known = False
    else:
        first = next(slots(names))
        conv = weights.get(first.key(names.style, "conv.weight") or "")
        if conv is not None and conv.ndim == 4 and conv.shape[1] != 3:  # it is defined for colour images only
            known = False
    if (digest or "").startswith(PRETRAINED):
        known = True
    if known is None and given is None:
        yes = "--transform-input (torchvision's pretrained networks, and those fine-tuned from them)"
        options = f"{yes} or --no-transform-input (others, such as timm's, and files that older versions of this package wrote)"
        raise ZooError(
            f"{source} does not store if torchvision's network has transform_input=True; give {options}, in Python "
            f"transform_input=True or transform_input=False; {CONVERT}"
        )
    if known is not None and given is not None and given != known:
        does = "normalizes images again" if known else "does not normalize images again"
        raise ZooError(f"transform_input={given}: the network of {source} {does}; leave --{'no-' * known}transform-input out")
    return bool(known if given is None else given)
