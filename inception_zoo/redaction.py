"""What must not be passed on: keys, tokens and passwords in a config, on the command line, in a log."""

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
_NAME = re.compile(  # of what holds a secret
    r"passw(or)?d|passphrase|(^|_)(secrets?|credentials?|authorization|api_?key|(access|private|account|signing|encryption)_key)(_|$)"
    r"|(^|_)(token|signature)$"
)
_ENTRY = re.compile(r"([{,]\s*['\"]?([\w.]+)['\"]?\s*:\s*)([^,{}]+)")  # of a dictionary in a text
_PAIR = re.compile(r"(?<![\w.])([\w.+-]+)=([^\s&;,]{4,})")  # of a word in a text, or of an address's query
_REFERENCE = re.compile(r"['\"\\]*\$\{[\w.:]+\}['\"]*")  # says where a secret is, and so tells nothing
_LOGIN = re.compile(r"(?<=://)(?:([^\s/:@]*):[^\s/]*@|[^\s/:@]{20,}@)")
_VALUES = re.compile(  # keys by their looks; W&B's older ones look like any SHA-1, and are known by the name of what holds them
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
    """A copy of plain containers in which `***` stands for every secret.

    These are the values of keys that are named like one, what looks like a key of a known service, passwords in addresses, and
    what a variable of the environment holds that is named like one. `${oc.env:NAME}` stays: it only says where the secret is.
    """
    values = [value for name, value in os.environ.items() if is_secret(name) and len(value) >= 8]
    return _redacted(config, sorted(values, key=len, reverse=True))


def is_secret(key: object) -> bool:
    """Whether a key or variable is named as one that holds a secret: `api_key`, `hf_token`; not `keys`, `num_tokens`."""
    return bool(_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W", "_", str(key)).lower()))


def _redacted(node: Any, values: list[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _hidden(value) if is_secret(key) else _redacted(value, values) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_redacted(value, values) for value in node)
    if not isinstance(node, str):
        return node
    key, equals, value = node.partition("=")  # a word of a command line
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
    """A config of Hydra's as YAML, references as they are; made with its folder."""
    from omegaconf import OmegaConf

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(redacted(OmegaConf.to_container(config))), encoding="utf-8")


def guard() -> None:
    """Remove secrets from every log record and from the traceback that ends this process."""
    logging.setLogRecordFactory(_record)
    sys.excepthook = _say


def _record(*args: Any, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **more)
    try:
        record.msg, record.args = redacted(record.getMessage()), None
    except Exception:  # a message that does not fit its arguments, which is for the handler to say
        return record
    if record.exc_info and record.exc_info[0]:
        record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
