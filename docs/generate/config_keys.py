"""Read the keys of conf/*.yaml with the comments that explain them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

CONF = Path(__file__).parents[2] / "conf"
LISTS = ("defaults",)  # Hydra's own key: which files are composed


@dataclass(frozen=True)
class Key:
    """One key of a YAML file."""

    key: str  # dotted, from the root of the composed config
    value: str  # as it is written; empty for a mapping
    meaning: str  # the comment at the end of its line, or on the lines above it


def title(path: Path) -> str:
    """Return the comment that a file begins with, in one line."""
    lines = path.read_text("utf-8").splitlines()
    start = 1 if lines and lines[0].startswith("# @package") else 0
    comments = []
    for line in lines[start:]:
        if not line.startswith("#"):
            break
        comments.append(line.lstrip("# "))
    return " ".join(comments)


def keys_of(path: Path) -> list[Key]:
    """Return every key of a file, mappings before what they contain."""
    text = path.read_text("utf-8")
    node = yaml.compose(text)
    return list(_keys(text.splitlines(), node, package(path))) if isinstance(node, yaml.MappingNode) else []


def package(path: Path) -> str:
    """Return the prefix of a file's keys in the composed config, such as `model.`."""
    written = re.search(r"^# @package (\S+)", path.read_text("utf-8"), re.MULTILINE)
    group = written[1] if written else path.parent.relative_to(CONF).as_posix().replace("/", ".").removesuffix(".base")
    return "" if group in ("_global_", ".") else f"{group}."


def meanings() -> dict[str, str]:
    """Return what each key of the composed config means: of a key in several files, the first comment."""
    found: dict[str, str] = {}
    for path in sorted(CONF.rglob("*.yaml"), key=lambda path: ("experiment" in path.parts, path)):
        for key in keys_of(path):
            if key.meaning:
                found.setdefault(key.key, key.meaning)
    return found


def meaning_of(key: str, known: dict[str, str]) -> str:
    """Return what a key means; an endpoint under `model.blocks` is explained there."""
    return known.get(key) or (known.get("model.blocks", "") if key.startswith("model.blocks.") else "")


def _keys(lines: list[str], node: yaml.MappingNode, prefix: str) -> Iterator[Key]:
    for name, value in node.value:
        if name.value in LISTS:
            continue
        key = f"{prefix}{name.value}"
        nested = isinstance(value, yaml.MappingNode) and not value.flow_style
        written = "" if nested else _written(lines, value)
        yield Key(key, written, _meaning(lines, name.start_mark.line))
        if nested:
            yield from _keys(lines, value, f"{key}.")


def _written(lines: list[str], node: yaml.Node) -> str:
    """Return the text of a value on one line."""
    start, end = node.start_mark, node.end_mark
    if start.line == end.line:
        return lines[start.line][start.column : end.column]
    part = [
        lines[start.line][start.column :],
        *lines[start.line + 1 : end.line],
        lines[end.line][: end.column] if end.column else "",
    ]
    return " ".join(re.sub(r"\s+#.*", "", line).strip() for line in part).strip()


def _meaning(lines: list[str], line: int) -> str:
    """Return the comment at the end of a line, or else the one above it, unless that is the title of the file."""
    own = re.search(r"(?:^|\s)#\s*(.*)$", _without_strings(lines[line]))
    if own:
        return lines[line][own.start(1) :].strip()
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(above.strip().lstrip("# ") for above in lines[first:line]) if first else ""


def _without_strings(line: str) -> str:
    """Blank quoted strings, in which `#` begins no comment."""
    return re.sub(r"\"[^\"]*\"|'[^']*'", lambda match: "x" * len(match[0]), line)
