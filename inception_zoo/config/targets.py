"""Checks of the names that an untrusted config would import or call. Importing this module is fast.

Hydra imports and calls every `_target_`, Python's logging every `class` and `()`, and a block can be the path of a function.
The user allows more names in the environment, which no config can set: ``INCEPTION_ZOO_TARGETS=my_parts.Mine,rows.squeeze``.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from inception_zoo.config.allowed import LOGGING, TARGETS
from inception_zoo.errors import ZooError, nearest, shown

VARIABLE = "INCEPTION_ZOO_TARGETS"
_PATH = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)+")  # path of a function, in an override
_BLOCK = re.compile(r"\+{0,2}model\.blocks\b[^=]*=")
_FOR_OTHERS = re.compile(r"INCEPTION_ZOO_|PYTHON|LD_|DYLD_|PATH$")  # variables that allow a config to run code


def own() -> set[str]:
    """Return the additional names that the environment allows; raise ZooError for what is not a name."""
    names = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
    if wrong := next((name for name in sorted(names) if not _PATH.fullmatch(name)), None):
        raise ZooError(f"{VARIABLE}={wrong}: not a name such as my_parts.Mine; write each name in full, patterns do not work")
    return names


def trust_words(words: Sequence[str]) -> None:
    """Allow the block functions in `words`, the command line of the user, in this process and in its child processes."""
    typed = [path for word in words if (block := _BLOCK.match(word)) for path in _PATH.findall(word[block.end() :])]
    if typed:
        os.environ[VARIABLE] = ",".join(sorted(own().union(typed)))


def targets_in(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield key and value of every `_target_` in `node`, at any depth; `key` is the key of the node."""
    for name, child in children(node):
        inner = f"{key}.{name}" if key else str(name)
        if name == "_target_" and isinstance(node, Mapping):
            yield inner, child
        yield from targets_in(child, inner)


def refused_targets(config: Mapping[str, Any], key: str = "") -> list[str]:
    """Return an error message for each `_target_` that is not on the allow-list.

    Args:
        config: Plain containers, with every value resolved.
        key: Key of `config`, for the messages.
    """
    allowed, found = TARGETS.keys() | own(), targets_in(config, key)
    return [_refusal(at, target, TARGETS) for at, target in found if not isinstance(target, str) or target not in allowed]


def refused_blocks(blocks: Any, key: str = "model.blocks") -> list[str]:
    """Return an error message for each block that is the path of a function and not allowed."""
    pairs = blocks.items() if isinstance(blocks, Mapping) else ()
    return [
        f"{key}.{name}={choice} is a function that is not on the allow-list; give it on the command line, "
        f"or, if you trust it, set the environment variable {VARIABLE}={choice}"
        for name, choice in pairs
        if isinstance(choice, str) and "." in choice and choice not in own()
    ]


def refused_logging(node: Any, key: str) -> list[str]:
    """Return an error message for each class or object in a config of Python's logging that is not allowed."""
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
    """Return an error message for each environment variable that a config must not set, because it can run code."""
    names = map(str, variables) if isinstance(variables, Mapping) else ()
    return [f"{key}.{name} is not allowed; set {name} in the environment" for name in names if _FOR_OTHERS.match(name)]


def children(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (key, value) of a mapping or (index, value) of a list; nothing for other objects."""
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def _refusal(key: str, target: Any, valid: Collection[str]) -> str:
    near = nearest(target, valid) if isinstance(target, str) else None
    meant = f"; did you mean '{near}'?" if near else ""
    door = f"; if you trust it, set the environment variable {VARIABLE}={target}" if isinstance(target, str) and target else ""
    return f"{key}={shown(target)} is not on the allow-list{meant}{door}"
