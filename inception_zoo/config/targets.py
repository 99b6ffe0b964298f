"""Who may name what: checks of the names that a config would import or call, and of the keys that it sets. Imports fast.

Hydra imports and calls every `_target_`, and a block can be the path of a function. Files (configs, checkpoints, saved
overrides) may only name what is in `TARGETS`, and set below `hydra` only what is in `FOR_FILES`. The user allows more names
and keys by typing them, or in the environment: ``INCEPTION_ZOO_TARGETS=my_parts.Mine,hydra.launcher.setup``.
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
from inception_zoo.system.places import AGENT, is_place, leaves, outside, parsed, sending, walk
from inception_zoo.system.renamed import MOVED

VARIABLE = "INCEPTION_ZOO_TARGETS"
COMMAND = "INCEPTION_ZOO_COMMAND"  # the command line as typed, without secrets, for messages; set by `trust_words`
_PATH = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)+")  # path of a function, in an override
_READ = "SLURM_ARRAY_TASK_ID|SLURM_JOB_ID|WANDB_RUN_ID"  # variables that a file may read
_REFERENCE = re.compile(rf"\$\{{\s*([\w.\[\]]*\}}|(zoo\.\w+|now|hydra|oc\.select):|oc\.env:({_READ})\}})")  # in a file


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
    pairs = list(parsed(words))
    typed = {name for _, name in _called(pairs)} - TARGETS.keys()
    typed |= {key for key, value in pairs if is_place(key, value) or not file_may_set(key, value)}
    typed -= {"hydra.run.dir", "hydra.sweep.dir"}  # a folder that is typed needs no permission
    if AGENT not in os.environ and (typed := set(filter(_PATH.fullmatch, typed))):
        os.environ[VARIABLE] = ",".join(sorted(own() | typed))


def refused_words(words: Sequence[str]) -> list[str]:
    """Return an error message for each target in overrides that is not allowed or cannot be imported."""
    return _mistakes((key, MOVED.get(name, name)) for key, name in _called(parsed(words)))


def _called(pairs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the key and the name of each target and block function in pairs of key and value."""
    for key, value in pairs:
        if key.rpartition(".")[2] == "_target_" or f"{key}.".startswith("model.blocks."):
            yield from ((key, name) for name in _PATH.findall(re.sub(r"\$\{[^}]*\}", "", str(value))))


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


def file_may_set(key: str, value: Any) -> bool:
    """Return True if a file may set the dotted `key` to `value`, which is not resolved; otherwise only the user may."""
    group, _, rest = key.partition(".")
    option, text = rest.rpartition(".")[2], str(value)
    if value is None or option == "_target_":  # a target has a check of its own
        return True
    if group == "logger" and option in ("offline", "mode"):  # sends what a run has to a server
        return AGENT in os.environ or text.lower() in ("true", "offline", "disabled")
    if f"{key}={text}".count("${") != len(_REFERENCE.findall(text)):
        return False
    if group == "logger" and "$" in _REFERENCE.sub("", text):  # Lightning's loggers put variables into paths
        return False
    usual = FOR_FILES[...] if rest.startswith(("launcher.", "sweeper.")) else "(?!)"
    return group != "hydra" or bool(re.fullmatch(FOR_FILES.get(rest, usual), text))


def refused_in_file(content: Any) -> list[str]:
    """Return an error message for each value that a file must not set.

    Args:
        content: That of the file in plain containers, with unresolved values; or a list of overrides that nobody typed.
    """
    pairs = parsed(content) if isinstance(content, list) else leaves(content)
    return _only_typed((key, value) for key, value in pairs if not file_may_set(key, value))


def refused_places(config: Mapping[str, Any], folder: Path) -> list[str]:
    """Return an error message for each place outside the run folder, and each address, that a file has set.

    Args:
        config: Plain containers, with every value resolved.
        folder: The run folder, absolute.
    """
    return _only_typed([*outside(leaves(config), folder), *sending(config)])


def _only_typed(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    """Return an error message for each pair of key and value, except keys that the user has typed or allowed."""
    allowed = own()
    found = {key: value for key, value in pairs if key not in allowed}
    env = "hydra.job.env_set."
    how = {key: f"set it in the environment: {key.removeprefix(env)}=… {_command()}" for key in found if key.startswith(env)}
    typed = f"type it on the command line, or allow the key: {allowing(allowed | found.keys(), _command())}"
    return [f"{key}={shown(value)} must not come from a file; {how.get(key, typed)}" for key, value in found.items()]


def _refusal(key: str, target: Any, valid: Collection[str], names: set[str]) -> str:
    near = next((each for each in valid if each.rpartition(".")[2] == target), None) or nearest(target, valid)
    message = f"{key}={shown(target)} is not on the allow-list{f'; did you mean {near!r}?' if near else ''}"
    if not isinstance(target, str) or not _PATH.fullmatch(target):
        return f"{message}; write an import path, such as my_parts.Mine" if not near and str(target).isidentifier() else message
    return f"{message}; if you trust it, allow its exact name: {allowing(names, _command())}"


def allowing(names: Iterable[str], command: str) -> str:
    """Return a command line with the variable in front that allows dotted `names`, except the keys that are typed in it."""
    typed = {word.lstrip("+").partition("=")[0] for word in shlex.split(command)}
    paths = sorted(filter(_PATH.fullmatch, {*names} - typed))
    return f"{VARIABLE}={','.join(paths)} {command}" if paths else command


def _command() -> str:
    if AGENT in os.environ:
        return f"wandb agent {os.environ[AGENT]}"
    return os.environ.get(COMMAND) or shlex.join(redacted(["inception-zoo", *sys.argv[1:]]))
