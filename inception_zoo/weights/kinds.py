"""Formats of weight files, and other files that are given as weights by mistake: what each of them is, and what to do."""

import re
from pathlib import Path

from inception_zoo.errors import ZooError
from inception_zoo.system.regular_files import opened

TORCH, KERAS, KERAS_ZIP = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar"), (".h5", ".hdf5"), ".keras"
SUFFIXES = (".safetensors", *TORCH, *KERAS, KERAS_ZIP)
AGAIN = "download or copy it again"
ALONE = "save the weights alone where the model was made: torch.save(model.state_dict(), 'weights.pth')"
# First bytes of a file → the suffixes of its format, or what else it is and what to do:
KINDS: dict[bytes, str | tuple[str, ...]] = {
    rb"\x89HDF\r\n": KERAS,
    rb"PK\x03\x04": (*TORCH, KERAS_ZIP),
    rb"\x80[\x02-\x05]": TORCH,
    rb".{6}\0\0\{": (".safetensors",),
    rb"\Z": f"is empty; {AGAIN}",
    rb"version https://git-lfs": "is a Git LFS pointer, not the weights; run `git lfs pull` in its folder, or download them",
    rb"\s*<(!doctype|html|head|\?xml)": "is a web page, not weights; download the file that the page links to",
    rb"\x1f\x8b|BZh|\xfd7zXZ|.{257}ustar": "is an archive or compressed; unpack it, and give the weight file in it",
    rb"\x08[\x01-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]": "is an ONNX file; give the weights from which it was exported",
}


def check_kind(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        ZooError: they show that the file has no weights, or that it has the suffix of another format.
    """
    with opened(path) as file:
        head = file.read(512)
    kind = next((kind for first, kind in KINDS.items() if re.match(first, head, re.DOTALL | re.IGNORECASE)), SUFFIXES)
    if isinstance(kind, str):
        raise ZooError(f"{path} {kind}")
    if path.name.endswith(SUFFIXES) and not path.name.endswith(kind):
        raise ZooError(f"{path} has the content of a {kind[0]} file; rename it to {path.with_suffix(kind[0]).name}")
    return head


def refused_object(error: Exception) -> str | None:
    """Return the message for an object in a file that torch refuses to unpickle; None for another error."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found and f"contains an object ({found[1]}), as after torch.save(model), and is not read: it could run code; {ALONE}"
