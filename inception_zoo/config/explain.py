"""One-line messages for the errors of Hydra and OmegaConf, and the check of Hydra's flags."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from inception_zoo.config import hydra_patches
from inception_zoo.config.check import unknown_key
from inception_zoo.config.unknown_keys import wrong_overrides
from inception_zoo.errors import ZooError, did_you_mean, fail, messages_of, one_line
from inception_zoo.runs.results import REASON

TRACEBACK = "INCEPTION_ZOO_TRACEBACK"  # set by `main` to the user's HYDRA_FULL_ERROR
DIGITS = 4300  # longest integer that Python parses
CAUGHT = (ZooError, HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError)  # errors that the user can correct


def wants_traceback() -> bool:
    """Return True if the user set HYDRA_FULL_ERROR."""
    return bool(os.environ.get(TRACEBACK, os.environ.get("HYDRA_FULL_ERROR")))


@contextmanager
def one_line_errors(words: list[str] | None = None) -> Iterator[None]:
    """Print one line for each error that the user can correct, and exit with status 2; no traceback.

    HYDRA_FULL_ERROR=1 shows the traceback instead.

    Args:
        words: The overrides that Hydra composes; None: those of the command line.
    """
    try:
        yield
    except CAUGHT as error:
        if wants_traceback():
            raise
        if REASON in os.environ:  # the first process of the job reports it
            sys.exit(2)
        fail(*explain_all(error, words))


def check_flags() -> None:
    """Check Hydra's flags on the command line.

    Raises:
        ZooError: A flag is unknown or not supported, flags cannot be combined, or an override has too many digits.
    """
    parser = hydra_patches.get_args_parser()

    def refuse(message: str) -> NoReturn:
        words = "; write overrides as KEY=VALUE, next to each other" if message.startswith("unrecognized") else ""
        raise ZooError(f"{message}{words}; see `python run.py --help`")

    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_args()
    names = ("run", "multirun", "cfg", "info", "shell_completion")
    if len(given := [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]) > 1:
        raise ZooError(f"{' and '.join(given)} cannot be combined; give one of them")
    if args.resolve and not (args.cfg or args.help):
        raise ZooError("--resolve is for --cfg and --help only")
    if args.experimental_rerun:
        raise ZooError("--experimental-rerun reads a pickle, which may run any code; repeat the command instead")
    for word in args.overrides:
        if re.search(rf"\d{{{DIGITS + 1}}}", word):  # Python refuses to parse it, inside Hydra's parser
            raise ZooError(f"{word[:40]}…: a number has at most {DIGITS} digits")


def explain_all(error: Exception, words: list[str] | None = None) -> list[str]:
    """Return a message for each error. Hydra stops at the first invalid override; all of them are returned.

    Args:
        error: The exception.
        words: The overrides that Hydra composes; None: those of the command line.
    """
    if isinstance(error, ZooError):
        return messages_of(error)
    if isinstance(error, ConfigCompositionException | OverrideParseException):
        with suppress(*CAUGHT):  # the error may be in a config file, not in an override
            return wrong_overrides(words, sweep="Ambiguous" not in str(error)) or [explain(error)]
    return [explain(error)]


def explain(error: Exception) -> str:
    """Return the message of an error in one line, with the most similar valid key or option."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option} is unknown; {did_you_mean(option, sorted(error.options))}"
    cause = error.__cause__ or error.__context__
    text = one_line(error) if str(error) or cause is None else one_line(cause)
    if added := re.search(r"Multiple values for ([\w/]+)\. To override", text):
        return unknown_key(added[1], [added[1]])
    if (merged := re.search(r"Error merging override (.*)", text)) and isinstance(cause, OmegaConfBaseException):
        return f"{merged[1]}: {str(cause).splitlines()[0]}"
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{missing[1]} is required; set {missing[1]}=…"
    return re.sub(r" full_key: (\S+) object_type=\S+", r" (in \1)", text)
