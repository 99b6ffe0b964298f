"""The one error that a user's input can cause, and the hint that goes with it."""

import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from math import inf
from typing import Any, NoReturn

from inception_zoo.redaction import redacted


class ZooError(ValueError):
    """Something the user wrote cannot be done. The message is one line: what is at fault, and what would be right."""


class Mistakes(ZooError):  # noqa: N818 -- it is what they are
    """Several at once, a message each."""

    def __str__(self) -> str:
        return "; ".join(self.args)


def raise_all(messages: Iterable[str]) -> None:
    """ZooError with all of the messages, if there are any."""
    if different := tuple(dict.fromkeys(messages)):
        raise Mistakes(*different)


def messages_of(error: ZooError) -> list[str]:
    return list(error.args) if isinstance(error, Mistakes) else [str(error)]


def one_line(error: object) -> str:
    """What an error of another library says, without its line breaks."""
    return " ".join(str(error).split())


def shown(value: Any) -> str:
    """A value as a message has it, in one line and not without end: null, true and false as they are written in a config."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else one_line(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def nearest(word: object, valid: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The valid name that somebody may have meant."""
    return next(iter(get_close_matches(str(word), list(valid), n=1, cutoff=cutoff)), None)


def did_you_mean(word: object, valid: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest valid one, or all of them when none is near."""
    names = list(valid)
    near = nearest(word, names)
    return f"did you mean '{near}'?" if near else f"valid: {', '.join(names)}"


def check_whole(key: str, value: object, at_least: int) -> None:
    """ZooError naming `key` unless `value` is a whole number of at least `at_least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ZooError(f"{key}={shown(value)} must be a whole number of at least {at_least}")


def check_number(key: str, value: object, at_least: float, at_most: float = inf, below: float = inf) -> None:
    """ZooError naming `key` unless `value` is a number within these bounds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (at_least <= value <= at_most and value < below):  # type: ignore[operator]
        ends = {" and at most": at_most, " and below": below}
        upper = "".join(f"{words} {end}" for words, end in ends.items() if end < inf)
        raise ZooError(f"{key}={shown(value)} must be a number of at least {at_least}{upper}")


def check_installed(package: str, extra: str, purpose: str) -> None:
    """ZooError naming what to install for `purpose`."""
    if find_spec(package) is None:
        raise ZooError(f"{purpose} needs the package {package}: pip install 'inception-zoo[{extra}]'")


def unreadable(override: str) -> str:
    """The message about a word of the command line that Hydra cannot parse."""
    return f"'{override}' cannot be read; it must be key=value, with rows in quotes: 'key=[\"1x1 64 > 3x3 96\"]'"


def say(messages: Sequence[str]) -> None:
    """Each in a line of its own on stderr, without secrets."""
    for message in messages:
        print(f"error: {redacted(message)}", file=sys.stderr)


def fail(*messages: str) -> NoReturn:
    """End the program as every mistake of a user ends it: a line each on stderr, exit status 2."""
    say(messages)
    sys.exit(2)
