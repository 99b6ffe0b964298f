"""Hydra's and OmegaConf's errors in one line each, with the near key or option; and the flags that we refuse."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from inception_zoo.config import hydra_patches
from inception_zoo.errors import ZooError, did_you_mean, fail, messages_of, one_line, shown, unreadable
from inception_zoo.runs.results import REASON

TRACEBACK = "INCEPTION_ZOO_TRACEBACK"  # set by `main`: whether the user gave HYDRA_FULL_ERROR
DIGITS = 4300  # of an integer that Python reads
CAUGHT = (ZooError, HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError)  # what a user can mend


def wants_traceback() -> bool:
    return bool(os.environ.get(TRACEBACK, os.environ.get("HYDRA_FULL_ERROR")))


@contextmanager
def one_line_errors(words: list[str] | None = None) -> Iterator[None]:
    """End the program in a line for each thing that the user can mend; HYDRA_FULL_ERROR=1 shows the traceback instead.

    Args:
        words: that Hydra composes by; those of the command line when left out.
    """
    try:
        yield
    except CAUGHT as error:
        if wants_traceback():
            raise
        if REASON in os.environ:  # the first process of the job says it
            sys.exit(2)
        fail(*explain_all(error, words))


def check_flags() -> None:
    """ZooError where Hydra's parser of the command line ends the program, or would do what we do not."""
    parser = hydra_patches.get_args_parser()

    def refuse(message: str) -> NoReturn:
        words = "; put all KEY=VALUE words side by side" if message.startswith("unrecognized") else ""
        raise ZooError(f"{message}{words}; see `python run.py --help`")

    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_args()
    commands = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg, "--info": args.info}
    if len(given := [flag for flag, value in commands.items() if value]) > 1:
        raise ZooError(f"{' and '.join(given)} go not together; give one of them")
    if args.resolve and not (args.cfg or args.help):
        raise ZooError("--resolve is for --cfg and --help")
    if args.experimental_rerun:
        raise ZooError("--experimental-rerun reads a pickle, which may run anything; repeat the command instead")
    for word in args.overrides:
        if re.search(rf"\d{{{DIGITS + 1}}}", word):  # Python refuses to read it, in the middle of Hydra's parser
            raise ZooError(f"{word[:40]}…: a number has at most {DIGITS} digits")


def explain_all(error: Exception, words: list[str] | None = None) -> list[str]:
    """A line for each mistake: where Hydra stops at the first word that it cannot place, the others are told as well."""
    if isinstance(error, ZooError):
        text = str(error)
        return [explain(error)] if text.startswith("Caught ZooError") else messages_of(error)
    if isinstance(error, ConfigCompositionException | OverrideParseException):
        try:
            return wrong_overrides(words, several="Ambiguous" in str(error)) or [explain(error)]
        except CAUGHT:  # the configs are at fault, not the words
            pass
    return [explain(error)]


def explain(error: Exception) -> str:
    """Hydra's errors in one line, with the near key or option."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option} is unknown; {did_you_mean(option, sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    cause = error.__cause__ or error.__context__
    text = one_line(error) if str(error) or cause is None else one_line(cause)
    if ambiguous := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return _several(ambiguous[1])
    if text.startswith("Caught ZooError"):  # in a worker, which wraps it in its traceback
        return text.rpartition("ZooError: ")[2]
    if (merged := re.search(r"Error merging override (.*)", text)) and isinstance(cause, OmegaConfBaseException):
        return f"{merged[1]}: {str(cause).splitlines()[0]}"
    key = re.search(r"full_key: (\S+)", text) or re.search(r"Could not (?:override|append|delete)[^']*'([^'=@]+)", text)
    if isinstance(error, ConfigCompositionException) and key and "Interpolation" not in text:
        return _no_key(key[1], _flat(_plain_keys(hydra_patches.loader(), [])))
    return re.sub(r" full_key: (\S+) object_type=\S+", r" (in \1)", text)


def _several(word: str) -> str:
    return f"{word} has several values: add -m for a sweep over them, or brackets for a list"


def _no_key(key: str, keys: Sequence[str]) -> str:
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
            found.append(_several(word))
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
    known = _flat(_plain_keys(loader, chosen))
    added = [override.key_or_group for override in others if override.is_add() or override.is_force_add()]
    return found + [
        _no_key(override.key_or_group, known)
        for override in others
        if override.key_or_group not in known and not any(f"{override.key_or_group}.".startswith(f"{key}.") for key in added)
    ]


def _plain_keys(loader: Any, chosen: list[str]) -> Any:
    return OmegaConf.to_container(loader.load_configuration("config", chosen, RunMode.RUN))


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    return [key for name, child in node.items() for key in (f"{prefix}{name}", *_flat(child, f"{prefix}{name}."))]
