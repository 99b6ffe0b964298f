"""Records: the small JSON and YAML files that the package writes for itself, atomically, and reads with care."""

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml

from inception_zoo.errors import ZooError, one_line
from inception_zoo.redaction import redacted
from inception_zoo.system.atomic_files import write_whole
from inception_zoo.system.regular_files import text_of

DEPTH = 100  # maximum nesting of a YAML file
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times as fast
KINDS = {dict: "a mapping of keys", list: "a list of texts"}
Kind = TypeVar("Kind", dict[str, Any], list[Any])


def read_json(path: Path, missing: Kind) -> Kind:
    """Return the content of a JSON file, which must have the type of `missing`, or `missing` if the file does not exist.

    Raises:
        ZooError: The file is damaged, or cannot be read.
    """
    return _read(path, missing, json.loads)


def read_yaml(path: Path, missing: Kind) -> Kind:
    """Return the content of a YAML file, as `read_json` does; refuse aliases and excessive nesting."""
    return _read(path, missing, _from_yaml)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_whole(path, json.dumps(content, indent=1) + "\n")


def save_redacted(config: Any, path: Path) -> None:
    """Save a Hydra config as YAML, atomically, without secrets and with unresolved interpolations; create the folder."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config) if OmegaConf.is_config(config) else config
    write_whole(path, OmegaConf.to_yaml(redacted(plain)), parents=True)


def _read(path: Path, missing: Kind, parse: Any) -> Kind:
    try:
        text = text_of(path)
    except FileNotFoundError:
        return missing
    try:
        found = parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ZooError(f"{path} is damaged: {one_line(error)}") from None
    if not isinstance(found, type(missing)) or (isinstance(found, list) and not all(isinstance(each, str) for each in found)):
        raise ZooError(f"{path} is damaged: it must be {KINDS[type(missing)]}")
    return found


def _from_yaml(text: str) -> Any:
    """Parse YAML; raise ValueError for aliases, which can expand to billions of values, and for excessive nesting."""
    depth = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"YAML aliases such as *{event.anchor} are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise ValueError(f"nested more than {DEPTH} levels deep")
    return yaml.load(text, LOADER)
