"""Files that are there whole or not at all, whatever becomes of the process, the disk or the power."""

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inception_zoo.errors import ZooError, shown


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file in the same folder, which takes the name of `path` if all goes well, and stays through a power cut.

    Raises:
        ZooError: it cannot be written there; what had the name before still has it.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ZooError(f"{path} cannot be written: {error.strerror or error}") from error


def sweep_up(folder: Path, name: str) -> None:
    """Remove what processes that were killed have left of `name`; none may be writing it now."""
    for left in folder.glob(f"{_prefix(folder / name)}*"):
        left.unlink(missing_ok=True)


def is_whole_zip(path: Path) -> bool:
    """Whether every part of a zip file, as torch's checkpoints are, has the checksum that it was written with."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises many kinds for damaged files
        return False


def check_folder(key: str, folder: Path) -> None:
    """Raise ZooError, naming `key`, unless a folder can be made there."""
    try:
        standing = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # a name too long
        raise ZooError(f"{key}={shown(folder)} can be no folder: {error.strerror}") from None
    if not standing.is_dir():
        raise ZooError(f"{key}={shown(folder)} can be no folder: {standing} is a file")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise ZooError(f"{key}={shown(folder)} cannot be written: you may not write into {standing}")


def _prefix(path: Path) -> str:
    return f".{path.name}."


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
