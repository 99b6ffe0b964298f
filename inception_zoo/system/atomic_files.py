"""Atomic file writes: a file is complete or unchanged, even after a crash, a full disk or a power failure."""

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inception_zoo.errors import ZooError, shown


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the folder of `path`; on success, sync it to the disk and rename it to `path`.

    Raises:
        ZooError: The file cannot be written; an earlier file at `path` is unchanged.
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
    """Remove the temporary files of `name` that killed processes have left in `folder`. No process may be writing `name`."""
    for left in folder.glob(f"{_prefix(folder / name)}*"):
        left.unlink(missing_ok=True)


def is_whole_zip(path: Path) -> bool:
    """Return True if every member of a zip file, such as a torch checkpoint, has its recorded checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises many types for corrupt files
        return False


def check_folder(key: str, folder: Path) -> None:
    """Raise ZooError, naming `key`, unless `folder` can be created, or exists and is writable."""
    try:
        standing = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # such as a name that is too long
        raise ZooError(f"{key}={shown(folder)}: the folder cannot be created: {error.strerror}") from None
    if not standing.is_dir():
        raise ZooError(f"{key}={shown(folder)}: the folder cannot be created: {standing} is a file")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise ZooError(f"{key}={shown(folder)} cannot be written: no write permission for {standing}")


def _prefix(path: Path) -> str:
    return f".{path.name}."


def _sync(path: Path) -> None:
    if os.name == "nt":  # Windows opens no folders, and syncs only what is open for writing
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
