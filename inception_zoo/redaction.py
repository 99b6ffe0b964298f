"""Remove keys, tokens and passwords from configs, command lines and logs."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

HIDDEN = "***"
_NAME = re.compile(  # names of keys and variables that hold a secret
    r"passw(or)?d|passphrase|(^|_)(secrets?|credentials?|authorization|api_?key|(access|private|account|signing|encryption)_key)(_|$)"
    r"|(^|_)(token|signature)$"
)
_ENTRY = re.compile(r"([{,]\s*['\"]?([\w.]+)['\"]?\s*:\s*)([^,{}]+)")  # `key: value` of a dictionary in a string
_PAIR = re.compile(r"(?<![\w.])([\w.+-]+)=([^\s&;,]{4,})")  # `key=value` in a string or in the query of a URL
_REFERENCE = re.compile(r"['\"\\]*\$\{[\w.:]+\}['\"]*")  # an interpolation: names the secret's variable, not its value
_LOGIN = re.compile(r"(?<=://)(?:([^\s/:@]*):[^\s/]*@|[^\s/:@]{20,}@)")
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
    passwords in URLs, and values of environment variables with a secret's name. `${oc.env:NAME}` stays: it has no value.
    """
    values = [value for name, value in os.environ.items() if is_secret(name) and len(value) >= 8]
    return _redacted(config, sorted(values, key=len, reverse=True))


def is_secret(key: object) -> bool:
    """Return True if the name is that of a secret, such as `api_key` or `hf_token`, but not `keys` or `num_tokens`."""
    return bool(_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W", "_", str(key)).lower()))


def _redacted(node: Any, values: list[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _hidden(value) if is_secret(key) else _redacted(value, values) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_redacted(value, values) for value in node)
    if not isinstance(node, str):
        return node
    key, equals, value = node.partition("=")  # an override
    if equals and value and " " not in key and is_secret(key):
        return f"{key}={_hidden(value)}"
    node = _ENTRY.sub(lambda entry: f"{entry[1]}{_hidden(entry[3])}" if is_secret(entry[2]) else entry[0], node)
    node = _PAIR.sub(lambda pair: f"{pair[1]}={_hidden(pair[2])}" if is_secret(pair[1]) else pair[0], node)
    for secret in values:
        node = node.replace(secret, HIDDEN)
    return _VALUES.sub(HIDDEN, _LOGIN.sub(lambda login: f"{login[1] or ''}:{HIDDEN}@", node))


def _hidden(value: Any) -> Any:
    if value is None or value == "" or isinstance(value, bool) or (isinstance(value, str) and _REFERENCE.fullmatch(value)):
        return value
    return HIDDEN


def save_redacted(config: Any, path: Path) -> None:
    """Save a Hydra config as YAML, without secrets and with unresolved interpolations; create the folder."""
    from omegaconf import OmegaConf

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(redacted(OmegaConf.to_container(config))), encoding="utf-8")


def guard() -> None:
    """Remove secrets from every log record and from the traceback of an uncaught exception."""
    logging.setLogRecordFactory(_record)
    sys.excepthook = _say


def _record(*args: Any, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **more)
    try:
        record.msg, record.args = redacted(record.getMessage()), None
    except Exception:  # the arguments do not fit the message; the handler reports that
        return record
    if record.exc_info and record.exc_info[0]:
        record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
