"""Networks named on a command line, each followed by overrides in Hydra's syntax."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inception_zoo.architecture.card import Card, Provenance
from inception_zoo.architecture.choices import LOADING, check_loading
from inception_zoo.architecture.nets import ALIASES, ZOO, find_net
from inception_zoo.architecture.plan import Plan, make_plan, plan_of
from inception_zoo.config import CONF
from inception_zoo.config.targets import refused_targets
from inception_zoo.errors import ZooError, raise_all, unreadable
from inception_zoo.weights.sources import is_hub, is_name, published


@dataclass(frozen=True)
class Named:
    """A network named on the command line.

    Attributes:
        plan: The network.
        card: Metadata of its weights; None without weights.
    """

    plan: Plan
    card: Card | None = None


def networks_of(words: Sequence[str], trust: bool = False, config_dir: Path | None = None) -> list[Named]:
    """Return the networks of ``inception_v3 blocks.grid17=residual width=0.5 googlenet …``.

    Args:
        words: Names, each followed by its overrides; the keys may begin with ``model.``. A name is that of a table or of a file
            in conf/model or ``config_dir/model``, or the path of a weights file or run folder of this package.
        trust: Import the functions that a file names; see `Card.check_code`.
        config_dir: Additional folder of configs.

    Raises:
        ZooError: An override comes before the first name, a network or option is unknown, or a file cannot be used.
    """
    chosen: list[tuple[str, list[str]]] = []
    for word in words:
        if "=" not in word or Path(word).exists():
            chosen.append((word, []))
        elif chosen:
            chosen[-1][1].append(word)
        else:
            raise ZooError(f"'{word}' comes before any network; start with a network name, see `inception-zoo list`")
    return [_network_of(name, overrides, trust, config_dir) for name, overrides in chosen]


def _network_of(name: str, overrides: Sequence[str], trust: bool, config_dir: Path | None) -> Named:
    if name in {*ZOO, *ALIASES}:
        return _of_table(name, _choices(overrides))
    if name != "base" and any((folder / "model" / f"{name}.yaml").is_file() for folder in (CONF, config_dir or CONF)):
        choices = _of_conf(name, config_dir)
        given = _choices(overrides)
        blocks = {**(choices.pop("blocks", None) or {}), **given.pop("blocks", {})}
        return _of_table(choices.pop("name", name), {**choices, **given, "blocks": blocks})
    return _of_file(name, overrides, trust) if Path(name).exists() else _of_table(name, {})


def _of_conf(name: str, config_dir: Path | None) -> dict[str, Any]:
    """Return the choices of a file in conf/model, without keys that the table or the data sets."""
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from inception_zoo.config import hydra_patches
    from inception_zoo.config.explain import one_line_errors

    hydra_patches.install()
    loader = hydra_patches.loader(str(config_dir) if config_dir else None)
    with one_line_errors([f"model={name}"]):
        composed = loader.load_configuration("config", [f"model={name}"], RunMode.RUN)
    node: Any = OmegaConf.to_container(composed.model, resolve=True)
    raise_all(refused_targets({"model": node}))  # a function named in the file would be called
    return {key: value for key, value in node.items() if value is not None and key not in ("num_classes", "in_channels")}


def _of_file(path: str, overrides: Sequence[str], trust: bool) -> Named:
    from inception_zoo.weights.files import read_card  # torch

    if overrides:
        raise ZooError(f"{path} is a saved network; remove the override '{overrides[0]}'")
    plain = read_card(path)
    if plain is None:
        raise ZooError(f"{path} does not name its network; import it with `inception-zoo convert`")
    card = Card.of(plain)
    card.check_code(path, trust)
    return Named(plan_of(card.model), card)


def _of_table(name: str, choices: dict[str, Any]) -> Named:
    net = find_net(name)
    loading = {key: choices.pop(key, value) for key, value in LOADING.items()}
    plan = make_plan(net, **choices)
    check_loading(net, **loading)
    source = loading["weights"]
    if source is None:
        return Named(plan)
    if is_hub(source):
        from inception_zoo.weights.hub import read_hub  # torch

        card = read_hub(source).card
        if card.model["name"] != net.name:
            raise ZooError(f"weights={source} contains {card.model['name']}, not {net.name}")
        return Named(plan, card)
    if is_name(source):
        entry = published(source, net.name)
        return Named(plan, Card({}, entry.classes, entry.preprocessing, entry.provenance))
    from inception_zoo.weights.files import read_card  # torch

    plain = read_card(source)
    card = Card.of(plain) if plain is not None else Card({}, provenance=Provenance(source, "not stated in the file"))
    if card.model and card.model["name"] != net.name:
        raise ZooError(f"weights={source} contains {card.model['name']}, not {net.name}")
    return Named(plan, card)


def _choices(overrides: Sequence[str]) -> dict[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    choices: dict[str, Any] = {}
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            raise ZooError(unreadable(text)) from None
        if override.is_sweep_override():
            raise ZooError(f"'{text}' has several values; give one")
        key, value = (override.key_or_group or "").removeprefix("model."), override.value()
        key = "blocks.all" if key == "block" else key
        if key.startswith("blocks."):
            choices.setdefault("blocks", {})[key.removeprefix("blocks.")] = value
        else:
            choices[key] = os.path.expanduser(value) if key == "weights" and isinstance(value, str) else value  # noqa: PTH111
    return choices
