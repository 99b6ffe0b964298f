"""Words of a command line → plans: networks, each followed by its choices in Hydra's own syntax."""

from collections.abc import Sequence
from typing import Any

from inception_zoo.errors import ZooError, unreadable
from inception_zoo.nets import find_net
from inception_zoo.plan import Plan, make_plan


def plans_of(words: Sequence[str]) -> list[Plan]:
    """The plans of ``inception_v3 blocks.grid17=residual width=0.5 googlenet …``; ``model.`` before a key may stand."""
    chosen: list[tuple[str, list[str]]] = []
    for word in words:
        if "=" not in word:
            chosen.append((word, []))
        elif chosen:
            chosen[-1][1].append(word)
        else:
            raise ZooError(f"'{word}' stands before any network; begin with a name, see `inception-zoo list`")
    return [make_plan(find_net(name), **_choices(overrides)) for name, overrides in chosen]


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
            raise ZooError(f"'{text}' has several values; describe takes one")
        key, value = (override.key_or_group or "").removeprefix("model."), override.value()
        if key == "block":
            key = "blocks.all"
        if key.startswith("blocks."):
            choices.setdefault("blocks", {})[key.removeprefix("blocks.")] = value
        else:
            choices[key] = value
    return choices
