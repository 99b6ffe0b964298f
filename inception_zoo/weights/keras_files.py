"""Weight files of Keras: `.keras`, `.weights.h5` and `.h5`."""

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inception_zoo.errors import ZooError, check_installed
from inception_zoo.system.regular_files import opened
from inception_zoo.weights.entries import CONVERT
from inception_zoo.weights.kinds import KERAS_ZIP

WEIGHTS = "model.weights.h5"  # in a .keras file
BEYOND = "beyond/"  # prefix of the keys of layers after the network that are not its classifier
NESTED = re.compile(r"(?:layers/[^/]+/)+(?=layers/conv2d(?:_\d+)?/vars/)")  # a network that is a layer of another model
DENSE = re.compile(r"layers/dense(?:_\d+)?/vars/")
# State of Keras's training, beside the weights, and the name of a model's layers in files of Keras 2:
KERAS_TRAINING = re.compile(r"(optimizer|optimizer_weights|metrics|compile_metrics)/|.*/seed_generator/")
KERAS_2 = "_layer_checkpoint_dependencies/"
# A layer with two kernels is read as two layers, each with the kernel as `0`:
SEPARABLE = re.compile(r"(layers/separable_conv2d(?:_\d+)?)/vars/([01])$")
KERNELS = ("depthwise", "pointwise")
TO_TORCH, TO_KERAS, DEPTHWISE = (3, 2, 0, 1), (2, 3, 1, 0), (2, 3, 0, 1)  # orders of axes; the last one in both directions
KINDS = {"kernel": "conv2d", "depthwise_kernel": "separable_conv2d"}  # by the name of a layer's first array
KERAS_AVERAGE = re.compile(r"_average$|/average/")  # in the older formats, where the optimizer's arrays have names


def read_keras(path: Path, ema: bool | None) -> tuple[dict[str, Tensor], list[str]]:
    """Read Keras's `.keras`, `.weights.h5`, or the older format of its published files; all give Keras 3's keys.

    A network inside of a Sequential or of another model gets the keys that it has alone. The state of a training (optimizer,
    metrics, random generators) is ignored, with a note.

    Args:
        path: the file.
        ema: False: read the weights although the optimizer may have their average.

    Returns:
        Tensors by key, in torch's order of axes, and notes on what is ignored. Layers after the network other than one dense
        layer have keys that begin with `BEYOND`.

    Raises:
        ZooError: the optimizer may have an average, or the file claims more than it has.
    """
    h5py = _h5py()
    with h5py.File(_weights_of_zip(path) if path.suffix == KERAS_ZIP else path) as file:
        found: dict[str, Any] = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        training = {name: match[0].split("/")[-2] for name in found if (match := KERAS_TRAINING.match(name))}
        _check_average(path, found, training, ema)
        root = file.get("model_weights", file)
        arrays = _by_depth(root) if "layer_names" in root.attrs else {}
        listed = {data.name for data in arrays.values()}
        arrays |= {name: data for name, data in found.items() if name not in training and data.name not in listed}
        if not any(name.startswith("layers/") for name in arrays):
            arrays = {re.sub(f"^{KERAS_2}", "layers/", name): data for name, data in arrays.items()}
        _check_sizes(path, file, arrays)
        state = {name: torch.from_numpy(data[()]) for name, data in _alone(arrays).items() if data.shape}
    groups = ", ".join(sorted(set(training.values())))
    notes = [f"the state of the training is ignored ({len(training)} arrays: {groups})"] if training else []
    state = {SEPARABLE.sub(lambda m: f"{m[1]}/{KERNELS[int(m[2])]}/vars/0", name): tensor for name, tensor in state.items()}
    return {name: axes(name, tensor, TO_TORCH) for name, tensor in state.items()}, notes


def _weights_of_zip(path: Path) -> BytesIO:
    """Return the weights in a `.keras` file, which is a zip file with a `.weights.h5` in it."""
    with opened(path) as whole, zipfile.ZipFile(whole) as archive:
        if WEIGHTS not in archive.namelist():
            raise ZooError(f"{path} contains no {WEIGHTS}: it is not a file of Keras's model.save")
        claimed = archive.getinfo(WEIGHTS).file_size
        if claimed > 100 * path.stat().st_size:
            raise ZooError(f"{path}: {WEIGHTS} claims {claimed:,} bytes, but the file has {path.stat().st_size:,}")
        return BytesIO(archive.read(WEIGHTS))


