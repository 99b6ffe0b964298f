"""Config values that say where to write or which address to call, and the values that overrides and configs set."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_zoo.errors import ZooError

AGENT = "WANDB_SWEEP_ID"  # set for the commands that an agent of W&B runs: its server sends them, nobody typed them
READ_ONLY = "INCEPTION_ZOO_READ_ONLY"  # the folder of data that a checkpoint names: it is read, but nothing is downloaded to it
_PARAMS = "hydra.sweeper.params."
# Names of options, and forms of values, that say where to write or which address to call:
_NAME = re.compile(
    r"(^|_)(dir|dirpath|paths?|folder|root|file|cache|uri|url|host|location|prox(y|ies)|endpoints?|exporter|executable"
    r"|program|args|headers|api_?key)(_|$)"
)
_FORM = re.compile(r"[/\\~]|\w:[/\\]|.*://|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)


def is_place(key: str, value: Any) -> bool:
    """Return True for a place to write to, and for an address; not for the folder of data, which is read."""
    first, *names = [part for part in key.split(".") if not part.isdigit()] or [""]
    if isinstance(value, bytes):  # a path, for Python
        return True
    if first == "logger" and names[-1:] == ["offline"]:  # the network, against the user's environment
        return str(value).lower() == "false" and os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")
    if names[-1:] == ["disable_git"]:  # git would call programs that a repository names
        return value is not True
    if not isinstance(value, str) or first in ("ckpt", "model", "sweep"):  # files that are read
        return False
    if first == "data":
        return names[-1:] == ["cache"] or "://" in value or value.startswith("local:")
    return any(map(_NAME.search, names[1:] or names)) or bool(_FORM.match(value))


def may_download(root: str | Path) -> bool:
    """Return False for a folder of data that only a checkpoint names."""
    return os.environ.get(READ_ONLY) != str(root)


def check_download(root: str | Path, name: str) -> None:
    """Raise ZooError if the data set `name` must not be downloaded to `root`."""
    if not may_download(root):
        raise ZooError(f"data.root={root} is from the checkpoint, and has no {name}; add data.root=FOLDER to the command")


def outside(values: Iterable[tuple[str, Any]], folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of each place or address, except a place in the run folder and what the environment says.

    Args:
        values: Pairs of dotted key and resolved value.
        folder: The run folder, absolute.
    """
    known = {value for name, value in os.environ.items() if name.startswith(("WANDB_", "MLFLOW_"))}
    for key, value in values:
        if is_place(key, value) and value not in known:
            path = Path(os.fsdecode(value)) if isinstance(value, str | bytes) else Path()
            if not path.is_relative_to(folder) or ".." in path.parts:
                yield key, value


def sending(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the key `offline` of each W&B logger without it: W&B's default is to send. An agent of W&B sends anyway."""
    loggers = config.get("logger") if AGENT not in os.environ else None
    nodes = loggers.items() if isinstance(loggers, Mapping) else ()
    wandb = [(name, node) for name, node in nodes if isinstance(node, Mapping) and _is_wandb(node)]
    return [(f"logger.{name}.offline", None) for name, node in wandb if node.get("offline") is None]


def _is_wandb(node: Mapping[str, Any]) -> bool:
    return str(node.get("_target_")).endswith("WandbLogger")


def walk(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything in `node`, a mapping or list, at any depth; `key` is the key of the node."""
    for name, child in node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ():
        inner = f"{key}.{name}" if key else str(name)
        yield inner, child
        yield from walk(child, inner)


def leaves(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield key and value of everything in the config `node` that is not a container, in a list under the key of the list.

    The overrides that a sweeper passes to its jobs are yielded as what they set.
    """
    for at, value in walk(node):
        key = re.sub(r"\.\d+(?=\.|$)", "", at)
        if isinstance(value, Mapping | list | tuple):
            continue
        if key == "hydra.sweeper.jobs":
            yield from parsed([str(value)])
        elif at.startswith(_PARAMS):
            yield from parsed([f"{at.removeprefix(_PARAMS)}={value}"])
        else:
            yield key, value


def parsed(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield key and value of overrides, as `leaves`; a value that Hydra cannot parse is a text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser  # the checks of a config do not need Hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    parser = OverridesParser.create()
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        try:
            override = parser.parse_override(word)
            if override.is_choice_sweep():
                yield from parsed([f"{key}={each}" for each in override.sweep_string_iterator()])
                continue
            node = value if override.is_sweep_override() else override.value()
        except (HydraException, OmegaConfBaseException, ValueError):  # also a sweep in a sweep, or a number of 5,000 digits
            node = value
        yield from leaves({key: node})
