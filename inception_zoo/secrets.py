"""What must not be passed on: keys, tokens and passwords in a config."""

import os
import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(
    r"passw(or)?d|passphrase|(^|_)(secrets?|credentials?|api_?key|(access|private|account|signing|encryption)_key)(_|$)|(^|_)token$"
)
_LOGIN = re.compile(r"(?<=://)([^\s/:@]*):[^\s/@]+@")
_ENTRY = re.compile(r"([{,]\s*([\w.]+)\s*:\s*)([^,{}]+)")  # of a dictionary in a word
HIDDEN = "***"


def redacted(config: Any) -> Any:
    """A copy of plain containers in which `***` stands for every secret.

    These are the values of keys that are named like one, passwords in URLs, and what a variable of the environment holds
    that is named like one.
    """
    values = [value for name, value in os.environ.items() if is_secret(name) and len(value) >= 8]
    return _redacted(config, sorted(values, key=len, reverse=True))


def is_secret(key: object) -> bool:
    """Whether a key or variable is named as one that holds a secret: `api_key`, `hf_token`; not `keys`, `num_tokens`."""
    return bool(_SECRET.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W", "_", str(key)).lower()))


def _redacted(node: Any, values: list[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _hidden(value) if is_secret(key) else _redacted(value, values) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_redacted(value, values) for value in node)
    if not isinstance(node, str):
        return node
    key, equals, value = node.partition("=")  # a word of a command line
    if equals and value and " " not in key and is_secret(key):
        return f"{key}={HIDDEN}"
    node = _ENTRY.sub(lambda entry: f"{entry[1]}{HIDDEN}" if is_secret(entry[2]) else entry[0], node)
    for secret in values:
        node = node.replace(secret, HIDDEN)
    return _LOGIN.sub(rf"\1:{HIDDEN}@", node)


def _hidden(value: Any) -> Any:
    return value if value is None or value == "" or isinstance(value, bool) else HIDDEN
