"""The config of an earlier run, taken from its checkpoint, so that `ckpt=` needs no other override.

A checkpoint may be untrusted. Its config passes the checks of every config, and never chooses a place to write to.
"""

import logging
import os
import sys
from collections.abc import Collection, Mapping
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
from inception_zoo.config.rules import NEEDED, SPECIAL, TOP
from inception_zoo.errors import ZooError, shown
from inception_zoo.redaction import HIDDEN, redacted
from inception_zoo.runs.results import REASON, flattened, is_interrupted
from inception_zoo.runs.sweeps import words_of
from inception_zoo.system.places import READ_ONLY, is_place
from inception_zoo.system.ranks import agreed, by_torchrun, is_first
from inception_zoo.system.records import read_yaml
from inception_zoo.system.renamed import with_new_names

log = logging.getLogger(__name__)
TESTED = ("seed", "model", "data", "loss")  # what a test takes from the run; nothing else changes its result
OWN = ("task", "ckpt", "sweep", "provenance")  # never taken: they describe the earlier command, or its result
MODEL = {*vars(Choices()), *LOADING, "name", "num_classes", "in_channels"}
FOLDER = "${hydra:runtime.output_dir}"  # the run folder, in a config


def recover(cfg: DictConfig, hydra: Any, folder: Path) -> list[str]:
    """Take the config of the run that `ckpt` names, for every key that the command line does not name.

    A group on the command line (`data=…`) names all of its keys; `experiment` and `recipe` name the keys that they change. A
    resumed training takes everything; a test takes `TESTED`.

    Args:
        cfg: The composed config; changed in place. `ckpt` becomes the path of the checkpoint.
        hydra: The node `hydra` of the job; that of a single job is changed, to describe what is trained.
        folder: The run folder of this job.

    Returns:
        Lines for the log: what was taken, and what was left out.

    Raises:
        ZooError: The checkpoint does not exist, or its config cannot be used. The message names a key.
    """
    if not is_whole(hydra):  # else set by the first process of the job
        os.environ.pop(READ_ONLY, None)
    if not isinstance(cfg.ckpt, str) or "${" in cfg.ckpt or cfg.task not in ("fit", "test") or is_whole(hydra):
        return []
    from inception_zoo.training.checkpoints import check_same  # torch

    words, ckpt, left_out = list(map(str, hydra.overrides.task)), cfg.ckpt, list[str]()
    named = _named(cfg, words, hydra)
    saved, size = _read(cfg, hydra, folder, named)
    run = folder if cfg.ckpt == "last" else Path(cfg.ckpt or "").parent.parent
    single = hydra.mode == RunMode.RUN
    old_words = _described(words_of(run) or ()) if cfg.task == "fit" and single else []
    if not saved:
        return [_begun_anew(cfg, hydra, folder, old_words)] if single else []
    taken = {key: value for key, value in saved.items() if key in (TESTED if cfg.task == "test" else saved.keys() - {*OWN})}
    old = str((taken.get("trainer") or {}).get("default_root_dir"))
    ours: Any = OmegaConf.to_container(cfg, resolve=False)
    ours.pop("hydra", None)
    merged = _merged("", ours, taken, named, old, left_out)
    if (root := merged["data"].get("root")) != ours["data"].get("root"):
        os.environ[READ_ONLY] = str(root)
    check_same(cfg.ckpt or ckpt, ["model.name"], saved, merged)  # before an image size for another network is refused
    with read_write(cfg), open_dict(cfg):
        for key, value in merged.items():
            cfg[key] = value
        if size and not any(word.lstrip("+").startswith("data.image_size=") for word in words):  # for other data, too
            cfg.data.image_size = size
    if single:
        node: Any = hydra
        with read_write(node), open_dict(node):
            node.runtime.choices.model = cfg.model.name  # in the default name of the folder
            if cfg.task == "fit":  # so that tags and reports still show what is trained
                node.overrides.task = list(dict.fromkeys([*(word for word in old_words if not _is_unsaved(word)), *words]))
    said = [f"config: from {cfg.ckpt or ckpt}; {', '.join(_described(words)) or 'nothing'} from the command line"]
    said += [f"config: {key} of the run does not exist any more; left out" for key in left_out]
    if others := [name for name in saved.get("metrics") or {} if cfg.task == "test" and name not in cfg.metrics]:
        said.append(f"config: a test does not take the metrics of the run ({', '.join(others)}); repeat their overrides")
    return said


