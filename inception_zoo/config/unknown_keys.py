"""Overrides with an unknown key or option, each reported with the most similar valid one."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from inception_zoo.config import hydra_patches
from inception_zoo.config.check import unknown_key
from inception_zoo.config.rules import FAMILY
from inception_zoo.errors import did_you_mean, shown, unreadable

SEVERAL = "%s has several values: add -m to sweep over them, or brackets to give a list"


def wrong_overrides(words: list[str] | None = None, several: bool = False, keys: bool = True) -> list[str]:
    """Return an error message for each override that cannot be parsed or that names an unknown option or key.

    Args:
        words: The arguments of the command line; None: those of this process.
        several: Also report overrides with several values.
        keys: Also report unknown keys; False for a sweep, whose jobs may have different keys.
    """
    args = hydra_patches.get_args_parser().parse_args(words)
    if args.config_path or args.config_name:  # another program's config
        return []
    loader = hydra_patches.loader(args.config_dir)
    parser = OverridesParser.create(config_loader=loader)
    found, chosen, others = [], [], []
    for word in args.overrides:
        try:
            (override,) = parser.parse_overrides([word])  # `parse_override` would not know the options for glob(…)
        except HydraException:
            found.append(unreadable(word))
            continue
        key, sweeps = override.key_or_group, override.is_sweep_override()
        if sweeps and several:
            found.append(SEVERAL % word)
        options = [] if override.is_delete() else loader.get_group_options(key)
        if not options:
            others.append(override)
            continue
        values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else [override.value()]
        for value in values:
            if value in (None, "null"):
                found.append(f"{key}=null is not an option; remove the group with '~{key}'")
            elif value not in options and not isinstance(value, list):
                hint = did_you_mean(value, sorted(options))
                other = key == "model" and hint.startswith("valid")
                found.append(f"{key}={shown(value)} {f'must be {FAMILY.words}' if other else f'is unknown; {hint}'}")
        chosen += [f"{key}={value}" for value in values if isinstance(value, str) and value in options][:1]
    if not keys:
        return found
    known = keys_of(loader, chosen)
    added = [override.key_or_group for override in others if override.is_add() or override.is_force_add()]
    for override in others:
        key = override.key_or_group
        is_new = key not in known and not any(f"{key}.".startswith(f"{new}.") for new in added)
        if key in known if override.is_add() else is_new:
            found.append(unknown_key(key, known))
    return found


def keys_of(loader: Any, chosen: Sequence[str] = ()) -> list[str]:
    """Return all keys of the config, dotted.

    Args:
        loader: Hydra's config loader.
        chosen: Group overrides, such as ``model=inception_v3``.
    """
    return _flat(OmegaConf.to_container(loader.load_configuration("config", list(chosen), RunMode.RUN)))


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    return [key for name, child in node.items() for key in (f"{prefix}{name}", *_flat(child, f"{prefix}{name}."))]
