"""Weight files in safetensors, PyTorch and Keras formats, read without running code from the file."""

import argparse
import hashlib
import json
import logging
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from inception_zoo.architecture.choices import EXAMPLE
from inception_zoo.errors import ZooError, one_line
from inception_zoo.runs.results import evaluated_checkpoint
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.regular_files import opened
from inception_zoo.weights.entries import chosen
from inception_zoo.weights.keras_files import read_keras, write_keras
from inception_zoo.weights.kinds import AGAIN, ALONE, KERAS, KERAS_ZIP, SUFFIXES, check_kind, refused_object

log = logging.getLogger(__name__)
METADATA = "inception_zoo"  # key of the card: JSON in safetensors' metadata, a mapping in a checkpoint
TRANSFORM = "transform_input"  # attribute of a state dict, and key in safetensors' metadata: JSON
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
        if not last.exists():
            raise ZooError(f"{path} is not a run folder: checkpoints/best.ckpt is missing")
        log.warning("%s records no best checkpoint; using %s", path, last.name)
        return last
    if not path.exists() and re.match(r"\w[\w+.-]+:/", str(path)):
        raise ZooError(f"{path} is a URL, and URLs are not supported; download the file and pass its path")
    if not path.exists():
        raise ZooError(f"{path} does not exist; pass a weight file, a run folder, or a name such as {EXAMPLE}")
    check_kind(path)
    if not path.name.endswith(SUFFIXES):
        raise ZooError(f"{path}: '{path.suffix}' is not a supported weight format; valid: {', '.join(SUFFIXES)}")
    return path


class Weights(NamedTuple):
    """The weights of a file, see `read_weights`."""

    state: dict[str, Tensor]
    card: dict[str, Any] | None
    notes: list[str]


def read_weights(path: str | Path, ema: bool | None = None) -> Weights:
    """Read the tensors and the card of a weight file.

    Pickles are read with ``weights_only=True``, whatever the environment sets. A pickle that would run code is refused.

    Args:
        path: a weight file or a run folder, see `resolve`.
        ema: of a file with raw weights and their average, read the average (True) or the raw ones (False). None: of a
            checkpoint of this package, read the average, with which it was validated.

    Returns:
        Tensors by the file's keys, each with the file's shape and dtype, on the CPU; Keras's convolution and fully connected
        weights are transposed to torch's order of axes. The card in plain containers, or None if the file has no card. And
        notes on what was chosen and what was left out.

    Raises:
        ZooError: the file does not exist, is not in a weight format, is damaged, or would run code; or it has several sets of
            weights, and `ema` does not decide.
    """
    path = resolve(path)
    content, card, ignored = _read(path, ema)
    if card:  # a checkpoint or a safetensors file of this package
        state, notes = _own(content, str(path), ema)
        transform = None
    else:
        entry, notes = chosen(content, str(path), ema)
        state, transform = entry.state, stated_transform(entry.holder)
    for key, value in state.items():
        if value.layout == torch.strided and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            wrong = f"'{key}' has shape {tuple(value.shape)}, but fewer values are stored"
            raise ZooError(f"{path}: {wrong}; save it again from contiguous tensors")
    if not state:
        raise ZooError(f"{path} contains no weights")
    return Weights(state if transform is None else with_transform(state, transform), card, notes + ignored)


def read_card(path: str | Path) -> dict[str, Any] | None:
    """Return the card of a weight file or run folder in plain containers; None if it has none.

    Raises:
        ZooError: see `read_weights`; which weights to take is not asked.
    """
    return _read(resolve(path), ema=False)[1]


def with_transform(state: Mapping[str, Tensor], transform_input: bool) -> dict[str, Tensor]:
    """Return the state dict with a statement whether its network normalizes images again; `torch.save` keeps it."""
    stated = OrderedDict(state)
    vars(stated)[TRANSFORM] = transform_input
    return stated


def stated_transform(state: object) -> bool | None:
    """Return the statement that `with_transform` made; None if there is none."""
    stated = getattr(state, TRANSFORM, None)
    return stated if isinstance(stated, bool) else None


def _read(path: Path, ema: bool | None) -> tuple[Mapping[Any, Any], dict[str, Any] | None, list[str]]:
    """Return the content of a file, its card, and notes on what is ignored."""
    try:
        if path.suffix == ".safetensors":
            return *_read_safetensors(path), []
        if path.suffix in (*KERAS, KERAS_ZIP):
            state, ignored = read_keras(path, ema)
            return state, None, ignored
        content = load_pickle(path)
    except ZooError:
        raise
    except Exception as error:  # each library raises many types for a damaged file
        first = one_line(error).split(". ")[0]
        damaged = f"cannot be read ({type(error).__name__}: {first[:200]}); it is damaged or incomplete: {AGAIN}"
        raise ZooError(f"{path} {refused_object(error) or damaged}") from None
    if not isinstance(content, Mapping):
        raise ZooError(f"{path} contains a {type(content).__name__}, not a mapping of names to tensors")
    return content, content.get(METADATA), []


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is not a mapping
    transform = {"true": True, "false": False}.get(metadata.get(TRANSFORM, ""))
    card = json.loads(metadata[METADATA]) if METADATA in metadata else None
    return state if transform is None else with_transform(state, transform), card


