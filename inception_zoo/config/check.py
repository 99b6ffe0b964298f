"""Validation of the composed config, before torch is imported, anything is called or a folder is created."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from inception_zoo.architecture.choices import ALIKE, EXAMPLE, LOADING, Choices, loading_mistakes
from inception_zoo.architecture.image_size import check_image_size
from inception_zoo.architecture.nets import find_net
from inception_zoo.config import CONF
from inception_zoo.config.allowed import TARGETS
from inception_zoo.config.losses import about_decision, about_loss
from inception_zoo.config.rules import (
    CALLED,
    FAMILY,
    GROUPS,
    HYDRA,
    KEYS,
    LEVEL,
    NEEDED,
    OWNED,
    SPECIAL,
    TOP,
    USUAL,
    Options,
    kind_of,
)
from inception_zoo.config.targets import refused_targets
from inception_zoo.data.layout import why_uncounted
from inception_zoo.errors import TREE, ZooError, did_you_mean, messages_of, nearest, raise_all, shown
from inception_zoo.system.places import walk
from inception_zoo.weights.sources import check_library, is_name

PRESETS = {"callbacks": "default", "logger": "wandb"}  # groups whose options can be combined, and the usual one
NEWCOMERS = {"pretrained": "model.weights", "gpus": "trainer.devices", "learning_rate": "optimizer.lr", "resume": "ckpt=last"}


def check(cfg: Mapping[str, Any]) -> None:
    """Check the config of a job and report all errors together.

    Args:
        cfg: The config as plain containers, with every value resolved.

    Raises:
        ZooError: Values are invalid. Each message names the key, the value and the valid values.
    """
    empty = [group for group in GROUPS if not isinstance(cfg.get(group), Mapping)]
    raise_all(f"{group}={shown(cfg.get(group))} must be one of the group's options; see --help" for group in empty)
    if "_target_" in cfg["model"]:
        raise ZooError(unknown_key("model._target_", []))
    found, values = refused_targets(cfg), dict(walk(cfg))
    left = [(key, value) for key, value in values.items() if isinstance(value, str) and "${" in value]  # unchecked
    found += [f"{key}={shown(value)} must not contain '${{' after it is resolved" for key, value in left]
    found += [f"{key} is missing; do not remove it from the config" for key in NEEDED if key not in values]
    found += _mistakes(values, KEYS)
    found += [unknown_key(key, sorted(TOP)) for key in cfg if key not in TOP]
    own = tuple(f".monitor=val/{name} must" for name in cfg["metrics"])  # not a typing error, if similar to a known name
    found += [text for text in (*_options_of(cfg), *_parts_of(cfg)) if not any(each in text for each in own)]
    if uncounted := _uncounted(cfg["data"]):
        found = [message for message in found if not message.startswith(("data.num_classes=0", "model.num_classes=0"))]
        found += [] if any(message.startswith("data.root") for message in found) else uncounted
    for keys, cross in CROSS:
        if not any(message.startswith(key) for message in found for key in keys):
            try:
                found += cross(cfg) or ()
            except ZooError as error:
                found += messages_of(error)
    raise_all(found)


def unknown_key(key: str, keys: Sequence[str]) -> str:
    """Return the error message for a key that is not in the config.

    Args:
        key: The unknown key, dotted.
        keys: All keys of the config, dotted.
    """
    if key in keys:
        return f"'+{key}': the key is in the config already; write {key}=… without the '+'"
    if key == "model._target_":
        return f"{key}: model must be {FAMILY.words}"
    group, part = [*key.split("."), ""][:2]
    parent, _, name = key.rpartition(".")
    if key.startswith("model.blocks."):
        names = [each.removeprefix("model.blocks.") for each in keys if each.startswith("model.blocks.")]
        return f"{key} is not a stage or endpoint; {did_you_mean(name, names, ALIKE)}"
    if group == "trainer" and part in OWNED:
        return f"unknown config key '{key}'; {OWNED[part]}"
    keys = [each for each in keys if each.startswith("hydra.") == key.startswith("hydra.")]
    if group in PRESETS and part and f"{group}.{part}" not in keys:
        near = nearest(f"{group}.{part}", [each for each in keys if each.startswith(f"{group}.") and each.count(".") == 1])
        return f"unknown config key '{key}'; {f'did you mean {near!r}?' if near else _adding(group, part)}"
    last = nearest(name, [each.rpartition(".")[2] for each in keys])
    same = [each for each in keys if each.endswith(f".{last}")]
    near = NEWCOMERS.get(name) or (last != name and nearest(key, keys)) or nearest(key, same, 0)
    beside = [each.rpartition(".")[2] for each in keys if parent and each.rpartition(".")[0] == parent]
    options = ", ".join(each for each in beside if each[0] != "_")
    others = f"{parent} has {options}; +{key}=… adds another option" if options else "see `python run.py --cfg all`"
    return f"unknown config key '{key}'; {f'did you mean {near!r}?' if near else others}"


def _adding(group: str, name: str) -> str:
    own = f"to add it, write +{group}.{name}._target_=PATH.OF.CLASS, and + before its options"
    return f"{group}=[{PRESETS[group]},{name}] adds {name}" if (CONF / group / f"{name}.yaml").is_file() else own


def check_hydra(hydra: Mapping[str, Any]) -> None:
    """Check the node `hydra` and report all errors together.

    Args:
        hydra: The node as plain containers, with every value resolved.

    Raises:
        ZooError: Values are invalid, or the node would call a class that is not allowed.
    """
    found = refused_targets({key: hydra.get(key) for key in ("callbacks", "launcher", "sweeper")}, "hydra")
    for key in ("hydra_logging", "job_logging"):
        values = walk(hydra.get(key), f"hydra.{key}")
        found += [text for at, value in values if at.rpartition(".")[2] == "level" for text in LEVEL.mistake(at, value)]
    found += _mistakes(dict(walk(hydra, "hydra")), HYDRA)
    found += _options_of({key: hydra.get(key) for key in ("launcher", "sweeper")}, "hydra")
    raise_all(found)


def _mistakes(values: Mapping[str, Any], rules: Options) -> list[str]:
    """Return an error message for each wrong value; both arguments are by dotted key."""
    return [text for key, rule in rules.items() if key in values for text in rule.mistake(key, values[key])]


def _options_of(node: Any, key: str = "") -> Iterator[str]:
    """Yield an error message for each invalid option of a called class or function, at any depth."""
    for at, child in walk(node, key):
        if isinstance(child, Mapping):
            target = child.get("_target_")
            rules = TARGETS.get(target) if isinstance(target, str) else None
            rules = USUAL.get(at) if rules is None else rules
            yield from _options(at, child, rules, str(target).rpartition(".")[2]) if rules is not None else ()


def _options(key: str, node: Mapping[str, Any], rules: Options, name: str) -> Iterator[str]:
    known = [option for option in rules if option is not ...]
    for option, value in node.items():
        if rule := rules.get(option) or SPECIAL.get(option):
            yield from rule.mistake(f"{key}.{option}", value)
        elif ... not in rules:
            near = nearest(option, known, cutoff=0.75)
            why = f"did you mean '{near}'?" if near else f"remove it with '~{key}.{option}' (a recipe may have set it)"
            yield f"{key}.{option} is not an option of {name}; {why}"


def _parts_of(cfg: Mapping[str, Any]) -> Iterator[str]:
    """Yield the errors in groups whose keys the user names freely, and in nodes that need a `_target_`."""
    for group, name, node in ((each, name, node) for each in (*PRESETS, "metrics") for name, node in cfg[each].items()):
        if not CALLED.fits(node):
            hint = f"remove it with '~{group}.{name}'" if node is None else _adding(group, name)
            yield f"{group}.{name}={shown(node)} must have a _target_; {hint}"
    transforms = cfg["augmentation"].get("transforms")
    for name, node in transforms.items() if isinstance(transforms, Mapping) else ():
        if node is not None and not CALLED.fits(node):
            yield f"augmentation.transforms.{name}={shown(node)} is not a transform: it has no _target_; set it to null"
    for group in ("optimizer", "scheduler", "trainer", "data", "augmentation"):
        if not CALLED.fits(cfg[group]):
            yield f"{group}={shown(cfg[group])} must have a _target_; choose one of the group's options, see --help"


# Checks of several keys together. Each one runs only if its keys are valid individually, see CROSS.


def check_data(data: Mapping[str, Any]) -> None:
    """Check the group `data`, independently of the network.

    Args:
        data: The node as plain containers, with every value resolved.

    Raises:
        ZooError: Values are invalid, or `data.root` has no classes.
    """
    found = refused_targets({"data": data}) + list(_options_of({"data": data}))
    if uncounted := _uncounted(data):
        found = [each for each in found if not each.startswith(("data.num_classes=0", "data.num_classes=1 "))] or uncounted
    raise_all(found or _about_data(data))


def _uncounted(data: Mapping[str, Any]) -> list[str]:
    """Return the error message for a `data.root` without classes, in a list; an empty list if there are classes."""
    source, count = data.get("source"), data.get("num_classes")
    if "root" not in data or count not in (0, 1):
        return []
    root = data["root"]
    if isinstance(source, Mapping) and {"label", "separator"} <= source.keys():  # a table
        return [why_uncounted(root, source["label"])]
    if count:
        return []
    missing = "there is no such folder" if root else "not set; set data.root=FOLDER"
    is_there = root and os.path.isdir(root)  # noqa: PTH112 -- Path.is_dir raises for names that are too long
    why = "no class folders in it, nor in a folder train" if is_there else missing
    return [
        f"data.root={shown(root)}: {why}; for an address such as s3://… or a Dataset of your own, set data.num_classes; "
        f"image files belong in one of these layouts:{TREE}"
    ]


def _about_data(data: Mapping[str, Any]) -> Iterator[str]:
    for name in ("mean", "std"):
        values = data[name]
        if len(values) != data["in_channels"]:
            yield f"data.{name}={values} must have one value per channel (data.in_channels={data['in_channels']})"
    if isinstance(few := data.get("per_class"), list) and len(few) != data["num_classes"]:
        yield f"data.per_class={few}: give one number for each of the {data['num_classes']} classes"
    test, folds, fold = (data["split"].get(key) for key in ("test", "folds", "fold"))
    if (folds is None) != (fold is None) or (folds is not None and fold >= folds):
        yield f"data.split.folds={folds}, fold={fold}: set both, with fold from 0 to folds - 1; see sweep=kfold"
    elif folds is not None and test is not None:
        yield f"data.split.test={test}: the test split is one of data.split.folds={folds}; remove data.split.test"
    if (classes := data.get("classes")) is not None and not len(set(classes)) == len(classes) == data["num_classes"]:
        yield f"data.classes={classes} must be distinct labels, as many as data.num_classes={data['num_classes']}"


def _check_task(cfg: Mapping[str, Any]) -> None:
    if cfg["task"] == "test" and cfg["ckpt"] is None:
        if cfg["model"].get("weights") is None:
            raise ZooError("task=test needs ckpt=PATH, a checkpoint or a run folder, or model.weights=NAME")
        if random := {"head", "blocks"}.intersection(cfg["model"].get("adapt", ())):
            raise ZooError(f"model.adapt={min(random)}: task=test would test random weights; remove it, or train first")


def _about_shape(cfg: Mapping[str, Any]) -> Iterator[str]:
    model, data, embeds = cfg["model"], cfg["data"], kind_of(cfg["loss"]) == "embedding"
    if embeds and model["num_classes"]:
        yield f"model.num_classes={model['num_classes']} cannot be combined with loss, which needs embeddings; remove it"
    elif not embeds and not model["num_classes"] and data["num_classes"]:  # else `_uncounted` reports it
        yield "model.num_classes=0 needs a metric-learning loss, such as loss=arcface; set it, or remove this override"
    elif not embeds and (own := model["num_classes"]) < (classes := data["num_classes"]):
        yield f"model.num_classes={own}: the data has {classes} classes; use other data, or remove this override"
    if (own := model["in_channels"]) != (channels := data["in_channels"]):
        yield f"model.in_channels={own}: the images have {channels}; remove this override"


def _check_model(cfg: Mapping[str, Any]) -> None:
    """Check the values with `Choices`, reported under the keys of the config, and check that the weights exist."""
    model = cfg["model"]
    net, weights = find_net(model["name"]), model.get("weights")
    loading = {key: model.get(key, usual) for key, usual in LOADING.items()}
    own = ("name", "num_classes", "in_channels", *LOADING)
    mistakes = Choices.mistakes(net, {key: value for key, value in model.items() if key not in own})
    raise_all(f"model.{mistake}" for mistake in [*mistakes, *loading_mistakes(net, **loading)])
    if weights is None or cfg["ckpt"]:  # `ckpt` replaces them
        return
    if is_name(weights):
        check_library(weights, net.name)
    elif not os.path.exists(weights):  # noqa: PTH110 -- Path.exists raises for names that are too long
        raise ZooError(f"model.weights={weights} does not exist; give a file, a run folder, or a name such as {EXAMPLE}")


def _check_rates(cfg: Mapping[str, Any]) -> None:
    """Check that `optimizer.lr` is set where `layer_decay` or `lr_for_batch` scales it."""
    needing = [(key, unused) for key, unused in (("layer_decay", 1), ("lr_for_batch", None)) if cfg[key] != unused]
    raise_all([f"{key}={cfg[key]} needs optimizer.lr; set it" for key, _ in needing if not cfg["optimizer"].get("lr")])


def _check_unfreeze(cfg: Mapping[str, Any]) -> None:
    names = find_net(cfg["model"]["name"]).names[1:]
    for name, node in cfg["callbacks"].items():
        if node["_target_"] != "inception_zoo.training.callbacks.Unfreeze":
            continue
        if (to := node.get("to")) is not None and to not in names:
            raise ZooError(f"callbacks.{name}.to={to} is not a stage or endpoint; {did_you_mean(to, names, ALIKE)}")
        if cfg["model"].get("freeze") is None and cfg["task"] == "fit":
            raise ZooError(f"callbacks.{name} has no effect with model.freeze=null; remove it with '~callbacks.{name}'")


def _check_sizes(cfg: Mapping[str, Any]) -> None:
    """Check that the network accepts the image size of evaluation and of every epoch."""
    model, data = cfg["model"], cfg["data"]
    check_image_size(model, "data.image_size", data["image_size"])
    for epoch, size in (data["progressive"] or {}).items():
        key = f"data.progressive.{epoch}"
        if size > data["image_size"]:
            raise ZooError(f"{key}={size} is larger than data.image_size={data['image_size']}, the size of evaluation")
        check_image_size(model, key, size)


def _check_memory(cfg: Mapping[str, Any]) -> None:
    if cfg["model"].get("memory") == "minimal" and cfg["trainer"]["sync_batchnorm"]:
        # the statistics would count recomputed segments twice
        raise ZooError("model.memory=minimal cannot be combined with trainer.sync_batchnorm=true; use model.memory=lean")


CROSS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Iterator[str] | None]], ...] = (
    (("model.name", "model.blocks"), _check_model),  # not with a block that is refused: it would be imported
    (("task", "ckpt", "model.adapt"), _check_task),
    (("data",), lambda cfg: _about_data(cfg["data"])),
    (("loss", "model.num_classes", "model.in_channels", "data.num_classes", "data.in_channels"), _about_shape),
    (("model.memory", "trainer.sync_batchnorm"), _check_memory),
    (
        (
            "loss",
            "label_smoothing",
            "aux_weight",
            "class_weight",
            "metrics",
            "augmentation",
            "callbacks",
            "scheduler",
            "model",
            "data",
        ),
        about_loss,
    ),
    (("task", "loss", "decision", "model", "data", "trainer"), about_decision),
    (("layer_decay", "lr_for_batch", "optimizer"), _check_rates),
    (("task", "model.name", "model.freeze", "callbacks"), _check_unfreeze),
    (("model", "data.root", "data.image_size", "data.progressive"), _check_sizes),
)
