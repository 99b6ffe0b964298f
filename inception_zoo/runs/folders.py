"""Folders of runs and sweeps. One process claims a folder before anything is written, and removes it if nothing was started."""

import re
import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from inception_zoo.errors import ZooError, in_quotes

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


def claim_first(folder: Path, key: str) -> None:
    """Claim the folder of this command, and create it if necessary.

    Args:
        folder: named by the user.
        key: config key of the folder, for messages.

    Raises:
        ZooError: another process has locked it, or it cannot be written.
    """
    made = _create(folder.resolve(), key)
    claim(folder, key)
    _new.extend(made)


def claim_new(folder: Path, key: str) -> Path:
    """Create and claim a new folder for this command: `folder`, or if it exists, `folder` with a number at the end.

    Args:
        folder: proposed name.
        key: config key of the folder, for messages.

    Returns:
        The folder.

    Raises:
        ZooError: it cannot be written.
    """
    found, number = folder, 1
    while found.resolve() not in (made := _create(found.resolve(), key)):
        number += 1
        found = folder.with_name(f"{folder.name}_{number}")
    _new.extend(made)
    claim(found, key)
    return found


def is_new(folder: Path) -> bool:
    """Return True if this command has created the folder, and nothing was started in it."""
    return folder.resolve() in _new


def keep() -> None:
    """Keep the folder of this command: its job or sweep starts now."""
    _new.clear()


def discard() -> None:
    """Remove the folder of this command, with the parents created for it, unless `keep` was called."""
    if not _new:
        return
    *parents, folder = _new
    shutil.rmtree(folder, ignore_errors=True)
    release(folder)
    for parent in reversed(parents):
        with suppress(OSError):  # another command uses it
            parent.rmdir()
    keep()


def _create(folder: Path, key: str) -> list[Path]:
    """Create a folder and its parents; return those that are new. Of several processes, one creates a folder."""
    made: list[Path] = []
    while not folder.is_dir():
        place = next(place for place in (folder, *folder.parents) if place.parent.is_dir())
        try:
            place.mkdir()
            made.append(place)
        except (FileExistsError, FileNotFoundError):  # another process created or removed a folder just now
            if place.is_file():
                raise ZooError(f"{key}={folder} cannot be created: {place} is a file") from None
        except OSError as error:
            raise ZooError(f"{key}={folder} cannot be written: {error.strerror}") from None
    return made


def quoted(folder: Path) -> str:
    """Return a path as the value of a Hydra override, quoted unless it is absolute without special characters."""
    if re.fullmatch(r"/[\w./-]+", str(folder), re.ASCII):
        return str(folder)
    return in_quotes(str(folder))
