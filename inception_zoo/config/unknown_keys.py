"""Overrides with an unknown key or option, each reported with the most similar valid one."""

import re
import shlex
from collections.abc import Sequence
from itertools import chain

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from inception_zoo.config import hydra_patches
from inception_zoo.config.check import unknown_key
from inception_zoo.config.rules import FAMILY
from inception_zoo.errors import did_you_mean, in_quotes, shown, unreadable
from inception_zoo.system.places import walk


def readable(words: Sequence[str]) -> list[str]:
    """Quote each value that Hydra cannot parse, but that can only be a path: ``ckpt=runs/epoch=3.ckpt``, ``data.root=~/a``.

    Args:
        words: The overrides as typed, with the flags.
    """
    parser, sweeps, found = OverridesParser.create(), {"-m", "--multirun"} & {*words}, []
    for word in words:
        key, _, value = word.partition("=")
        is_path = hydra_patches.PLACE.fullmatch(key.lstrip("+")) and value[:1] not in ("", "'", '"', "[", "{")
        if is_path and not ("," in value and sweeps):
            try:
                parser.parse_override(word)
            except HydraException:
                word = f"{key}={in_quotes(value)}"
        found.append(word)
    return found


def wrong_overrides(words: list[str] | None = None, sweep: bool = True, keys: bool = True) -> list[str]:
    """Return an error message for each override that cannot be parsed or that names an unknown option or key.

    Args:
        words: The arguments of the command line; None: those of this process.
        sweep: False: also report overrides with several values.
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
            if not override.key_or_group:
                raise HydraException
        except HydraException:
            found.append(unreadable(word))
            continue
        key, sweeps = override.key_or_group, override.is_sweep_override()
        if sweeps and not sweep:
            value = word.partition("=")[2]
            as_one = shlex.quote(f"{key}={in_quotes(value) if hydra_patches.PLACE.fullmatch(key) else f'[{value}]'}")
            if re.fullmatch(r"0,\d+", value):  # a decimal comma
                as_one = f"{key}={value.replace(',', '.')}"
            found.append(f"{word} has several values: add -m to sweep over them; as one value, write {as_one}")
        options = [] if override.is_delete() else loader.get_group_options(key)
        if not options:
            others.append(override)
            continue
        given = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else [override.value()]
        lists = [value if isinstance(value, list) else [value] for value in given]
        for value in chain(*lists):
            if value in (None, "null", False):
                hint = "did you mean 'none'?" if "none" in options else f"remove the group with '~{key}'"
                found.append(f"{key}={shown(value)} is not an option; {hint}")
            elif value not in options:
                hint = did_you_mean(value, sorted(options))
                other = key == "model" and hint.startswith("valid")
                found.append(f"{key}={shown(value)} {f'must be {FAMILY.words}' if other else f'is unknown; {hint}'}")
        fits = [value for value, each in zip(given, lists, strict=True) if all(item in options for item in each)]
        chosen += [f"{key}={value}" for value in fits[:1]]
    if not keys:
        return found
    nodes = walk(OmegaConf.to_container(loader.load_configuration("config", chosen, RunMode.RUN)))
    known = [key for key, _ in nodes if not key.rpartition(".")[2].isdecimal()]
    added = [override.key_or_group for override in others if override.is_add() or override.is_force_add()]
    for override in others:
        key = override.key_or_group
        is_new = key not in known and not any(f"{key}.".startswith(f"{new}.") for new in added)
        if key in known if override.is_add() else is_new:
            found.append(unknown_key(key, known))
    return found