def _own(content: Mapping[Any, Any], path: str, ema: bool | None) -> tuple[dict[str, Tensor], list[str]]:
    """Return the network of a file of this package, and a note if it also has its average."""
    raw = content.get("current_model_state")  # Lightning stores the average as `state_dict`
    if ema and raw is None:
        raise ZooError(f"ema=True: {path} contains no averaged weights; leave --ema out")
    if "state_dict" not in content:  # safetensors
        return {key: value for key, value in content.items() if isinstance(value, Tensor)}, []
    taken = raw if ema is False and raw is not None else content["state_dict"]
    notes = [f"read {'raw' if taken is raw else 'averaged'} weights"] if raw is not None else []
    module = taken.items() if isinstance(taken, Mapping) else ()  # the LightningModule, whose `model` is the network
    names = {key: value for key, value in module if str(key).startswith("model.") and isinstance(value, Tensor)}
    return {key.removeprefix("model."): value for key, value in names.items()}, notes


def load_pickle(path: Path, mmap: bool = False) -> Any:
    """Read a file written by `torch.save`. This is the only place where the package unpickles.

    ``weights_only=True`` is passed explicitly, because the environment can change the default of `torch.load`. Only local
    files are read, whereas Lightning's own loader also downloads URLs.

    Args:
        path: the file.
        mmap: map tensors from the file instead of reading them into memory.

    Returns:
        The unpickled object: tensors on the CPU in plain containers. A Namespace is allowed, too: the training scripts of
        torchvision and timm save their command line in it.

    Raises:
        ZooError: the file is of another kind, or a zip file that torch did not write; such a file could fill the memory.
        Exception: torch raises many types for a damaged file and for one that would run code.
    """
    if check_kind(path).startswith(b"PK\x03\x04"):
        _check_zip(path)
    with torch.serialization.safe_globals([argparse.Namespace]):  # it only holds values
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _check_zip(path: Path) -> None:
    """Raise ZooError unless torch wrote the zip file. Compressed or overlapping entries could expand to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts, comment = archive.infolist(), archive.comment
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ZooError(f"{path} is damaged or incomplete ({one_line(error)}); {AGAIN}") from None
    packed = next((part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED), None)
    names = [part.filename for part in parts]
    outside = next((name for name in names if name[:1] == "/" or ".." in re.split(r"[/\\]", name)), None)
    faults = {
        "it is a TorchScript program": any(name.endswith("/constants.pkl") for name in names),
        "it is a program of torch.export": any(name.endswith("/archive_format") for name in names),
        f"it has {len(parts):,} entries": len(parts) > PARTS,
        f"its entry '{packed}' is compressed": packed is not None,
        f"its entry '{outside}' has a path outside of the archive": outside is not None,
        "its entries claim more bytes than the file has": sum(part.file_size for part in parts) > path.stat().st_size,
        # Other readers of zip files may find a second list of entries there:
        "it has data before the first entry": min((part.header_offset for part in parts), default=0) > 0,
        "it ends with a comment": bool(comment),
    }
    if fault := next((fault for fault, found in faults.items() if found), None):
        raise ZooError(f"{path} is not a file of torch.save: {fault}; {ALONE}")


def write_weights(path: Path, state: Mapping[str, Tensor], card: str | None = None) -> None:
    """Write tensors atomically, in the format of the file's suffix.

    Args:
        path: ends in .safetensors, or in a suffix of PyTorch or Keras.
        state: tensors of any shape and dtype by key, in torch's order of axes, which is permuted for Keras.
        card: JSON for the metadata of safetensors; the other formats ignore it.

    Raises:
        ZooError: the file cannot be written; an earlier file of this name is then unchanged.
    """
    transform = stated_transform(state)
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with whole_file(path) as temporary:
        if path.suffix == ".safetensors":
            stated = {METADATA: card, TRANSFORM: None if transform is None else json.dumps(transform)}
            save_file(state, temporary, metadata={"format": "pt"} | {key: text for key, text in stated.items() if text})
            _sort_metadata(temporary)
        elif path.suffix in KERAS:
            write_keras(temporary, state)
        else:
            torch.save(state if transform is None else with_transform(state, transform), temporary)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, which are in random order, so that equal weights give equal files."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        assert len(text) == size
        file.seek(8)
        file.write(text)


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file in hexadecimal."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
