"""Remove keys, tokens and passwords from configs, command lines and logs; escape characters that control a terminal."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
_NAME = re.compile(  # names of keys and variables that hold a secret
    r"passw(or)?d|passphrase|(^|_)(secrets?|credentials?|authorization|api_?key|(access|private|account|signing|encryption)_key)(_|$)"
    r"|(^|_)(token|signature|sig)$"
)
_ENTRY = re.compile(r"([{,]\s*['\"]?([\w.-]+)['\"]?\s*:\s*)([^,{}]+)")  # `key: value` of a dictionary in a string
_PAIR = re.compile(r"(?<![\w.])([\w.+-]+)=([^\s&;,]{4,})")  # `key=value` in a string or in the query of a URL
_REFERENCE = re.compile(r"['\"\\]*\$\{[\w.:]+\}['\"]*")  # an interpolation: names the secret's variable, not its value
_LOGIN = re.compile(  # in a URL; also with one slash, as in a path, or escaped. A port is not a password with a slash
    r"(:(?:\\?/){1,2}|%3A%2F%2F)"
    r"(?:([^\s/:@]{0,64}?)(?::|%3A)([^\s/]{0,4096}(?:@|%40)|(?!\d+[/?#])[^\s\"']{0,4096}?@)|([^\s/:@]{20,4096}@))"
)
_CONTROL = re.compile(  # C0, DEL, C1; line and paragraph separators; text direction; zero width, without joiners; surrogates
    r"\x1b\[[0-?]*[@-~]|[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_learned: set[str] = set()
_VALUES = re.compile(  # secrets by their format. W&B's old keys look like any SHA-1: only the name of their variable shows them
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}"
    r"|hf_[A-Za-z0-9]{20,}|wandb_v1_\w{20,}|local-[0-9a-f]{40}"
    r"|AIza[\w-]{30,}|xox[a-z]-[\w-]{10,}|pypi-[\w-]{40,}|sk-[A-Za-z0-9_-]{32,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"  # JSON web tokens
    r")",
    re.DOTALL,
)


def redacted(config: Any) -> Any:
    """Return a copy of plain containers in which `***` replaces every secret.

    Secrets are values of keys with a secret's name (see `is_secret`), strings in the format of a known service's keys,
    passwords in URLs, and values of environment variables with a secret's name. `${oc.env:NAME}` stays: it has no value. A
    text is also searched for what `learn` has found: libraries quote parts of a URL.
    """
    values = {value for name, value in os.environ.items() if is_secret(name) and len(value) >= 8}
    return _redacted(config, sorted(values | _learned if isinstance(config, str) else values, key=len, reverse=True), set())


def learn(trusted: Any) -> None:
    """Remember the secrets of the command line, the environment or the config, for texts that quote them in another form."""
    _redacted(trusted, [], found := set[str]())
    safe.cache_clear()
    _learned.update(form for text in found for form in (text, unquote(text), quote(text, "")) if len(form) >= 8)


def printable(text: str, keep: str = "") -> str:
    """Escape characters that could control a terminal or cannot be encoded, except `keep`; with ESC, also its sequences."""
    return _CONTROL.sub(lambda it: it[0] if it[0][0] in keep and it[0] != "\x1b" else ascii(it[0])[1:-1], text)


@lru_cache(512)  # a progress bar prints the same texts at each step
def safe(text: str) -> str:
    """Return a text of several lines without secrets, and with escapes for control characters."""
    return printable(redacted(text), "\n\t")


@lru_cache(4096)
def is_secret(key: object) -> bool:
    """Return True if the name is that of a secret, such as `api_key` or `hf_token`, but not `keys` or `num_tokens`."""
    return bool(_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|\W", "_", str(key)).lower()))


def _redacted(node: Any, values: list[str], found: set[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _hidden(each, found) if is_secret(key) else _redacted(each, values, found) for key, each in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_redacted(value, values, found) for value in node)
    if not isinstance(node, str):
        return node
    key, equals, value = node.partition("=")  # an override
    if equals and value and " " not in key and is_secret(key):
        return f"{key}={_hidden(value, found)}"
    node = _ENTRY.sub(lambda entry: f"{entry[1]}{_hidden(entry[3], found)}" if is_secret(entry[2]) else entry[0], node)
    node = _PAIR.sub(lambda pair: f"{pair[1]}={_hidden(pair[2], found)}" if is_secret(pair[1]) else pair[0], node)
    for secret in values:
        node = node.replace(secret, HIDDEN)
    for login in _LOGIN.finditer(node):
        found |= {secret := (login[3] or login[4])[:-1], f"{login[2]}:{secret}"}
    return _VALUES.sub(HIDDEN, _LOGIN.sub(rf"\1\2:{HIDDEN}@", node))


def _hidden(value: Any, found: set[str]) -> Any:
    if value is None or value == "" or isinstance(value, bool) or (isinstance(value, str) and _REFERENCE.fullmatch(value)):
        return value
    found.add(str(value))
    return HIDDEN


def guard() -> None:
    """Remove secrets from every log record and from the traceback of an uncaught exception."""
    logging.setLogRecordFactory(_record)
    sys.excepthook = _say


def _record(*args: Any, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **more)
    try:
        record.msg, record.args = safe(record.getMessage()), None
    except Exception:  # the arguments do not fit the message; the handler reports that
        return record
    if record.exc_info and record.exc_info[0]:
        record.exc_text = safe("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(safe("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
