"""Weight files in safetensors, PyTorch and Keras formats, read without running code from the file."""

import hashlib
import json
import logging
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
from inception_zoo.runs.results import evaluated_checkpoint
from inception_zoo.system.atomic_files import whole_file

log = logging.getLogger(__name__)
TORCH, KERAS = (".ckpt", ".pth", ".pt", ".bin"), (".h5", ".hdf5")
SUFFIXES = (".safetensors", *TORCH, *KERAS)
METADATA = "inception_zoo"  # key of the card: JSON in safetensors' metadata, a mapping in a checkpoint
PARTS = 100_000  # most entries of a zip file: ten times those of the largest network's checkpoint


def resolve(path: str | Path) -> Path:
    """Return the weight file for a path: the file itself, or the checkpoint that a run has tested, which is its best one.

    Args:
        path: a weight file, or a run folder. A run without a best checkpoint tests its last weights; its `last.ckpt` is used.

    Raises:
        ZooError: the path does not exist, is a URL, is not a run folder, or has an unsupported suffix.
    """
    path = Path(path)
    if path.is_dir():
        last = path / "checkpoints" / "last.ckpt"
        if found := evaluated_checkpoint(path):
            return found
        if not last.is_file():
            raise ZooError(f"{path} is not a run folder: checkpoints/best.ckpt is missing")
        log.warning("%s records no best checkpoint; using %s", path, last.name)
        return last
    if not path.is_file() and re.match(r"\w[\w+.-]+:/", str(path)):
        raise ZooError(f"{path} is a URL, and URLs are not supported; download the file and pass its path")
    if not path.is_file():
        raise ZooError(f"{path} does not exist; pass a weight file, a run folder, or a name such as {EXAMPLE}")
    if path.suffix not in SUFFIXES:
        raise ZooError(f"{path}: '{path.suffix}' is not a supported weight format; valid: {', '.join(SUFFIXES)}")
    return path


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read the tensors and the card of a weight file.

    Pickles are read with ``weights_only=True``, whatever the environment sets. A pickle that would run code is refused.

    Args:
        path: a weight file or a run folder, see `resolve`.

    Returns:
        Tensors by the file's keys, each with the file's shape and dtype, on the CPU; Keras's convolution and fully connected
        weights are transposed to torch's order of axes. And the card in plain containers, or None if the file has no card.

    Raises:
        ZooError: the file does not exist, is not in a weight format, is damaged, or would run code.
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
    except Exception as error:  # each library raises many types for a damaged file
        first = one_line(error).split(". ")[0]
        raise ZooError(
            f"{path} cannot be read ({type(error).__name__}: {first[:200]}); it is damaged or contains more than weights"
        ) from None
    if not state:
        raise ZooError(f"{path} contains no weights")
    return state, card


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is not a mapping
    return state, json.loads(metadata[METADATA]) if METADATA in metadata else None


def load_pickle(path: Path, mmap: bool = False) -> Any:
    """Read a file written by `torch.save`. This is the only place where the package unpickles.

    ``weights_only=True`` is passed explicitly, because the environment can change the default of `torch.load`. Only local
    files are read, whereas Lightning's own loader also downloads URLs.

    Args:
        path: the file.
        mmap: map tensors from the file instead of reading them into memory.

    Returns:
        The unpickled object: tensors on the CPU in plain containers.

    Raises:
        ZooError: a zip file was not written by torch; such a file could fill the memory.
        Exception: torch raises many types for a damaged file and for one that would run code.
    """
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            _check_zip(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _check_zip(path: Path) -> None:
    """Raise ZooError unless torch wrote the zip file. Compressed or overlapping entries could expand to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts, comment = archive.infolist(), archive.comment
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ZooError(f"{path} is damaged ({one_line(error)})") from None
    packed = next((part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED), None)
    names = [part.filename for part in parts]
    outside = next((name for name in names if name[:1] == "/" or ".." in re.split(r"[/\\]", name)), None)
    faults = {
        f"it has {len(parts):,} entries": len(parts) > PARTS,
        f"its entry '{packed}' is compressed": packed is not None,
        f"its entry '{outside}' has a path outside of the archive": outside is not None,
        "its entries claim more bytes than the file has": sum(part.file_size for part in parts) > path.stat().st_size,
        # Other readers of zip files may find a second list of entries there:
        "it has data before the first entry": min((part.header_offset for part in parts), default=0) > 0,
        "it ends with a comment": bool(comment),
    }
    if fault := next((fault for fault, found in faults.items() if found), None):
        raise ZooError(f"{path} was not written by torch: {fault}; save it again with torch.save")


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise ZooError(f"{path} contains a {type(content).__name__}, not a mapping of names to tensors")
    card = content.get(METADATA)
    state = next(
        (content[key] for key in ("state_dict", "model", "model_state_dict") if isinstance(content.get(key), Mapping)), content
    )
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    for key, value in state.items():
        if value.layout == torch.strided and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            wrong = f"'{key}' has shape {tuple(value.shape)}, but fewer values are stored"
            raise ZooError(f"{path}: {wrong}; save it again from contiguous tensors")
    if card:  # a checkpoint of the zoo's LightningModule, whose `model` is the network
        state = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    return state, card


def _read_keras(path: Path) -> dict[str, Tensor]:
    """Read Keras 3's `.weights.h5`, or the older format of Keras's published files; both give Keras 3's keys."""
    h5py = _h5py()
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        arrays = _by_depth(root) if "layer_names" in root.attrs else {}
        if not arrays:
            file.visititems(lambda name, item: arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        claimed, size = sum(data.nbytes for data in arrays.values()), path.stat().st_size
        if claimed > 2**24 and claimed > 100 * size:
            raise ZooError(f"{path}: its arrays claim {claimed:,} bytes, but the file has {size:,}")
        for name, data in arrays.items():
            if data.external or data.is_virtual or data.file.filename != file.filename:
                raise ZooError(f"{path}: '{name}' points to another file; only a file with its own data is read")
            if data.nbytes > 2**20 and data.nbytes > 100 * data.id.get_storage_size():
                raise ZooError(f"{path}: '{name}' claims {data.nbytes:,} bytes, but stores {data.id.get_storage_size():,}")
        state = {name: torch.from_numpy(data[()]) for name, data in arrays.items() if data.shape}
    return {name: _axes(tensor, (3, 2, 0, 1)) for name, tensor in state.items()}


def _by_depth(root: Any) -> dict[str, Any]:
    """Return the arrays of the older format by Keras 3's keys.

    `layer_names` lists the layers in order of depth. Each layer's `weight_names` lists its arrays.
    """
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
    """Permute convolution weights between Keras's axes and torch's; transpose fully connected weights."""
    return tensor.permute(order).contiguous() if tensor.ndim == 4 else tensor.t().contiguous() if tensor.ndim == 2 else tensor


def write_weights(path: Path, state: Mapping[str, Tensor], card: str | None = None) -> None:
    """Write tensors atomically, in the format of the file's suffix.

    Args:
        path: ends in .safetensors, or in a suffix of PyTorch or Keras.
        state: tensors of any shape and dtype by key, in torch's order of axes, which is permuted for Keras.
        card: JSON for the metadata of safetensors; the other formats ignore it.

    Raises:
        ZooError: the file cannot be written; an earlier file of this name is then unchanged.
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
    """Return the SHA-256 digest of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _h5py() -> Any:
    check_installed("h5py", "interchange", "reading or writing Keras's .h5 files")
    import h5py

    return h5py
