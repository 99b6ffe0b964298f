"""Opening of regular files only. A named pipe, a socket or a device with the name of a file could block or never end."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from inception_zoo.errors import ZooError

KINDS: dict[Callable[[int], bool], str] = {
    stat.S_ISDIR: "folder",
    stat.S_ISFIFO: "named pipe",
    stat.S_ISSOCK: "socket",
    stat.S_ISCHR: "device",
    stat.S_ISBLK: "device",
}
# Without O_NONBLOCK, opening a pipe would wait for its writer; with O_NOCTTY, a terminal cannot take over this process.
LARGEST = 2**30  # bytes of a text
FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class UnreadableError(OSError, ZooError):
    """A path that is not a regular file, or that cannot be opened. `strerror` is the reason without the path."""


def opened(path: str | Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """Open a regular file for reading, without a gap between the check and the use.

    Args:
        path: of the file, which may be a link to it.
        mode: `rb` or `r`.
        **options: of `open`.

    Raises:
        UnreadableError: it is not a regular file, or cannot be opened; the message is one line.
        FileNotFoundError: there is no such file.
    """
    try:
        return open(path, mode, opener=_regular, **options)
    except (UnreadableError, FileNotFoundError):
        raise
    except OSError as error:  # a socket, a loop of links, no permission
        raise _refusal(path, special(path) or error.strerror or type(error).__name__) from None


def text_of(path: str | Path, **options: Any) -> str:
    """Return the text of a regular file; the options are those of `open`, the errors those of `opened`."""
    with opened(path, "r", **options) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise _refusal(path, f"larger than {LARGEST // 2**20:,} MiB")
        try:
            return file.read()
        except OSError as error:  # a file of /proc
            raise _refusal(path, error.strerror or type(error).__name__) from None


def check_regular(path: str | Path) -> None:
    """Raise what `opened` would raise. Call it before a library opens the path itself."""
    opened(path).close()


def special(path: str | Path) -> str | None:
    """Return what a path is instead of a regular file, such as `is a named pipe, not a regular file`; else None."""
    try:
        return _kind(os.stat(path).st_mode)  # noqa: PTH116 -- also for the text of a path
    except (OSError, ValueError):  # reported when it is opened
        return None


def _kind(mode: int) -> str | None:
    kind = next((name for is_kind, name in KINDS.items() if is_kind(mode)), "special file")
    return None if stat.S_ISREG(mode) else f"is a {kind}, not a regular file"


def _regular(path: str, flags: int) -> int:
    file = os.open(path, flags | FLAGS)
    if reason := _kind(os.fstat(file).st_mode):
        os.close(file)
        raise _refusal(path, reason)
    return file


def _refusal(path: str | Path, reason: str) -> UnreadableError:
    error = UnreadableError(f"{path} {reason if reason.startswith('is a ') else f'cannot be read: {reason}'}")
    error.strerror = reason
    return error
