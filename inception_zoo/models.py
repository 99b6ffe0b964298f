"""The two doors to a network: by name, or from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.nets import find_net
from inception_zoo.architecture.plan import make_plan
from inception_zoo.errors import ZooError
from inception_zoo.network.inception import Inception
from inception_zoo.weights.files import read_weights, resolve, sha256
from inception_zoo.weights.layouts import LAYOUTS
from inception_zoo.weights.loading import fill, pretrain
from inception_zoo.weights.mapping import recognize, slots, translate
from inception_zoo.weights.matching import State, listed, matched
from inception_zoo.weights.sources import is_name, network_of_name, published


def create_model(
    name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    weights: str | Path | None = None,
    adapt: Sequence[str] = (),
    freeze: str | None = None,
    compile: bool = False,
    memory: str = "plain",
    **choices: Any,
) -> Inception:
    """Build a network of the zoo, with random weights or with those that are given.

    Args:
        name: a network or alias, see ``inception-zoo list``.
        num_classes: length of the logits.
        in_channels: channels of the images.
        weights: published ones by name, as ``torchvision:IMAGENET1K_V1`` or ``timm:inception_v4.tf_in1k``, a file or a run
            folder; see `inception_zoo.load_weights`.
        adapt: what may differ from the weights: `head`, `input`, `aux`, `blocks`.
        freeze: the last endpoint that training leaves as it is, with all before it; see `Inception.freeze`.
        compile: run it by `torch.compile`, see `Inception.compiled`.
        memory: what training keeps for the backward pass: `plain`, `lean` or `minimal`; see `inception_zoo.network.autograd`.
        **choices: the keys of ``conf/model`` under the same names: `blocks`, `aux`, `norm`, `stem`, `width`,
            `activation`, `dropout`, `drop_path`, `residual_scale`, `init`; see `inception_zoo.architecture.choices.Choices`.

    Raises:
        ZooError: names the network and the choice, or the stage, row and token at fault, or the weights that do not fit.
    """
    model = Inception(make_plan(find_net(name), num_classes, in_channels, **choices))
    if weights is not None:
        pretrain(model, weights, adapt)
    model.freeze(freeze)
    model.remember(memory)
    return model.compiled() if compile else model


def load_model(source: str | Path, name: str | None = None, trust: bool = False) -> Inception:
    """Build the network that a file holds, in evaluation mode.

    Args:
        source: a checkpoint, a run folder, a file of weights in any layout, or published weights by name.
        name: the network, where neither a card nor the layout says it.
        trust: import a user's own block function that the card names. It runs that code.

    Raises:
        ZooError: the file is damaged or of no known layout, or it asks for code and is not trusted.
    """
    if is_name(str(source)):
        entry = published(str(source), name or network_of_name(str(source)))
        model = _network_of(read_weights(path := entry.download())[0], path, name)
        pretrain(model, source)
        return model.eval()
    path = resolve(source)
    state, plain = read_weights(path)
    if plain is None:
        model = _network_of(state, path, name)
        fill(model, state, None, str(path), sha256(path))
        return model.eval()
    card = Card.of(plain)
    card.check_code(path, trust)
    with torch.device("meta"):  # no memory is taken for what the file does not hold
        shapes = create_model(**card.model)
    matched(shapes, state, translate(shapes, "native"), (), str(path), [])
    model = create_model(**card.model)
    fill(model, state, card, str(path), None)
    model.provenance = card.provenance  # these are the network's own weights, not others' that it starts from
    return model.eval()


def _network_of(state: State, path: Path, name: str | None) -> Inception:
    """A network with the classes, channels and auxiliary heads of weights without a card."""
    found = recognize(state)
    if not found and not name:
        raise ZooError(
            f"{path} has no known layout; its keys are like {listed(sorted(state), 3)}; if they are ours, give --model"
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