def _begun_anew(cfg: DictConfig, hydra: Any, folder: Path, old_words: list[str]) -> str:
    """Take the overrides of a run that was killed before it recorded its config; return the line for the log."""
    typed = list(map(str, hydra.overrides.task))
    others = [word for word in old_words if word.partition("=")[0] not in {each.partition("=")[0] for each in typed}]
    if lost := [word for word in others if _is_unsaved(word) or "${" in word or word.lstrip("+~").startswith("hydra")]:
        raise ZooError(f"ckpt=last: {folder} has no checkpoint, and {lost[0]} is not taken from it; repeat the whole command")
    words = [*others, *typed]
    new = _loaded(hydra, words)
    with read_write(cfg), open_dict(cfg), read_write(hydra), open_dict(hydra):
        for key in new.keys() - {"hydra"}:
            cfg[key] = new[key]
        hydra.overrides.task, hydra.runtime.choices.model = words, cfg.model.name
    return f"config: {folder} has no checkpoint; from {', '.join(_described(words)) or 'the defaults'}"


def _loaded(hydra: HydraConf, words: list[str]) -> DictConfig:
    """Return the config that Hydra composes from the overrides `words`."""
    added = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    return hydra_patches.loader(*added).load_configuration("config", words, RunMode.RUN)


def is_whole(hydra: HydraConf) -> bool:
    """Return True if the command names a whole config (`--config-path`, `--config-name`), as that of another rank does."""
    main = [source.path for source in hydra.runtime.config_sources if source.provider == "main"]
    return REASON in os.environ or main != [str(CONF)] or hydra.job.config_name != "config"


def not_saved(hydra: HydraConf) -> list[str]:
    """Return the arguments that a checkpoint cannot set, so that a command that resumes it has to repeat them."""
    if is_whole(hydra):
        return [word for word in sys.argv[1:] if not word.startswith(("ckpt=", "hydra.run.dir="))]
    return [word for word in redacted(_described(hydra.overrides.task)) if _is_unsaved(word)]


def _is_unsaved(word: str) -> bool:
    key, _, value = word.lstrip("+").partition("=")
    return HIDDEN in value or is_place(key, value)


def _described(words: Collection[str]) -> list[str]:
    """Return the overrides that a run is described by."""
    return [word for word in words if word.partition("=")[0] not in OWN]


def _named(cfg: DictConfig, words: list[str], hydra: HydraConf) -> set[str]:
    """Return the keys and groups that the overrides name, directly or by an experiment."""
    default = _loaded(hydra, [])
    usual, ours = (flattened(OmegaConf.to_container(each, resolve=False)) for each in (default, cfg))  # type: ignore[arg-type]
    named = {key for key, value in ours.items() if key not in usual or value != usual[key]}
    for override in OverridesParser.create().parse_overrides(words):
        named |= flattened({str(override.key_or_group): override.value()}).keys()
    return named


