"""Folders of runs and sweeps. One process claims a folder before anything is written, and removes it if nothing was started."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from inception_zoo.errors import ZooError

_claimed: dict[Path, FileLock] = {}
_new: list[Path] = []  # folders that this command created, parents first, until its job starts


def claim(folder: Path, key: str = "hydra.run.dir") -> None:
    """Lock a folder until `release`, or until the end of this process. Create it if necessary.

    Args:
        folder: folder of a run or of a sweep.
        key: config key of the folder, for messages.

    Raises:
        ZooError: another process has locked it, or it cannot be written.
    """
    folder = folder.resolve()  # a path has several spellings
    if folder in _claimed:
        return
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ZooError(f"{key}={folder}: another job is running in this folder; wait for it, or set another") from None
    except OSError as error:
        raise ZooError(f"{key}={folder} cannot be written: {error.strerror}") from None
    _claimed[folder] = lock


def release(folder: Path) -> None:
    """Release the lock of a folder, if this process has it."""
    if lock := _claimed.pop(folder.resolve(), None):
        lock.release()


def claim_first(folder: Callable[[], Path], key: str, rename: Callable[[], None] | None) -> None:
    """Claim the folder of this command.

    Args:
        folder: function that returns the folder.
        key: config key of the folder, for messages.
        rename: function that changes the name that `folder` returns, for a new folder; None: the folder may exist.

    Raises:
        ZooError: another process has locked the folder, or it cannot be written.
    """
    try:
        while not (is_new := _create(place := folder().resolve())) and rename:
            rename()
    except OSError as error:
        raise ZooError(f"{key}={folder()} cannot be written: {error.strerror}") from None
    try:
        claim(place, key)
    except ZooError:
        keep()  # the other process has it
        raise
    if not is_new:
        keep()


def keep() -> None:
    """Keep the folder of this command: its job or sweep starts now."""
    _new.clear()


def discard() -> None:
    """Remove the folder of this command, with the parents created for it, unless `keep` was called."""
    if not _new:
        return
    *parents, folder = _new
    release(folder)
    shutil.rmtree(folder, ignore_errors=True)
    for parent in reversed(parents):
        with suppress(OSError):  # another command uses it
            parent.rmdir()
    keep()


def _create(folder: Path) -> bool:
    """Create a folder and its parents. Return whether the folder is new: of several processes, one creates it."""
    is_new = False
    for place in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
        with suppress(FileExistsError):  # another process created it just now
            place.mkdir()
            _new.append(place)
            is_new = place == folder
    return is_new
