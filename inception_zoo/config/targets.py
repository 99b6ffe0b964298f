"""Refusals of what an untrusted config would import or run. Imports nothing heavy.

Hydra imports and calls what `_target_` says, logging what `class` and `()` say, and a block may be a function by its path.
Only the environment, which no config can write, adds names of one's own: ``INCEPTION_ZOO_TARGETS=my_parts.Mine,rows.squeeze``.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from inception_zoo.config.allowed import LOGGING, TARGETS
from inception_zoo.errors import nearest, shown

VARIABLE = "INCEPTION_ZOO_TARGETS"
_PATH = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)+")  # of a function, in a word
_BLOCK = re.compile(r"\+{0,2}model\.blocks\b[^=]*=")
_FOR_OTHERS = re.compile(r"INCEPTION_ZOO_|PYTHON|LD_|DYLD_|PATH$")  # variables that open this door, or another


def own() -> set[str]:
    """The names that the environment allows besides."""
    return {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}


def trust_words(words: Sequence[str]) -> None:
    """Allow the block functions that a user has typed, here and in the processes that are started from here."""
    typed = [path for word in words if (block := _BLOCK.match(word)) for path in _PATH.findall(word[block.end() :])]
    if typed:
        os.environ[VARIABLE] = ",".join(sorted(own().union(typed)))


def targets_in(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of every `_target_`, at any depth."""
    for name, child in children(node):
        inner = f"{key}.{name}" if key else str(name)
        if name == "_target_" and isinstance(node, Mapping):
            yield inner, child
        yield from targets_in(child, inner)


def refused_targets(config: Mapping[str, Any], key: str = "") -> list[str]:
    """A message for each `_target_` that may not be called; `config` is plain, every value final."""
    allowed = TARGETS.keys() | own()
    return [
        _refusal(inner, target, TARGETS)
        for inner, target in targets_in(config, key)
        if not isinstance(target, str) or target not in allowed
    ]


def refused_blocks(blocks: Any, key: str = "model.blocks") -> list[str]:
    """A message for each function that is given for a block by its path and may not be called."""
    pairs = blocks.items() if isinstance(blocks, Mapping) else ()
    return [
        f"{key}.{name}={choice} is not allowed where the command line does not say it, as it runs code of somebody's; "
        f"if it is yours: {VARIABLE}={choice}"
        for name, choice in pairs
        if isinstance(choice, str) and "." in choice and choice not in own()
    ]


def refused_logging(node: Any, key: str) -> list[str]:
    """A message for each class or object that a config of Python's logging may not name."""
    found = []
    for name, child in children(node):
        inner = f"{key}.{name}"
        called = name in ("class", "()") and isinstance(node, Mapping)
        if (called or (isinstance(child, str) and "://" in child.partition(" ")[0])) and (
            not isinstance(child, str) or child not in LOGGING | own()
        ):
            found.append(_refusal(inner, child, LOGGING))
        found += refused_logging(child, inner)
    return found


def refused_variables(variables: Any, key: str = "hydra.job.env_set") -> list[str]:
    """A message for each variable of the environment that a config may not set, as it decides what code is run."""
    names = map(str, variables) if isinstance(variables, Mapping) else ()
    return [f"{key}.{name} is not allowed; set {name} before you start" for name in names if _FOR_OTHERS.match(name)]


def children(node: Any) -> Iterator[tuple[Any, Any]]:
    """What stands in a mapping or list, by key or number; nothing stands in anything else."""
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def _refusal(key: str, target: Any, valid: Collection[str]) -> str:
    near = nearest(target, valid) if isinstance(target, str) else None
    meant = f"; did you mean '{near}'?" if near else ""
    door = f"; if it is yours: {VARIABLE}={target}" if isinstance(target, str) and target else ""
    return f"{key}={shown(target)} is not allowed{meant}{door}"
