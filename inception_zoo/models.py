"""Create a network by name, load one from a file or from the Hub, and write it for the Hub."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import torch

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.choices import Adapt, Memory, Options, check_loading
from inception_zoo.architecture.nets import find_net
from inception_zoo.architecture.plan import make_plan
from inception_zoo.describe.drawing import draw_network
from inception_zoo.errors import ZooError
from inception_zoo.network.inception import Inception
from inception_zoo.weights.files import read_weights, resolve, sha256
from inception_zoo.weights.hub import WEIGHTS, hub_provenance, push_folder, read_hub, write_folder
from inception_zoo.weights.keras_files import BEYOND
from inception_zoo.weights.layouts import LAYOUTS
from inception_zoo.weights.loading import fill, layout_with_card, pretrain
from inception_zoo.weights.mapping import recognize, slots, translate
from inception_zoo.weights.matching import State, listed, matched
from inception_zoo.weights.sources import HUB, hub_name, is_hub, is_name, network_of_name, published
from inception_zoo.weights.undecided import decide_twin


class Pretrained(Inception):
    """A network with the methods for the Hugging Face Hub that its users know."""

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None, **options: Any) -> "Pretrained":
        """Load a network from the Hub, in evaluation mode.

        Args:
            source: ``owner/name`` on the Hub, or a folder that `save_pretrained` wrote.
            revision: Branch, tag or commit; None: the main branch.
            **options: See `load_model`.

        Raises:
            ZooError: See `load_model`.
        """
        if Path(source).is_dir():
            if revision is not None:
                raise ZooError(f"revision={revision}: {source} is a folder, which has no revisions; leave revision out")
            return load_model(Path(source) / WEIGHTS, **options)
        return load_model(f"{HUB}:{source}" + (f"@{revision}" if revision else ""), **options)

    def save_pretrained(
        self, folder: str | Path, run: Path | None = None, licence: str | None = None, repo: str | None = None
    ) -> str:
        """Write a folder for the Hub, and return the layout of its weights; see `inception_zoo.weights.hub.write_folder`."""
        size = self.preprocessing.image_size if self.preprocessing else self.plan.net.image_size
        return write_folder(self, Path(folder), partial(draw_network, self.plan, size), run, licence, repo)

    def push_to_hub(self, repo: str, private: bool = False, licence: str | None = None) -> str:
        """Write a folder for the Hub and upload it.

        Args:
            repo: ``owner/name``.
            private: Of a new repository.
            licence: Of the weights, as the Hub names it, such as `mit`.

        Returns:
            The URL of the commit.

        Raises:
            ZooError: The network states no preprocessing, or the upload failed.
        """
        hub_name(f"{HUB}:{repo}")
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / repo.rpartition("/")[2]
            self.save_pretrained(folder, licence=licence, repo=repo)
            return push_folder(folder, repo, private)


def create_model(
    name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    weights: str | Path | None = None,
    adapt: Sequence[Adapt] = (),
    freeze: str | None = None,
    compile: bool = False,
    memory: Memory = "plain",
    **choices: Unpack[Options],
) -> Pretrained:
    """Build a network by name, with random or pretrained weights.

    Args:
        name: Network or alias; ``inception-zoo list`` prints them.
        num_classes: Number of classes, the length of the logits.
        in_channels: Number of image channels.
        weights: Pretrained weights: a published name, such as ``torchvision:IMAGENET1K_V1``, ``timm:inception_v4.tf_in1k``
            or ``hf:owner/name``, a file or a run folder; see `inception_zoo.load_weights`. None: random initialization.
        adapt: Allowed differences between the network and the weights: `head`, `input`, `aux`, `blocks`.
        freeze: Freeze everything up to and including this endpoint or stage, see `Inception.freeze`; `all`: everything but
            the classifiers.
        compile: Run the network with `torch.compile`; see `Inception.compiled`.
        memory: Activation memory of training: `plain`, `lean` or `minimal`; see `inception_zoo.network.autograd`.
        **choices: Architecture options, the keys of ``conf/model``: `blocks`, `aux`, `norm`, `stem`, `width`, `activation`,
            `dropout`, `head`, `embedding`, `drop_path`, `residual_scale`, `init`; see `Choices`, and `Options` for their types,
            in `inception_zoo.architecture.choices`.

    Returns:
        The network, in training mode. It maps images, float (N, in_channels, H, W), to logits (N, num_classes).

    Raises:
        ZooError: A choice is invalid (the message names it, or the stage, row and token), or the weights do not fit.

    Example:
        >>> model = create_model("googlenet", num_classes=10, stem="medium")
        >>> model(torch.zeros(8, 3, 64, 64)).shape
        torch.Size([8, 10])
    """
    source = str(weights) if isinstance(weights, Path) else weights
    check_loading(find_net(name), weights=source, adapt=adapt, freeze=freeze, compile=compile, memory=memory)
    model = Pretrained(make_plan(find_net(name), num_classes, in_channels, **choices))
    if weights is not None:
        pretrain(model, weights, adapt)
    model.freeze(freeze)
    model.remember(memory)
    return model.compiled() if compile else model


def load_model(
    source: str | Path,
    name: str | None = None,
    trust: bool = False,
    ema: bool | None = None,
    transform_input: bool | None = None,
) -> Pretrained:
    """Load a network and its weights, in evaluation mode.

    Args:
        source: Checkpoint, run folder, weights file in any layout, or published weights by name.
        name: Network; required if neither the file's card nor the layout of its weights identifies it.
        trust: Import and run a custom block function if the card names one.
        ema: Averaged (True) or raw (False) weights, if a file has both; see `inception_zoo.load_weights`. None: a checkpoint
            of this package gives the average; for other files this is an error.
        transform_input: For a file in torchvision's layout, see `inception_zoo.load_weights`.

    Returns:
        The network. It maps images, float (N, in_channels, H, W), to logits (N, num_classes).

    Raises:
        ZooError: The file is corrupt, its layout is unknown, it does not decide `ema` or `transform_input`, or it needs a
            custom block function and `trust` is False.
    """
    if is_name(str(source)):
        for option, given in {"ema": ema, "transform_input": transform_input}.items():
            if given is not None:
                raise ZooError(f"{option}={given}: it is known for the published weights {source}; leave this option out")
        if is_hub(str(source)):
            return _of_the_hub(str(source), name, trust)
        net = name or network_of_name(str(source))
        entry = published(str(source), net)
        model = _network_of(read_weights(path := entry.download())[0], path, name, (entry.provenance.layout, net))
        pretrain(model, source)
        return model.eval()
    path = resolve(source)
    state, plain, notes = read_weights(path, ema)
    if plain is None:
        digest, found = sha256(path), recognize(state)
        if found:
            found = decide_twin(state, found, str(path), digest, name)
        model = _network_of(state, path, name, found)
        fill(model, state, None, str(path), digest, transform_input=transform_input, read=notes)
        return model.eval()
    card = Card.of(plain)
    model = _of_card(card, state, str(path), trust)
    fill(model, state, card, str(path), None, transform_input=transform_input, read=notes)
    model.provenance = card.provenance  # where its training started; `fill` recorded this file
    return model.eval()


def _of_card(card: Card, state: State, source: str, trust: bool) -> Pretrained:
    """Create the network of a card, without its weights, after the comparison of all shapes."""
    card.check_code(source, trust)
    with torch.device("meta"):  # before memory is allocated: the card may be wrong
        shapes = create_model(**card.model)
    matched(shapes, state, translate(shapes, layout_with_card(state, card.model["name"])), (), source, [])
    return create_model(**card.model)


def _of_the_hub(source: str, name: str | None, trust: bool) -> Pretrained:
    """Load weights from the Hub with the network that their card names."""
    found = read_hub(source)
    if name not in (None, found.card.model["name"]):
        raise ZooError(f"{source} has weights of {found.card.model['name']}, not of {name}")
    model = _of_card(found.card, found.state, source, trust)
    fill(model, found.state, found.card, source, sha256(found.path), read=found.notes)
    model.provenance = hub_provenance(model, found)
    return model.eval()


def _network_of(state: State, path: Path, name: str | None, found: tuple[str, str] | None) -> Pretrained:
    """Create the network for weights without a card; classes, channels and auxiliary heads are those of the weights.

    Args:
        state: the weights.
        path: of their file.
        name: of the network, as the user says.
        found: layout and network that the names of the weights match.
    """
    if not found and not name:
        raise ZooError(f"{path}: unknown layout, with keys like {listed(sorted(state), 3)}; if it is native, give --model")
    if not found or (name and name != found[1]):
        first = make_plan(find_net(name or "")).blocks[0].name
        conv, fc, aux = f"{first}.0.0.conv.weight", "fc.weight", any(key.startswith("aux.") for key in state)
    else:
        name = found[1]
        style, every = LAYOUTS[found[0]][name].style, list(slots(LAYOUTS[found[0]][name]))
        conv, fc = every[0].key(style, "conv.weight") or "", every[-1].key(style, "weight") or ""
        aux = any(slot.part.startswith("aux ") and slot.keys(style) & state.keys() for slot in every)
    if after := sorted({key.split("/")[1] for key in state if key.startswith(BEYOND)}):
        own = f'create_model("{name}", CLASSES, weights=FILE, adapt=["head"]) in Python'
        raise ZooError(f"{path} has several layers after the network ({', '.join(after)}), not one classifier; use {own}")
    without_classes = found is not None and fc not in state  # such as the base of a Keras network
    if conv not in state or (fc not in state and not without_classes):
        raise ZooError(f"{path} does not contain {name}: {conv if conv not in state else fc} is missing")
    return create_model(name or "", 0 if without_classes else len(state[fc]), state[conv].shape[1], aux=aux)
