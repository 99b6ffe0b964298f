"""Words of the command line whose key or option does not exist, each with the nearest one that does."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from inception_zoo.config import hydra_patches
from inception_zoo.errors import did_you_mean, shown, unreadable

SEVERAL = "%s has several values: add -m for a sweep over them, or brackets for a list"


def unknown_key(key: str, keys: Sequence[str]) -> str:
    """Return the message for a key that is not in the config, whose keys are `keys`."""
    others = f"; other options of lightning.Trainer are added: +{key}=…" if key.startswith("trainer.") else ""
    of_hydra = key.startswith("hydra.")
    hint = did_you_mean(key, [each for each in keys if each.startswith("hydra.") == of_hydra])
    hint = "see `python run.py --cfg all`" if hint.startswith("valid") else hint
    return f"{key} is no key of the config; {hint}{others}"


def wrong_overrides(words: list[str] | None = None, several: bool = False, keys: bool = True) -> list[str]:
    """A message for each word that is unreadable, or names an option or a key that there is not.

    Args:
        words: those of the command line when left out.
        several: whether words with several values are wrong, too.
        keys: whether keys are looked at; in a sweep each job may have others.
    """
    args = hydra_patches.get_args_parser().parse_args(words)
    if args.config_path or args.config_name:  # not ours
        return []
    loader = hydra_patches.loader(args.config_dir)
    parser = OverridesParser.create(config_loader=loader)
    found, chosen, others = [], [], []
    for word in args.overrides:
        try:
            override = parser.parse_override(word)
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
                found.append(f"{key}=null is no option; '~{key}' takes the group out")
            elif value not in options and not isinstance(value, list):
                found.append(f"{key}={shown(value)} is unknown; {did_you_mean(value, sorted(options))}")
        chosen += [f"{key}={value}" for value in values if isinstance(value, str) and value in options][:1]
    if not keys:
        return found
    known = keys_of(loader, chosen)
    added = [override.key_or_group for override in others if override.is_add() or override.is_force_add()]
    return found + [
        unknown_key(override.key_or_group, known)
        for override in others
        if override.key_or_group not in known and not any(f"{override.key_or_group}.".startswith(f"{key}.") for key in added)
    ]


def keys_of(loader: Any, chosen: Sequence[str] = ()) -> list[str]:
    """Return every key, dotted, of the config with the chosen options."""
    return _flat(OmegaConf.to_container(loader.load_configuration("config", list(chosen), RunMode.RUN)))


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    return [key for name, child in node.items() for key in (f"{prefix}{name}", *_flat(child, f"{prefix}{name}."))]
