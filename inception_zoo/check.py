"""The composed config, checked before torch is imported or anything long starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_zoo.choices import EXAMPLE, LOADING, VALID, check_loading
from inception_zoo.errors import ZooError, check_number, check_whole, did_you_mean
from inception_zoo.nets import find_net
from inception_zoo.plan import Plan, make_plan
from inception_zoo.preprocessing import CROPS, INTERPOLATIONS
from inception_zoo.weights.sources import check_library, is_name


def check(cfg: Mapping[str, Any]) -> None:
    """ZooError for the first mistake found: it names the key, the value and what would be right."""
    if cfg["task"] not in ("fit", "test"):
        raise ZooError(f"task={cfg['task']} is unknown; {did_you_mean(cfg['task'], ['fit', 'test'])}")
    for group in ("model", "data", "augmentation", "trainer", "optimizer", "scheduler", "callbacks", "logger"):
        if not isinstance(cfg.get(group), Mapping):
            raise ZooError(f"{group}={cfg.get(group)} must be one of the group's options, see --help")
    data = cfg["data"]
    check_data(data)
    for name in ("num_classes", "in_channels"):
        check_whole(f"model.{name}", cfg["model"][name], at_least=1)
    check_whole("trainer.max_epochs", cfg["trainer"]["max_epochs"], at_least=1)
    check_whole("seed", cfg["seed"], at_least=0)
    check_number("label_smoothing", cfg["label_smoothing"], at_least=0, below=1)
    if cfg["aux_weight"] is not None:
        check_number("aux_weight", cfg["aux_weight"], at_least=0)
    if not isinstance(cfg["decay_norm_and_bias"], bool):
        raise ZooError(f"decay_norm_and_bias={cfg['decay_norm_and_bias']} must be true or false")
    if cfg["lr_for_batch"] is not None:
        check_whole("lr_for_batch", cfg["lr_for_batch"], at_least=1)
    if cfg["model"]["num_classes"] < cfg["data"]["num_classes"]:
        classes = cfg["data"]["num_classes"]
        raise ZooError(f"model.num_classes={cfg['model']['num_classes']}: the data has {classes} classes; leave it to the data")
    if cfg["model"]["in_channels"] != cfg["data"]["in_channels"]:
        channels = cfg["data"]["in_channels"]
        raise ZooError(f"model.in_channels={cfg['model']['in_channels']}: the images have {channels}; leave it to the data")
    check_weights(cfg["model"], cfg["layer_decay"])
    for key, unused in (("layer_decay", 1), ("lr_for_batch", None)):
        if cfg[key] != unused and not cfg["optimizer"].get("lr"):
            raise ZooError(f"{key}={cfg[key]} needs optimizer.lr")
    check_image_size(cfg["model"], "data.image_size", data["image_size"])
    check_progressive(cfg["model"], data["progressive"], data["image_size"])


def check_data(data: Mapping[str, Any]) -> None:
    """ZooError for what the data cannot be, whatever the network."""
    check_root(data)
    least = {"batch_size": 1, "eval_batch_size": 1, "image_size": 1, "in_channels": 1, "num_classes": 2, "val_size": 1}
    for name, at_least in least.items():
        check_whole(f"data.{name}", data[name], at_least)
    for name in ("mean", "std"):
        values = data[name]
        fits = isinstance(values, Sequence) and len(values) == data["in_channels"]
        if not fits or not all(isinstance(v, int | float) and (v > 0 or name == "mean") for v in values):
            raise ZooError(f"data.{name}={values} must be {data['in_channels']} numbers, one per channel, std above 0")
    check_selection(data)


def check_root(data: Mapping[str, Any]) -> None:
    """ZooError unless `root`, of sources that have one, is a folder, with something in it where images are expected."""
    if "root" not in data:
        return
    root = data["root"]
    if not isinstance(root, str) or not root:
        raise ZooError(f"data.root={root} must be a folder")
    if data["num_classes"] == 0:  # counted there
        raise ZooError(
            f"data.root={root}: no classes were found; it must hold train/CLASS/*.jpg, or the chunks that `inception-zoo data "
            "optimize` makes (of an address such as s3://… give data.num_classes)"
        )


def check_progressive(model: Mapping[str, Any], sizes: Any, image_size: int) -> None:
    """ZooError unless `data.progressive` maps epochs to sides that the network can read, at most `image_size`."""
    if sizes is None:
        return
    if not isinstance(sizes, Mapping) or not all(isinstance(epoch, int) and epoch >= 0 for epoch in sizes):
        raise ZooError(f"data.progressive={sizes} must be epochs and sides in pixels, such as '{{0:128,10:160}}'")
    for epoch, size in sizes.items():
        check_whole(f"data.progressive.{epoch}", size, at_least=1)
        if size > image_size:
            raise ZooError(f"data.progressive.{epoch}={size} is more than data.image_size={image_size}, which evaluation sees")
        check_image_size(model, f"data.progressive.{epoch}", size)


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
    check_number("data.flip", data["flip"], at_least=0, at_most=1)
    if not isinstance(data["crop_pct"], int | float) or not 0 < data["crop_pct"] <= 1:
        raise ZooError(f"data.crop_pct={data['crop_pct']} must be a number above 0, at most 1")
    if data["crops"] not in CROPS:
        raise ZooError(f"data.crops={data['crops']} must be one of {', '.join(map(str, CROPS))}")
    if data["workers"] is not None:
        check_whole("data.workers", data["workers"], at_least=0)
    how = data["interpolation"]
    if how not in INTERPOLATIONS:
        raise ZooError(f"data.interpolation={how} is unknown; {did_you_mean(how, INTERPOLATIONS)}")


def check_weights(model: Mapping[str, Any], layer_decay: Any) -> None:
    """ZooError if the weights cannot be had, or do not go with what else is chosen about them."""
    net = find_net(model["name"])
    weights = model["weights"]
    check_loading(net, weights, model["adapt"], model["freeze"], model["compile"])
    if weights is not None:
        if is_name(weights):
            check_library(weights, net.name)
        elif not Path(weights).exists():
            raise ZooError(f"model.weights={weights} does not exist; give a file, a run folder, or a name such as {EXAMPLE}")
    if not isinstance(layer_decay, int | float) or not 0 < layer_decay <= 1:
        raise ZooError(f"layer_decay={layer_decay} must be a number above 0, at most 1")


def check_image_size(model: Mapping[str, Any], key: str, image_size: int) -> None:
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
            raise ZooError(f"{key}={image_size} does not fit ({error}); {near} does") from None
        fits = [stem for stem in VALID["stem"] if plan_of({**model, "stem": stem}).fits(image_size)]
        hint = f"; or set model.stem={fits[0]}" if fits else ""
        raise ZooError(f"{key}={image_size} is below the minimum of {minimum} px ({error}){hint}") from None


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` → ``{"a.b": 1}``; lists and empty mappings stay one value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def plan_of(model: Mapping[str, Any]) -> Plan:
    """The plan of a composed `model` node."""
    chosen = {key: value for key, value in model.items() if key not in LOADING}
    return make_plan(find_net(chosen.pop("name")), chosen.pop("num_classes"), chosen.pop("in_channels"), **chosen)
