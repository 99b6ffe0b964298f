"""Opening of regular files only. A named pipe, a socket or a device with the name of a file could block or never end."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from inception_zoo.errors import ZooError, one_line

KINDS = {"d": "folder", "p": "named pipe", "s": "socket", "c": "device", "b": "device"}
# Without O_NONBLOCK, opening a pipe would wait for its writer; with O_NOCTTY, a terminal cannot take over this process.
FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


@contextmanager
def opened(path: str | Path, mode: str = "rb", **options: Any) -> Iterator[Any]:
    """Open a regular file for reading, without a gap between the check and the use; close it at the end of the block.

    Args:
        path: of the file, which may be a link to it.
        mode: `rb` or `r`.
        **options: of `open`.

    Yields:
        The file object, as of `open`.

    Raises:
        ZooError: it is not a regular file, or cannot be read. The message begins with the path and a space.
        FileNotFoundError: there is no such file.
    """
    try:
        with open(path, mode, opener=_open_regular, **options) as file:
            yield file
    except FileNotFoundError:
        raise
    except OSError as error:  # also a loop of links, no permission
        if error.errno is None:  # of a library that reads the file
            raise
        raise ZooError(f"{path} {_special(path) or f'cannot be read: {error.strerror}'}") from None


def text_of(path: str | Path, errors: str = "strict") -> str:
    """Return the text of a regular file in UTF-8; the errors are those of `opened`."""
    with opened(path, "r", encoding="utf-8", errors=errors) as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise ZooError(f"{path} cannot be read: {one_line(error)}") from None


def check_regular(path: str | Path) -> None:
    """Raise ZooError for a pipe, a socket, a device or a folder. Call it before a library opens the path itself."""
    if reason := _special(path):
        raise ZooError(f"{path} {reason}")


def _special(path: str | Path) -> str | None:
    """Return what a path is instead of a regular file, such as `is a named pipe, not a regular file`; else None."""
    with suppress(OSError, ValueError):  # reported when it is opened
        kind = stat.filemode(os.stat(path).st_mode)[0]  # noqa: PTH116 -- also for the text of a path
        return None if kind == "-" else f"is a {KINDS.get(kind, 'special file')}, not a regular file"
    return None


def _open_regular(path: str, flags: int) -> int:
    file = os.open(path, flags | FLAGS)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file")
    return file
