"""The exception for invalid user input, the checks that raise it, and the hints in its messages."""

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any, NoReturn

from inception_zoo.redaction import printable, redacted

TREE = """
  photos/               or      photos/
  ├── cat/1.jpg                 ├── train/cat/1.jpg, train/dog/2.jpg, …
  ├── cat/2.jpg                 ├── val/cat/3.jpg, …   (or valid, validation)
  └── dog/3.jpg, …              └── test/cat/4.jpg, …"""  # the only text in messages with line breaks; it comes last


class ZooError(ValueError):
    """Invalid user input. The message is one line: what is wrong, and what to do."""


class Mistakes(ZooError):  # noqa: N818 -- it holds several errors
    """Several errors, reported together. `args` has one message per error."""

    def __str__(self) -> str:
        return "; ".join(self.args)


# a message with the traceback of another process: what comes before its last frame, and the type and message after it
TRACED = re.compile(r'(?ms)(.*)^ +File "[^\n]+", line \d+[^\n]*\n(?: [^\n]*\n)*([A-Za-z_][\w.]*)(?:: (.*?))?\s*(?:^-{9}.*)?')


def raise_all(messages: Iterable[str]) -> None:
    """Raise one ZooError with all different messages; do nothing if there are none."""
    if different := tuple(dict.fromkeys(messages)):
        raise Mistakes(*different)


def messages_of(error: Exception) -> list[str]:
    """Return the messages of an error; several if it is a `Mistakes`."""
    return list(error.args) if isinstance(error := origin_of(error), Mistakes) else [str(error)]


def origin_of(error: Exception) -> Exception:
    """Return an error; if its message has the traceback of an error in another process, the error there, without it."""
    if not (traced := TRACED.fullmatch(str(error))):
        return error
    name, message = traced[2].rpartition(".")[2], (traced[3] or "").strip()
    if name in ("ZooError", "Mistakes"):
        return ZooError(message)
    where = "a data worker" if "DataLoader worker" in traced[1] else "another process"
    return type(name, (Exception,), {})(f"{message} (in {where})")


def one_line(error: object) -> str:
    """Return the message of another library's error as one line."""
    return " ".join(str(error).split())


def shown(value: Any) -> str:
    """Format a value for an error message: one line, at most 200 characters; null, true and false as in a config."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else redacted(one_line(value))  # before it is cut
    return text if len(text) <= 200 else f"{text[:200]}…"


def nearest(word: object, valid: Iterable[str], cutoff: float = 0.66) -> str | None:
    """Return the valid name that is most similar to `word`; None if no similarity (0 to 1) reaches `cutoff`.

    Upper and lower case count as equal. Of dotted names, the last parts must be similar, too.
    """
    names = {name.lower(): name for name in valid}
    last = str(word).lower().rpartition(".")[2]
    near = get_close_matches(str(word).lower(), names, n=3, cutoff=cutoff)
    return next((names[each] for each in near if get_close_matches(last, [each.rpartition(".")[2]])), None)


def did_you_mean(word: object, valid: Iterable[str], cutoff: float = 0.66) -> str:
    """Return the hint for an unknown name: the most similar valid name, or all valid names if none is similar."""
    names = list(valid)
    near = nearest(word, names, cutoff)
    return f"did you mean '{near}'?" if near else f"valid: {', '.join(names)}"


def check_whole(key: str, value: object, at_least: int) -> None:
    """Raise ZooError, naming `key`, unless `value` is an integer of at least `at_least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ZooError(f"{key}={shown(value)} must be a whole number of at least {at_least}")


def check_number(key: str, value: object, at_least: float, at_most: float = inf, below: float = inf) -> None:
    """Raise ZooError, naming `key`, unless `value` is a number and ``at_least <= value <= at_most`` and ``value < below``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (at_least <= value <= at_most and value < below):  # type: ignore[operator]
        ends = {" and at most": at_most, " and below": below}
        upper = "".join(f"{words} {end}" for words, end in ends.items() if end < inf)
        raise ZooError(f"{key}={shown(value)} must be a number of at least {at_least}{upper}")


def check_installed(package: str, extra: str, purpose: str) -> None:
    """Raise ZooError, with the command to install, if `package` is missing.

    Args:
        package: Import name.
        extra: The extra of inception-zoo that installs the package.
        purpose: The option or task that needs the package; the message starts with it.
    """
    if find_spec(package) is None:
        raise ZooError(f"{purpose} needs the package {package}: pip install 'inception-zoo[{extra}]'")


def imported(path: str) -> Callable[..., Any]:
    """Import a class or function by its path, such as ``my_parts.MyAdam``.

    Raises:
        ZooError: The module is not found or fails, or has no such class or function. The message does not repeat the path.
    """
    *modules, last = path.split(".")
    names = [last]
    if not all(map(str.isidentifier, [*modules, last])):
        raise ZooError("not the path of a class or function, such as my_parts.MyAdam")
    if modules and modules[0] not in sys.modules and find_spec(modules[0]) is None:  # the user's own, beside the command
        sys.path.append(str(Path.cwd()))
    while modules:
        module = ".".join(modules)
        try:
            found: Any = import_module(module)
            break
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise ZooError(f"module {module} imports '{error.name}', which is not installed; install it") from None
            names.insert(0, modules.pop())
        except Exception as error:  # the module itself may raise anything
            raise ZooError(f"module {module} fails with {type(error).__name__}: {one_line(error)}") from None
    else:
        raise ZooError(f"no module '{names[0]}' in {Path.cwd()} or among the installed packages; start in the module's folder")
    for name in names:
        if not hasattr(found, name):
            valid = [each for each, value in getattr(found, "__dict__", {}).items() if callable(value) and each[0] != "_"]
            hint = f"did you mean '{near}'?" if (near := nearest(name, valid)) else f"it has {shown(', '.join(valid))}"
            raise ZooError(f"{getattr(found, '__name__', found)} has no '{name}'; {hint}")
        found = getattr(found, name)
    if not callable(found):
        raise ZooError("not a class or function; name one")
    return found


def in_quotes(text: str) -> str:
    """Return a text as a quoted value in Hydra's syntax, where a backslash counts only before a quote."""
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text) + '"'


def unreadable(override: str) -> str:
    """Return the error message for an override that Hydra cannot parse, with the override in working quotes."""
    key, equals, value = override.partition("=")
    if not key or not equals:
        return f"'{override}' cannot be read; an override is key=value, without spaces around the '='"
    if re.match(r"\+{0,2}(model\.)?blocks\b", key):
        rows = [row.strip(" '\"") for row in value.strip("[]").split(",")] if value[:1] != "{" else ["1x1 64 > 3x3 96"]
        return f"'{override}' cannot be read; write rows in quotes: {shlex.quote(f'{key}={json.dumps(rows)}')}"
    if re.search(r",[\w.]+=", value):
        return f"'{override}' cannot be read; put a space, not a comma, between two overrides"
    return f"'{override}' cannot be read; if the value is a text, quote it: {shlex.quote(f'{key}={in_quotes(value)}')}"


def say(messages: Sequence[str]) -> None:
    """Print each message as one line on stderr, without secrets; line breaks of the user's input are escaped.

    `TREE` is printed as it is.
    """
    for message in messages:
        text, tree, _ = redacted(message).partition(TREE)
        print(f"error: {printable(text)}{tree}", file=sys.stderr)


def fail(*messages: str) -> NoReturn:
    """Print the messages on stderr, one line each, and exit with status 2: the way to report invalid user input."""
    say(messages)
    sys.exit(2)
