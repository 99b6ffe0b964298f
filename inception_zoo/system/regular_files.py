"""Opening of regular files only. A named pipe, a socket or a device with the name of a file could block or never end."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from inception_zoo.errors import ZooError

KINDS = {"d": "folder", "p": "named pipe", "s": "socket", "c": "device", "b": "device"}
# Without O_NONBLOCK, opening a pipe would wait for its writer; with O_NOCTTY, a terminal cannot take over this process.
FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class UnreadableError(OSError, ZooError):
    """A path that is not a regular file, or that cannot be opened. `strerror` is the reason without the path."""


def opened(path: str | Path, mode: str = "rb", **options: Any) -> Any:
    """Open a regular file for reading, without a gap between the check and the use.

    Args:
        path: of the file, which may be a link to it.
        mode: `rb` or `r`.
        **options: of `open`.

    Returns:
        The file object, as of `open`.

    Raises:
        UnreadableError: it is not a regular file, or cannot be opened; the message is one line.
        FileNotFoundError: there is no such file.
    """
    try:
        return open(path, mode, opener=_regular, **options)
    except FileNotFoundError:
        raise
    except OSError as error:  # also a loop of links, no permission
        refused = UnreadableError(f"{path} {special(path) or f'cannot be read: {error.strerror or error}'}")
        refused.strerror = str(refused).removeprefix(f"{path} ")
        raise refused from None


def text_of(path: str | Path, **options: Any) -> str:
    """Return the text of a regular file; the options are those of `open`, the errors those of `opened`."""
    with opened(path, "r", **options) as file:
        return file.read()


def special(path: str | Path) -> str | None:
    """Return what a path is instead of a regular file, such as `is a named pipe, not a regular file`; else None."""
    with suppress(OSError, ValueError):  # reported when it is opened
        kind = stat.filemode(os.stat(path).st_mode)[0]  # noqa: PTH116 -- also for the text of a path
        return None if kind == "-" else f"is a {KINDS.get(kind, 'special file')}, not a regular file"
    return None


def reason_of(error: Exception) -> str:
    """Return the reason why a file is not opened, or the type of an error in its content."""
    return getattr(error, "strerror", None) or type(error).__name__


def check_regular(path: str | Path) -> None:
    """Raise what `opened` would raise. Call it before a library opens the path itself."""
    opened(path).close()


def _regular(path: str, flags: int) -> int:
    file = os.open(path, flags | FLAGS)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("not a regular file")
    return file
