"""Checks of the names that an untrusted config would import or call. Importing this module is fast.

Hydra imports and calls every `_target_`, Python's logging every `class` and `()`, and a block can be the path of a function.
The user allows more names by typing them, or in the environment: ``INCEPTION_ZOO_TARGETS=my_parts.Mine,rows.squeeze``. Files
(configs, checkpoints, saved overrides) can do neither.
"""

import os
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from inception_zoo.config.allowed import LOGGING, TARGETS
from inception_zoo.errors import ZooError, imported, nearest, shown
from inception_zoo.redaction import redacted
from inception_zoo.system.renamed import MOVED

VARIABLE = "INCEPTION_ZOO_TARGETS"
COMMAND = "INCEPTION_ZOO_COMMAND"  # the command line as typed, without secrets, for messages; set by `trust_words`
AGENT = "WANDB_SWEEP_ID"  # set for the commands that an agent of W&B runs: its server sends them, nobody typed them
_PATH = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)+")  # path of a function, in an override
_TYPED = re.compile(r"(?:^\+{0,2}model\.blocks\b[^=]*|_target_)=(.*)|_target_['\"]?\s*:([^,}]*)", re.DOTALL)
_FOR_OTHERS = re.compile(r"INCEPTION_ZOO_|PYTHON|LD_|DYLD_|PATH$")  # variables that allow a config to run code


def own() -> set[str]:
    """Return the additional names that the environment allows; raise ZooError for what is not a name."""
    names = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
    if wrong := next((name for name in sorted(names) if not _PATH.fullmatch(name)), None):
        raise ZooError(f"{VARIABLE}={wrong}: not a name such as my_parts.Mine; write each name in full, patterns do not work")
    return names


def trust_words(words: Sequence[str], *program: str) -> None:
    """Allow the targets and block functions in `words`, in this process and in its child processes.

    Args:
        words: The overrides as the user typed them, never those of a file.
        program: The command before them, for messages; none: `inception-zoo` with this process's arguments.
    """
    if program:
        os.environ[COMMAND] = shlex.join(redacted([*program, *words]))
    if AGENT not in os.environ and (typed := {name for _, name in _typed(words)} - TARGETS.keys()):
        os.environ[VARIABLE] = ",".join(sorted(own() | typed))


def refused_words(words: Sequence[str]) -> list[str]:
    """Return an error message for each target in overrides that is not allowed or cannot be imported."""
    return _mistakes((key, MOVED.get(name, name)) for key, name in _typed(words))


def _typed(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the key of the override and the name, for each target or block function in overrides."""
    for word in words:
        for found in _TYPED.finditer(re.sub(r"\$\{[^}]*\}", "", word)):
            for name in _PATH.findall(found[1] or found[2] or ""):
                yield word.partition("=")[0].lstrip("+"), name


def walk(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything in `node`, a mapping or list, at any depth; `key` is the key of the node."""
    for name, child in node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ():
        inner = f"{key}.{name}" if key else str(name)
        yield inner, child
        yield from walk(child, inner)


def refused_targets(config: Mapping[str, Any], key: str = "", valid: Collection[str] = TARGETS.keys()) -> list[str]:
    """Return an error message for each `_target_` and block function that is not allowed or cannot be imported.

    Args:
        config: Plain containers, with every value resolved.
        key: Key of `config`, for the messages.
        valid: The allow-list.
    """
    pairs = [(at, each) for at, each in walk(config) if at.rpartition(".")[0] == "model.blocks" and isinstance(each, str)]
    functions = [(at, each) for at, each in pairs if "." in each]
    targets = [(at, each) for at, each in walk(config, key) if at.rpartition(".")[2] == "_target_"]
    return _mistakes(targets + functions, valid)


def _mistakes(targets: Iterable[tuple[str, Any]], valid: Collection[str] = TARGETS.keys()) -> list[str]:
    """Return the error messages for pairs of key and target."""
    targets, trusted, found = list(targets), own(), []
    refused = {name for _, name in targets if isinstance(name, str) and name not in {*valid, *trusted}}
    for key, target in targets:
        if not isinstance(target, str) or target in refused:
            found.append(_refusal(key, target, valid, trusted | refused))
        elif target not in valid:
            try:
                imported(target)
            except ZooError as error:
                found.append(f"{key}={target}: {error}")
    return found


def refused_logging(node: Any, key: str) -> list[str]:
    """Return an error message for each class or object in a config of Python's logging that is not allowed."""
    found = []
    for at, value in walk(node, key):
        called = at.rpartition(".")[2] in ("class", "()") or (isinstance(value, str) and "://" in value.partition(" ")[0])
        if called and (not isinstance(value, str) or value not in LOGGING | own()):
            found.append(_refusal(at, value, LOGGING, own() | {str(value)}))
    return found


def refused_variables(variables: Any, key: str = "hydra.job.env_set") -> list[str]:
    """Return an error message for each environment variable that a config must not set, because it can run code."""
    names = map(str, variables) if isinstance(variables, Mapping) else ()
    return [f"{key}.{name} is not allowed; set {name} in the environment" for name in names if _FOR_OTHERS.match(name)]


def _refusal(key: str, target: Any, valid: Collection[str], names: set[str]) -> str:
    near = next((each for each in valid if each.rpartition(".")[2] == target), None) or nearest(target, valid)
    message = f"{key}={shown(target)} is not on the allow-list{f'; did you mean {near!r}?' if near else ''}"
    if not isinstance(target, str) or not _PATH.fullmatch(target):
        return f"{message}; write an import path, such as my_parts.Mine" if not near and str(target).isidentifier() else message
    command = os.environ.get(COMMAND) or shlex.join(redacted(["inception-zoo", *sys.argv[1:]]))
    if AGENT in os.environ:
        command = f"wandb agent {os.environ[AGENT]}"
    allowed = ",".join(sorted(filter(_PATH.fullmatch, names)))
    return f"{message}; if you trust it, allow its exact name: {VARIABLE}={allowed} {command}"
