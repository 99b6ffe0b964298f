"""Atomic file writes: a file is complete or unchanged, even after a crash, a full disk or a power failure."""

import os
import re
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from inception_zoo.errors import ZooError, shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_asking = threading.Lock()  # `os.umask` changes the umask for a moment
MARK = ".partial-"  # in the name of a folder to which a file is written: .NAME.partial-RANDOM


@contextmanager
def whole_file(path: Path, parents: bool = False) -> Iterator[Path]:
    """Yield a path to write a file or a folder to; on success, sync it to the disk and rename it to `path`.

    It has the same name, in a private folder beside `path`. An earlier file is replaced and keeps its permissions; an earlier
    folder must be empty. What killed processes have left of `path` is removed.

    Args:
        path: The file or folder.
        parents: Create the folders above it.

    Raises:
        ZooError: The file cannot be written; an earlier file at `path` is unchanged.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ZooError(f"{path} is not a regular file, and is not replaced; give another name")
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        sweep_up(path.parent, path.name)
        with _private_folder(path) as folder:
            yield (temporary := folder / path.name)
            for each in (*temporary.rglob("*"), temporary):
                _sync(each)
            if temporary.is_file():
                temporary.chmod(0o666 & (path.stat().st_mode if path.is_file() else ~_umask()))
            temporary.replace(path)
            _sync(path.parent)
    except OSError as error:
        raise ZooError(f"{path} cannot be written: {error.strerror or error}") from error


def write_whole(path: Path, text: str, parents: bool = False) -> None:
    """Write a text file as `whole_file`, in UTF-8, with the line ends of `text`, which may have undecodable file names."""
    with whole_file(path, parents) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def sweep_up(folder: Path, name: str = "") -> None:
    """Remove what killed processes have left of the file `name` in `folder`, or of all files.

    A process has locked the folder that it writes to. Without locks (Windows, some network disks), nothing is removed.
    """
    form = re.compile(rf"\.{re.escape(name) or '.+'}{MARK}\w{{8}}")
    for left in folder.glob(f".*{MARK}*") if fcntl else ():
        if form.fullmatch(left.name) and not left.is_symlink():
            with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)


def is_whole_zip(path: Path) -> bool:
    """Return True if every member of a zip file, such as a torch checkpoint, has its recorded checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises many types for corrupt files
        return False


def check_file(name: str, path: Path) -> None:
    """Raise ZooError, beginning with `name`, unless `path` may be the name of a file: its folder exists, and it is not one."""
    if path.is_dir():
        raise ZooError(f"{name} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise ZooError(f"{name}: there is no folder {path.parent}")


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


@contextmanager
def _private_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, locked against `sweep_up`; remove it at the end."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}{MARK}"))
        with ExitStack() as stack:
            if fcntl:
                with suppress(OSError):  # a file system without locks
                    stack.enter_context(_locked(folder, fcntl.LOCK_EX))
            if folder.exists():  # else another process removed it before it was locked
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                yield folder
                return


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    if os.name == "nt":  # Windows opens no folders, and syncs only what is open for writing
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    with _asking:
        mask = os.umask(0)
        os.umask(mask)
        return mask
