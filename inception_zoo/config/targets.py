"""Checks of the names that an untrusted config would import or call, and of the keys that it sets. Importing this is fast.

Hydra imports and calls every `_target_`, and a block can be the path of a function. A file sets below `hydra` only what is in
`FOR_FILES`. The user allows more names and keys by typing them, or in the environment:
``INCEPTION_ZOO_TARGETS=my_parts.Mine,hydra.launcher.setup``. Files (configs, checkpoints, saved overrides) can do neither.
"""

import os
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_zoo.config.allowed import FOR_FILES, TARGETS
from inception_zoo.errors import ZooError, imported, nearest, shown
from inception_zoo.redaction import redacted
from inception_zoo.system.places import AGENT, is_place, is_strange, leaves, outside, parsed, walk
from inception_zoo.system.renamed import MOVED

VARIABLE = "INCEPTION_ZOO_TARGETS"
COMMAND = "INCEPTION_ZOO_COMMAND"  # the command line as typed, without secrets, for messages; set by `trust_words`
_PATH = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)+")  # path of a function, in an override
_TYPED = re.compile(r"(?:^\+{0,2}model\.blocks\b[^=]*|_target_)=(.*)|_target_['\"]?\s*:([^,}]*)", re.DOTALL)


def own() -> set[str]:
    """Return the additional names that the environment allows; raise ZooError for what is not a name."""
    names = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
    if wrong := next((name for name in sorted(names) if not _PATH.fullmatch(name)), None):
        raise ZooError(f"{VARIABLE}={wrong}: not a name such as my_parts.Mine; write each name in full, patterns do not work")
    return names


def trust_words(words: Sequence[str], *program: str) -> None:
    """Allow the targets, block functions and keys that `words` set, in this process and in its child processes.

    Args:
        words: The overrides as the user typed them, never those of a file.
        program: The command before them, for messages; none: `inception-zoo` with this process's arguments.
    """
    if program:
        os.environ[COMMAND] = shlex.join(redacted([*program, *words]))
    typed = {name for _, name in _typed(words)} - TARGETS.keys()
    typed |= {key for key, value in parsed(words) if is_place(key, value) or is_strange(key, value, FOR_FILES)}
    typed -= {"hydra.run.dir", "hydra.sweep.dir"}  # a folder that is typed needs no permission
    if AGENT not in os.environ and (typed := set(filter(_PATH.fullmatch, typed))):
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


def refused_values(config: Any, folder: Path | None = None) -> list[str]:
    """Return an error message for each value that only the user may set, and that is not allowed by its key.

    Args:
        config: Content of a file as plain containers, or overrides; with `folder`, a config with every value resolved.
        folder: Find the places outside this run folder, absolute; None: find what a file must not set.
    """
    pairs = parsed(config) if isinstance(config, list) else leaves(config)
    found = dict(outside(pairs, folder) if folder else (pair for pair in pairs if is_strange(*pair, FOR_FILES)))
    names = own() | found.keys()
    env = "hydra.job.env_set."
    how = {key: f"set it in the environment: {key.removeprefix(env)}=… {_command()}" for key in found if key.startswith(env)}
    typed = f"type it on the command line, or allow the key: {_allowing(names)}"
    return [f"{key}={shown(found[key])} must not come from a file; {how.get(key, typed)}" for key in found if key not in own()]


def _refusal(key: str, target: Any, valid: Collection[str], names: set[str]) -> str:
    near = next((each for each in valid if each.rpartition(".")[2] == target), None) or nearest(target, valid)
    message = f"{key}={shown(target)} is not on the allow-list{f'; did you mean {near!r}?' if near else ''}"
    if not isinstance(target, str) or not _PATH.fullmatch(target):
        return f"{message}; write an import path, such as my_parts.Mine" if not near and str(target).isidentifier() else message
    return f"{message}; if you trust it, allow its exact name: {_allowing(names)}"


def _allowing(names: Iterable[str]) -> str:
    return f"{VARIABLE}={','.join(sorted(filter(_PATH.fullmatch, names)))} {_command()}"


def _command() -> str:
    if AGENT in os.environ:
        return f"wandb agent {os.environ[AGENT]}"
    return os.environ.get(COMMAND) or shlex.join(redacted(["inception-zoo", *sys.argv[1:]]))
