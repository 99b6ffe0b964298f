"""The composed config, checked before torch is imported or anything long starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_zoo.choices import EXAMPLE, LOADING, VALID, check_loading
from inception_zoo.errors import ZooError, check_whole, did_you_mean
from inception_zoo.nets import find_net
from inception_zoo.plan import Plan, make_plan
from inception_zoo.preprocessing import INTERPOLATIONS
from inception_zoo.weights.sources import check_library, is_name


def check(cfg: Mapping[str, Any]) -> None:
    """ZooError for the first mistake found: it names the key, the value and what would be right."""
    if cfg["task"] not in ("fit", "test"):
        raise ZooError(f"task={cfg['task']} is unknown; {did_you_mean(cfg['task'], ['fit', 'test'])}")
    for group in ("model", "data", "trainer", "optimizer", "scheduler", "callbacks", "logger"):
        if not isinstance(cfg.get(group), Mapping):
            raise ZooError(f"{group}={cfg.get(group)} must be one of the group's options, see --help")
    data = cfg["data"]
    least = {"batch_size": 1, "image_size": 1, "in_channels": 1, "num_classes": 2, "val_size": 1, "shift": 0}
    for name, at_least in least.items():
        check_whole(f"data.{name}", data[name], at_least)
    for name in ("num_classes", "in_channels"):
        check_whole(f"model.{name}", cfg["model"][name], at_least=1)
    for name in ("mean", "std"):
        values = data[name]
        fits = isinstance(values, Sequence) and len(values) == data["in_channels"]
        if not fits or not all(isinstance(v, int | float) and (v > 0 or name == "mean") for v in values):
            raise ZooError(f"data.{name}={values} must be {data['in_channels']} numbers, one per channel, std above 0")
    if "root" in data and (not isinstance(data["root"], str) or not data["root"]):
        raise ZooError(f"data.root={data['root']} must be a folder")
    check_selection(data)
    check_whole("trainer.max_epochs", cfg["trainer"]["max_epochs"], at_least=1)
    check_whole("seed", cfg["seed"], at_least=0)
    smoothing = cfg["label_smoothing"]
    if not isinstance(smoothing, int | float) or not 0 <= smoothing < 1:
        raise ZooError(f"label_smoothing={smoothing} must be a number from 0 to below 1")
    if cfg["model"]["num_classes"] < cfg["data"]["num_classes"]:
        classes = cfg["data"]["num_classes"]
        raise ZooError(f"model.num_classes={cfg['model']['num_classes']}: the data has {classes} classes; leave it to the data")
    if cfg["model"]["in_channels"] != cfg["data"]["in_channels"]:
        channels = cfg["data"]["in_channels"]
        raise ZooError(f"model.in_channels={cfg['model']['in_channels']}: the images have {channels}; leave it to the data")
    check_weights(cfg["model"], cfg["layer_decay"])
    if cfg["layer_decay"] != 1 and not cfg["optimizer"].get("lr"):
        raise ZooError(f"layer_decay={cfg['layer_decay']} needs optimizer.lr, the rate of the head")
    check_image_size(cfg["model"], cfg["data"]["image_size"])


def check_selection(data: Mapping[str, Any]) -> None:
    """ZooError for classes or an interpolation that cannot be."""
    classes = data.get("classes")
    if classes is not None:
        whole = isinstance(classes, Sequence) and all(isinstance(label, int) for label in classes)
        if not whole or len(set(classes)) != len(classes) or len(classes) != data["num_classes"]:
            count = f"data.num_classes={data['num_classes']}"
            raise ZooError(f"data.classes={classes} must be different labels, as many as {count}")
    if data.get("per_class") is not None:
        check_whole("data.per_class", data["per_class"], at_least=1)
    how = data.get("interpolation", "bilinear")
    if how not in INTERPOLATIONS:
        raise ZooError(f"data.interpolation={how} is unknown; {did_you_mean(how, INTERPOLATIONS)}")


def check_weights(model: Mapping[str, Any], layer_decay: Any) -> None:
    """ZooError if the weights cannot be had, or do not go with what else is chosen about them."""
    net = find_net(model["name"])
    weights = model["weights"]
    check_loading(net, weights, model["adapt"], model["freeze"])
    if weights is not None:
        if is_name(weights):
            check_library(weights, net.name)
        elif not Path(weights).exists():
            raise ZooError(f"model.weights={weights} does not exist; give a file, a run folder, or a name such as {EXAMPLE}")
    if not isinstance(layer_decay, int | float) or not 0 < layer_decay <= 1:
        raise ZooError(f"layer_decay={layer_decay} must be a number above 0, at most 1")


def check_image_size(model: Mapping[str, Any], image_size: int) -> None:
    """ZooError with the minimum, and the stem that would do, if the network cannot read so small an image."""
    plan = plan_of(model)
    try:
        plan.shapes(image_size)
    except ZooError as error:
        minimum = plan.min_image_size()
        if minimum is None:
            raise
        if image_size > minimum:
            near = min(filter(plan.fits, range(minimum, 2 * image_size)), key=lambda size: abs(size - image_size))
            raise ZooError(f"data.image_size={image_size} does not fit ({error}); {near} does") from None
        fits = [stem for stem in VALID["stem"] if plan_of({**model, "stem": stem}).fits(image_size)]
        hint = f"; or set model.stem={fits[0]}" if fits else ""
        raise ZooError(f"data.image_size={image_size} is below the minimum of {minimum} px ({error}){hint}") from None


def plan_of(model: Mapping[str, Any]) -> Plan:
    """The plan of a composed `model` node."""
    chosen = {key: value for key, value in model.items() if key not in LOADING}
    return make_plan(find_net(chosen.pop("name")), chosen.pop("num_classes"), chosen.pop("in_channels"), **chosen)
