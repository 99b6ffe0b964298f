"""Checks of the loss and of the decision together with the keys that depend on them. See `check`."""

from collections.abc import Iterator, Mapping
from typing import Any

from inception_zoo.architecture.decision import MANY
from inception_zoo.config.rules import KINDS, KNOWN, METRICS, OF_DECISIONS, USUAL_METRIC, direction, kind_of
from inception_zoo.errors import shown


def about_loss(cfg: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error for each metric that is not logged with this loss, and for each option that metric learning lacks."""
    kind = kind_of(cfg["loss"])
    nodes = [*((f"callbacks.{name}", node) for name, node in cfg["callbacks"].items()), ("scheduler", cfg["scheduler"])]
    for key, node in nodes if cfg["task"] == "fit" else ():
        monitor, mode = node.get("monitor"), node.get("mode")
        if monitor is None and str(node["_target_"]).endswith("ReduceLROnPlateau"):
            monitor = "val/top1" if mode == "max" else "val/loss"  # see `scheduled`
        if monitor in KNOWN and monitor not in METRICS[kind]:
            yield f"{key}.monitor={monitor} is not logged with {KINDS[kind]}; use {USUAL_METRIC[kind]}"
        elif monitor in OF_DECISIONS and kind == "one" and cfg["model"]["num_classes"] > MANY:
            yield f"{key}.monitor={monitor} is logged for at most {MANY} classes; use val/top1"
        elif monitor in KNOWN and mode in ("min", "max") and mode != (right := direction(monitor)):
            better = "lower" if right == "min" else "higher"
            yield f"{key}.mode={mode}: a {better} {monitor} is better; leave {key}.mode out"
    usual: dict[str, Any] = {"label_smoothing": 0, "aux_weight": None, "class_weight": None, "metrics": {}}
    mixed: dict[str, Any] = {key: cfg["augmentation"].get(key) or 0 for key in ("mixup", "cutmix")}
    given = {key: cfg[key] for key, value in usual.items() if cfg[key] != value}
    given |= {f"augmentation.{key}": value for key, value in mixed.items() if value}
    weights, classes = cfg["class_weight"], cfg["data"]["num_classes"]
    if not isinstance(weights, str | None) and len(weights) != classes:
        yield f"class_weight={shown(weights)}: the data has {classes} classes; give one weight for each"
    for key, value in given.items() if kind == "embedding" else ():
        yield f"{key}={shown(value)} cannot be combined with a metric-learning loss; remove it"


def about_decision(cfg: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error for each option of `decision` that would have no effect, or that lacks another one; and for subgroups."""
    rule, positive, kind = cfg["decision"]["threshold"], cfg["decision"]["positive"], kind_of(cfg["loss"])
    has_metrics = kind == "several" or (kind == "one" and cfg["model"]["num_classes"] <= MANY)
    if (subgroups := cfg["data"]["source"].get("subgroups")) and not has_metrics:
        yield f"data.source.subgroups={shown(subgroups)} is for logits of at most {MANY} classes; remove it"
    given = {key: value for key, value in cfg["decision"].items() if value is not None and value is not False}
    key, value = next(iter(given.items()), ("", None))
    if given and kind == "embedding":
        yield f"decision.{key}={value} cannot be combined with a metric-learning loss; remove it"
    elif given and cfg["task"] == "test":
        yield f"decision.{key}={value} is chosen in the training, and saved with the weights; remove it"
    elif given and kind == "one" and cfg["model"]["num_classes"] > MANY:
        yield f"decision.{key}={value} is for at most {MANY} classes; remove it"
    elif given and cfg["trainer"].get("limit_val_batches") == 0:
        yield f"decision.{key}={value} is chosen on the validation images; remove trainer.limit_val_batches=0"
    elif rule and kind == "one" and cfg["model"]["num_classes"] != 2:
        yield f"decision.threshold={rule} is for two classes, or for several labels; remove it"
    elif kind == "one" and bool(rule) != (positive is not None):
        yield f"decision.threshold={rule}, decision.positive={positive}: set both, or neither"
    elif kind == "several" and positive is not None:
        yield f"decision.positive={positive}: each of several labels has a threshold of its own; remove it"
