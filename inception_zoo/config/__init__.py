"""The Hydra config: validation rules, allow-list of targets, overrides, error messages, patches of Hydra."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())  # in a wheel, in a checkout
