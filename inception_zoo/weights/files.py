"""Weights in files: safetensors, PyTorch's and Keras's, read without running anything that a file says."""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from inception_zoo.architecture.choices import EXAMPLE
from inception_zoo.errors import ZooError, check_installed, one_line
from inception_zoo.system.atomic_files import whole_file

TORCH, KERAS = (".ckpt", ".pth", ".pt", ".bin"), (".h5", ".hdf5")
SUFFIXES = (".safetensors", *TORCH, *KERAS)
METADATA = "inception_zoo"  # the key under which a file carries its card, as JSON
PARTS = 100_000  # of a zip file: ten times as many as a checkpoint of our largest network has


def resolve(path: str | Path) -> Path:
    """The file that is meant: itself, or the best checkpoint of a run folder; ZooError if there is none."""
    path = Path(path)
    if path.is_dir():
        best = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        found = [file for file in best if file.is_file()]
        if not found:
            raise ZooError(f"{path} is no run folder: it has no checkpoints/best.ckpt")
        return found[0]
    if not path.is_file() and re.match(r"\w[\w+.-]+:/", str(path)):
        raise ZooError(f"{path} is an address, and none is fetched; download the file and give its path")
    if not path.is_file():
        raise ZooError(f"{path} does not exist; give a file of weights, a run folder, or a name such as {EXAMPLE}")
    if path.suffix not in SUFFIXES:
        raise ZooError(f"{path}: '{path.suffix}' is no format of weights; valid: {', '.join(SUFFIXES)}")
    return path


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a file by key, and its card in plain containers if it has one.

    Pickles are read with ``weights_only=True`` whatever the environment says: one that would run code is refused.

    Raises:
        ZooError: no such file, a format that is none of weights, a damaged file, or one that would run code.
    """
    path = resolve(path)
    try:
        if path.suffix == ".safetensors":
            state, card = _read_safetensors(path)
        elif path.suffix in KERAS:
            state, card = _read_keras(path), None
        else:
            state, card = _read_torch(path)
    except ZooError:
        raise
    except Exception as error:  # each library raises many kinds for a damaged file
        first = one_line(error).split(". ")[0]
        raise ZooError(
            f"{path} cannot be read ({type(error).__name__}: {first[:200]}); damaged, or not made of weights only"
        ) from None
    if not state:
        raise ZooError(f"{path} holds no weights")
    return state, card


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
    return state, json.loads(metadata[METADATA]) if METADATA in metadata else None


def load_pickle(path: Path, mmap: bool = False) -> Any:
    """Read a file written by `torch.save`: the one place where the package unpickles.

    ``weights_only=True`` holds whatever the environment says, and only files are read: `torch.load` takes it as said only
    if it is, and Lightning's own loading fetches addresses.

    Raises:
        ZooError: a zip file that torch did not write, as one that would fill the memory.
        Exception: many kinds of torch's, for a damaged file and for one that would run code.
    """
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            _check_zip(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _check_zip(path: Path) -> None:
    """torch writes its parts as they are; compressed ones, or ones that overlap, can claim any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts, comment = archive.infolist(), archive.comment
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ZooError(f"{path} is damaged ({one_line(error)})") from None
    packed = next((part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED), None)
    names = [part.filename for part in parts]
    outside = next((name for name in names if name[:1] == "/" or ".." in re.split(r"[/\\]", name)), None)
    faults = {
        f"it has {len(parts):,} parts": len(parts) > PARTS,
        f"its part '{packed}' is compressed": packed is not None,
        f"its part '{outside}' is named as if it lay elsewhere": outside is not None,
        "its parts claim more bytes than it has": sum(part.file_size for part in parts) > path.stat().st_size,
        # Where others may look for another list of parts:
        "it begins with something else": min((part.header_offset for part in parts), default=0) > 0,
        "it ends in a comment": bool(comment),
    }
    if fault := next((fault for fault, found in faults.items() if found), None):
        raise ZooError(f"{path} was not written by torch: {fault}; it is not read")


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise ZooError(f"{path} holds a {type(content).__name__}, not tensors by name")
    card = content.get(METADATA)
    state = next(
        (content[key] for key in ("state_dict", "model", "model_state_dict") if isinstance(content.get(key), Mapping)), content
    )
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    for key, value in state.items():
        if value.layout == torch.strided and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ZooError(f"{path}: '{key}' is {tuple(value.shape)} and holds less")
    if card:  # a Lightning checkpoint of ours: the network is the module's `model`
        state = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    return state, card


def _read_keras(path: Path) -> dict[str, Tensor]:
    """Keras 3's `.weights.h5`, or the older form that its published files have, under the newer one's keys."""
    h5py = _h5py()
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        arrays = _by_depth(root) if "layer_names" in root.attrs else {}
        if not arrays:
            file.visititems(lambda name, item: arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        claimed, size = sum(data.nbytes for data in arrays.values()), path.stat().st_size
        if claimed > 2**24 and claimed > 100 * size:
            raise ZooError(f"{path}: its arrays claim {claimed:,} bytes, and the file has {size:,}")
        for name, data in arrays.items():
            if data.external or data.is_virtual or data.file.filename != file.filename:
                raise ZooError(f"{path}: '{name}' points to another file, which is not read")
            if data.nbytes > 2**20 and data.nbytes > 100 * data.id.get_storage_size():
                raise ZooError(f"{path}: '{name}' claims {data.nbytes:,} bytes and holds {data.id.get_storage_size():,}")
        state = {name: torch.from_numpy(data[()]) for name, data in arrays.items() if data.shape}
    return {name: _axes(tensor, (3, 2, 0, 1)) for name, tensor in state.items()}


def _by_depth(root: Any) -> dict[str, Any]:
    """The older form: layers in `layer_names`, which is their order by depth, each with `weight_names`."""
    arrays: dict[str, Any] = {}
    counts = {"conv2d": 0, "batch_normalization": 0, "dense": 0}
    for layer in root.attrs["layer_names"]:
        group = root[_text(layer)]
        weights = [_text(name) for name in group.attrs["weight_names"]]
        if not weights:
            continue
        last = weights[0].rpartition("/")[2]
        is_dense = last.startswith("kernel") and group[weights[0]].ndim == 2
        kind = "dense" if is_dense else "conv2d" if last.startswith("kernel") else "batch_normalization"
        number = f"_{counts[kind]}" if counts[kind] else ""
        arrays |= {f"layers/{kind}{number}/vars/{i}": group[name] for i, name in enumerate(weights)}
        counts[kind] += 1
    return arrays


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _axes(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """Convolutions between Keras's axes and torch's, fully connected layers transposed."""
    return tensor.permute(order).contiguous() if tensor.ndim == 4 else tensor.t().contiguous() if tensor.ndim == 2 else tensor


def write_weights(path: Path, state: Mapping[str, Tensor], card: str | None = None) -> None:
    """Save tensors in the format that the name ends in; a file appears whole or not at all.

    `card` is JSON and goes into the metadata of safetensors; the other formats have no place for it.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with whole_file(path) as temporary:
        if path.suffix == ".safetensors":
            save_file(state, temporary, metadata={"format": "pt"} | ({METADATA: card} if card else {}))
        elif path.suffix in KERAS:
            with _h5py().File(temporary, "w") as file:
                for key, value in state.items():
                    file.create_dataset(key, data=_axes(value, (2, 3, 1, 0)).numpy())
        else:
            torch.save(state, temporary)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _h5py() -> Any:
    check_installed("h5py", "interchange", "reading or writing Keras's .h5 files")
    import h5py

    return h5py