def _check_average(path: Path, found: Mapping[str, Any], training: Mapping[str, str], ema: bool | None) -> None:
    named = any(KERAS_AVERAGE.search(name) for name in training)
    if ema is not False and (named or _may_lead_with_average([found[name].shape for name in _numbered(training)])):
        has = "has" if named else "may have"
        choice = "which cannot be read; give --no-ema for the weights without it (in Python ema=False)"
        raise ZooError(f"{path} {has} an average (EMA) in the state of its optimizer, {choice}; {CONVERT}")


def _check_sizes(path: Path, file: Any, arrays: Mapping[str, Any]) -> None:
    """Raise ZooError if arrays claim more bytes than the file has, or are in another file."""
    claimed, size = sum(data.nbytes for data in arrays.values()), path.stat().st_size
    if claimed > 2**24 and claimed > 100 * size:
        raise ZooError(f"{path}: its arrays claim {claimed:,} bytes, but the file has {size:,}")
    for name, data in arrays.items():
        if data.external or data.is_virtual or data.file.filename != file.filename:
            raise ZooError(f"{path}: '{name}' points to another file; only a file with its own data is read")
        if data.nbytes > 2**20 and data.nbytes > 100 * data.id.get_storage_size():
            raise ZooError(f"{path}: '{name}' claims {data.nbytes:,} bytes, but stores {data.id.get_storage_size():,}")


def _alone(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays with the keys that the network has outside of other models; layers after it begin with `BEYOND`.

    The classifier is the only dense layer. If there are several, or other layers with weights, none of them is the classifier.
    """
    inside = {match[0] for name in arrays if (match := NESTED.match(name))}
    prefix = inside.pop() if len(inside) == 1 else ""
    network = {name.removeprefix(prefix): data for name, data in arrays.items() if name.startswith(prefix)}
    after = {name: data for name, data in arrays.items() if not name.startswith(prefix)}
    if not prefix:
        after = {name: network.pop(name) for name in list(network) if DENSE.match(name)}
    layers = {name.rpartition("/vars/")[0] for name in after}
    known = len(layers) <= 1 and all(DENSE.match(name) for name in after)
    return network | {name if known else name.replace("layers/", BEYOND, 1): data for name, data in after.items()}


def _numbered(training: Iterable[str]) -> list[str]:
    """Return the names of the optimizer's arrays in Keras 3's format, which numbers them, in order."""
    return sorted((name for name in training if re.match(r"optimizer/.*\d$", name)), key=lambda name: (len(name), name))


def _may_lead_with_average(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return False if an optimizer's arrays cannot begin with the average, which has one array for each weight.

    Arrays in pairs of one shape are the two of Adam for each weight. One array for each weight may be a momentum, too.
    """
    shapes = [shape for shape in shapes if shape]  # not counters and the learning rate
    return bool(shapes) and shapes[::2] != shapes[1::2]


def _by_depth(root: Any) -> dict[str, Any]:
    """Return the arrays of the older format by Keras 3's keys.

    `layer_names` lists the layers in order of depth. Each layer's `weight_names` lists its arrays.
    """
    arrays: dict[str, Any] = {}
    counts = Counter[str]()
    for layer in root.attrs["layer_names"]:
        group = root[_text(layer)]
        parts: dict[str, list[str]] = {}  # the layers of a model that is a layer of this one; otherwise the layer alone
        for name in map(_text, group.attrs["weight_names"]):
            parts.setdefault(name.rpartition("/")[0], []).append(name)
        for weights in parts.values():
            first = weights[0].rpartition("/")[2]
            kind = next((kind for start, kind in KINDS.items() if first.startswith(start)), "batch_normalization")
            kind = "dense" if kind == "conv2d" and group[weights[0]].ndim == 2 else kind
            number = f"_{counts[kind]}" if counts[kind] else ""
            arrays |= {f"layers/{kind}{number}/vars/{i}": group[name] for i, name in enumerate(weights)}
            counts[kind] += 1
    return arrays


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def axes(name: str, tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """Permute convolution weights between Keras's axes and torch's; transpose fully connected weights."""
    if tensor.ndim == 4:
        return tensor.permute(DEPTHWISE if f"/{KERNELS[0]}/" in name else order).contiguous()
    return tensor.t().contiguous() if tensor.ndim == 2 else tensor


def write_keras(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors with Keras 3's keys, in torch's order of axes, as `.weights.h5`."""
    with _h5py().File(path, "w") as file:
        for key, value in state.items():
            name = re.sub(f"/({'|'.join(KERNELS)})/vars/0$", lambda match: f"/vars/{KERNELS.index(match[1])}", key)
            file.create_dataset(name, data=axes(key, value, TO_KERAS).numpy())


def _h5py() -> Any:
    check_installed("h5py", "interchange", "reading or writing files of Keras")
    import h5py

    return h5py