def _read(cfg: DictConfig, hydra: HydraConf, folder: Path, named: Collection[str]) -> tuple[Mapping[str, Any], int | None]:
    """Return the config in the file that `ckpt` names, and the image size of its network for a test; set `ckpt` to its path.

    Without a checkpoint, it is the config that a run in `folder` recorded before it was killed; empty if it has none.

    Raises:
        ZooError: The file does not exist, or does not say enough.
    """
    from inception_zoo.training.checkpoints import find_checkpoint, saved_config  # torch
    from inception_zoo.weights.files import read_card

    path = cfg.ckpt
    if path.endswith(".safetensors") and Path(path).is_file():
        if cfg.task == "fit" or not any(f"{key}.".startswith("data.") for key in named):
            how = f"test it with task=test ckpt={path} data=NAME data.root=FOLDER, or train from it with model.weights={path}"
            raise ZooError(f"ckpt={path} has weights only, without the data; {how}")
        if (plain := read_card(path)) is None:
            raise ZooError(f"ckpt={path} does not name its network; use model=NAME model.weights={path} instead")
        card, cfg.ckpt = Card.of(plain), None
        return {"model": {**card.model, "weights": path}}, card.preprocessing.image_size if card.preprocessing else None
    decides = is_first() or not by_torchrun()
    interrupted = is_interrupted(folder, single=hydra.mode == RunMode.RUN)
    found = find_checkpoint(path, cfg.task, folder, interrupted) if decides else None
    if place := agreed("ckpt", str(found or "")):
        cfg.ckpt = place
        if not decides and not Path(place).exists():
            raise ZooError(f"ckpt={place}: is on the machine of rank 0 only; copy the run folder to this machine")
        saved = saved_config(Path(cfg.ckpt))
        return saved, saved["data"].get("image_size") if cfg.task == "test" else None
    try:
        return with_new_names(read_yaml(folder / ".hydra" / "resolved.yaml", {})), None
    except ZooError as error:  # written by an older version, not atomically
        log.warning("%s; the config is made from the overrides of the run", error)
        return {}, None


def _merged(key: str, ours: Any, saved: Any, named: Collection[str], old: str, left_out: list[str]) -> Any:
    """Return the saved value of a key, with the composed value of those keys below it that are named.

    Args:
        key: The key, dotted; empty for the whole config.
        ours: The composed value, with interpolations.
        saved: The saved value.
        named: Keys that the command line names.
        old: Run folder of the saved config.
        left_out: Receives the saved keys that do not exist any more.

    Raises:
        ZooError: The value is a place, an address or a secret.
    """
    if isinstance(saved, list | tuple):
        return [_merged(f"{key}.{number}", None, each, named, old, left_out) for number, each in enumerate(saved)]
    if not isinstance(saved, Mapping):
        return ours if saved == ours else _checked(key, ours, saved, old)
    merged, ours = {}, ours if isinstance(ours, Mapping) else {}
    rules = {"": TOP, "model": MODEL}.get(key) or {*TARGETS.get(str(saved.get("_target_")), {...}), *SPECIAL}
    for name in dict.fromkeys([*saved, *ours]):
        inner = f"{key}.{name}".lstrip(".")
        below = any(each.startswith(f"{inner}.") for each in named)
        if inner in named or (below and not isinstance(saved.get(name), Mapping)) or name not in saved:
            if name in ours and (inner in named or below or inner in NEEDED):
                merged[name] = ours[name]
        elif name in rules or ... in rules:
            merged[name] = _merged(inner, ours.get(name), saved[name], named, old, left_out)
        else:
            left_out.append(inner)
    return merged


def _checked(key: str, ours: Any, saved: Any, old: str) -> Any:
    """Return a saved value; a place in the old run folder becomes one in the run folder of this job."""
    place, path = FOLDER in str(ours) or is_place(key, saved), Path(str(saved))
    safe = "${" not in str(saved) and HIDDEN not in str(redacted({key.rpartition(".")[2]: saved}))  # nor another user's key
    if key.endswith(".tracking_uri") and saved == os.environ.get("MLFLOW_TRACKING_URI"):
        return saved  # the environment says the same
    if place and safe and path.is_relative_to(old) and ".." not in path.parts:
        return "/".join((FOLDER, *path.relative_to(old).parts))
    if place or not safe:
        add = f"{'+' if ours is None else ''}{key}=VALUE"
        raise ZooError(f"{key}={shown(saved)}: a checkpoint cannot set this place, address or secret; add {add} to the command")
    return saved
