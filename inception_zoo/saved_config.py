"""The config of an earlier run, taken from its checkpoint, so that `ckpt=` needs no other override.

A checkpoint may be untrusted. Its config passes the checks of every config, and never chooses a place to write to.
"""

import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.choices import LOADING, Choices
from inception_zoo.config import CONF, hydra_patches
from inception_zoo.config.allowed import TARGETS
from inception_zoo.config.rules import GROUPS, KEYS, NEEDED, SPECIAL
from inception_zoo.config.targets import VARIABLE, own, targets_in
from inception_zoo.errors import ZooError, raise_all, shown
from inception_zoo.redaction import HIDDEN, redacted
from inception_zoo.runs.results import REASON, flattened, is_interrupted
from inception_zoo.runs.sweeps import words_of
from inception_zoo.system.ranks import agreed
from inception_zoo.system.renamed import with_new_names

TESTED = ("seed", "model", "data")  # what a test takes from the run; nothing else changes its result
OWN = ("task", "ckpt", "sweep", "provenance")  # never taken: they describe the earlier command, or its result
TOP = {*GROUPS, *(key for key in KEYS if "." not in key)}.difference(OWN)
MODEL = {*(each.name for each in fields(Choices)), *LOADING, "name", "num_classes", "in_channels"}
FOLDER = "${hydra:runtime.output_dir}"  # the run folder, in a config
# Names of options, and forms of values, that say where to write or which address to call:
_NAME = re.compile(r"(^|_)(dir|dirpath|path|folder|root|file|cache|uri|url|host|location|args)(_|$)")
_FORM = re.compile(r"[/\\~]|\w:[/\\]|.*://|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)


def is_whole(hydra: HydraConf) -> bool:
    """Return True if the command names a whole config (`--config-path`, `--config-name`), as that of another rank does."""
    main = [source.path for source in hydra.runtime.config_sources if source.provider == "main"]
    return REASON in os.environ or main != [str(CONF)] or hydra.job.config_name != "config"


def recover(cfg: DictConfig, hydra: HydraConf, folder: Path) -> list[str]:
    """Take the config of the run that `ckpt` names, for every key that the command line does not name.

    A group on the command line (`data=…`) names all of its keys. `experiment`, `recipe` and other groups that set keys
    elsewhere name the keys that they change. A resumed training takes everything; a test takes `TESTED`.

    Args:
        cfg: The composed config; changed in place. `ckpt` becomes the path of the checkpoint.
        hydra: The node `hydra` of the job; that of a single job is changed, to describe what is trained.
        folder: The run folder of this job.

    Returns:
        Lines for the log: what was taken, and what was left out.

    Raises:
        ZooError: The checkpoint does not exist, or its config cannot be used. Each message names a key.
    """
    if not isinstance(cfg.ckpt, str) or cfg.task not in ("fit", "test") or is_whole(hydra):
        return []
    ckpt, words = cfg.ckpt, [str(word) for word in hydra.overrides.task]
    named = _named(words, hydra)
    saved, size, source = _read(cfg, folder, named)
    if cfg.task == "test":
        saved = {key: saved[key] for key in TESTED if key in saved}
    merge = _Merge(named, str((saved.get("trainer") or {}).get("default_root_dir") or ""))
    ours: Any = OmegaConf.to_container(cfg, resolve=False)
    taken = {key: merge(key, ours.get(key), saved[key]) for key in saved if key in TOP and key not in named}
    raise_all(merge.refused)
    _check_code(taken, ckpt, hydra)
    with read_write(cfg), open_dict(cfg):
        for key, value in taken.items():
            cfg[key] = value
        if size and "data.image_size" not in named:  # the network's own, for other data, too
            cfg.data.image_size = size
    if hydra.mode == RunMode.RUN:
        before = words_of(source) if source and cfg.task == "fit" else []
        with read_write(hydra), open_dict(hydra):
            hydra.runtime.choices.model = cfg.model.name  # in the default name of the folder
            hydra.overrides.task = [
                *(word for word in before if word.partition("=")[0] not in OWN and word not in words),
                *words,
            ]
    given = ", ".join(word for word in words if word.partition("=")[0] not in OWN) or "nothing"
    lost = merge.unknown + sorted(saved.keys() - TOP - {*OWN})
    lines = [f"config: from {cfg.ckpt or ckpt}; {given} from the command line"] if saved else []
    return lines + [f"config: {key} is not a key any more; left out" for key in lost]


def command(words: list[str], allowed: Collection[str]) -> str:
    """Return the command line with the arguments `words`, which allows the targets `allowed`, too."""
    variable = f"{VARIABLE}={shlex.quote(','.join(sorted(allowed)))} " if allowed else ""
    return variable + shlex.join(["python", "run.py", *words])


def not_saved(hydra: HydraConf) -> list[str]:
    """Return the overrides that a checkpoint cannot set, so that a command that resumes it has to repeat them."""
    if is_whole(hydra):
        return redacted([word for word in sys.argv[1:] if not word.startswith(("ckpt=", "hydra.run.dir="))])
    pairs = [(word, *word.lstrip("+").partition("=")[::2]) for word in redacted(list(hydra.overrides.task))]
    return [word for word, key, value in pairs if key not in OWN and (HIDDEN in value or _is_place(key, value))]


def _named(words: list[str], hydra: HydraConf) -> set[str]:
    """Return the keys and groups that overrides name."""
    named: set[str] = set()
    elsewhere = []  # groups such as `experiment`
    for override in OverridesParser.create().parse_overrides(words):
        key, value = override.key_or_group, override.value()
        if key in hydra.runtime.choices and key not in GROUPS:
            elsewhere.append(override.input_line)
        else:
            named |= flattened({key: value}).keys()
    if elsewhere:
        added = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
        loader = hydra_patches.loader(*added)
        with_them, without = (loader.load_configuration("config", chosen, RunMode.RUN) for chosen in (elsewhere, []))
        chosen, usual = with_them.hydra.runtime.choices, without.hydra.runtime.choices
        named |= {group for group in GROUPS if chosen.get(group) != usual.get(group)}
        after, before = (flattened(OmegaConf.to_container(each, resolve=False)) for each in (with_them, without))
        named |= {key for key, value in after.items() if key not in before or before[key] != value}
    return named


def _read(cfg: DictConfig, folder: Path, named: Collection[str]) -> tuple[Mapping[str, Any], int | None, Path | None]:
    """Return the config in the file that `ckpt` names, the image size of its network, and its run folder.

    Raises:
        ZooError: The file does not exist, or does not say enough.
    """
    from inception_zoo.training.checkpoints import find_checkpoint, saved_config  # torch
    from inception_zoo.weights.files import read_card

    if cfg.ckpt.endswith(".safetensors") and Path(cfg.ckpt).is_file():
        use = f"ckpt={cfg.ckpt} has weights only"
        if cfg.task == "fit":
            raise ZooError(f"{use}, so training cannot be resumed; start a new one from them with model.weights={cfg.ckpt}")
        if (plain := read_card(cfg.ckpt)) is None:
            raise ZooError(f"{use}; add model=NAME, and model.weights={cfg.ckpt} instead of ckpt")
        if not any(f"{key}.".startswith("data.") for key in named):
            raise ZooError(f"{use}; add data=NAME, and data.root=FOLDER if it has one, to choose what they are tested on")
        card = Card.of(plain)
        model, cfg.ckpt = {**card.model, "weights": cfg.ckpt}, None
        return {"model": model}, card.preprocessing and card.preprocessing.image_size, None
    if path := find_checkpoint(cfg.ckpt, cfg.task, folder, is_interrupted(folder)):
        cfg.ckpt = agreed("ckpt", str(path))
        saved = saved_config(Path(cfg.ckpt))
        return saved, saved["data"].get("image_size") if cfg.task == "test" else None, Path(cfg.ckpt).parents[1]
    record = folder / ".hydra" / "resolved.yaml"  # interrupted before its first checkpoint
    saved = with_new_names(OmegaConf.to_container(OmegaConf.load(record), resolve=False)) if record.exists() else {}
    return saved, None, folder


@dataclass
class _Merge:
    """Function that returns the value of a key from the saved one and from the composed one, which may be named."""

    named: Collection[str]
    folder: str  # run folder of the saved config
    unknown: list[str] = field(default_factory=list)  # saved keys that do not exist any more
    refused: list[str] = field(default_factory=list)  # error messages

    def __call__(self, key: str, ours: Any, saved: Any) -> Any:
        if isinstance(saved, Mapping):
            return dict(self._items(key, ours if isinstance(ours, Mapping) else {}, saved))
        if isinstance(saved, list | tuple):
            return [self(f"{key}.{number}", None, each) for number, each in enumerate(saved)]
        if saved == ours:
            return ours
        hidden = "${" in str(saved) or HIDDEN in str(saved)
        if place := FOLDER in str(ours) or _is_place(key, saved):
            path = Path(str(saved))
            if self.folder and path.is_relative_to(self.folder) and not {"..", "~"} & {*path.parts} and not hidden:
                return "/".join((FOLDER, *path.relative_to(self.folder).parts))  # the folder may have been moved
        if place or hidden:
            add = f"{'+' if ours is None else ''}{key}"
            what = f"{key}={shown(saved)}: a checkpoint cannot set this place, address or secret"
            self.refused.append(f"{what}; add {add}=VALUE to the command")
        return saved

    def _items(self, key: str, ours: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        rules = {*TARGETS.get(str(saved.get("_target_")), {...}), *SPECIAL} if key != "model" else MODEL
        for name in dict.fromkeys([*saved, *ours]):
            inner = f"{key}.{name}"
            below = any(each.startswith(f"{inner}.") for each in self.named)
            if inner in self.named or (below and not isinstance(saved.get(name), Mapping)) or name not in saved:
                if name in ours and (inner in self.named or below or inner in NEEDED):
                    yield name, ours[name]
            elif name in rules or ... in rules:
                yield name, self(inner, ours.get(name), saved[name])
            else:
                self.unknown.append(inner)


def _is_place(key: str, value: Any) -> bool:
    """Return True for a place to write to, and for an address; not for the folder of data, which is read."""
    name = next(part for part in reversed(key.split(".")) if not part.isdigit())
    if not isinstance(value, str) or key.startswith("model."):
        return False
    if key.startswith("data."):
        return name == "cache" or "://" in value or value.startswith("local:")
    return bool(_NAME.search(name) or _FORM.match(value))


def _check_code(config: Mapping[str, Any], ckpt: str, hydra: HydraConf) -> None:
    """Raise ZooError, with the command that allows them, if a saved config names classes or functions of other packages."""
    blocks = (config.get("model") or {}).get("blocks") or {}
    called = [*(target for _, target in targets_in(config)), *(block for block in blocks.values() if "." in str(block))]
    if names := sorted({each for each in called if isinstance(each, str)} - TARGETS.keys() - own()):
        words = sys.argv[1:] if hydra.mode == RunMode.RUN else hydra.overrides.task
        how = f"if you trust it, run: {command(redacted([*words]), {*own(), *names})}"
        raise ZooError(f"ckpt={ckpt} calls {', '.join(names)}, not on the allow-list; {how}")
