"""Kill a process, by an audit hook, as it creates, truncates, renames or removes a file in a folder."""

import mmap
import os
import re
import signal
import sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")


def install(folder, number, listing=None):
    """Kill this process and its group with SIGKILL at the event with this number, counted from 1; 0: only list them.

    A file that is created or truncated is empty then, as after a kill before the first write. Other changes are not made.
    Forks count too. C++ and Rust code is not audited; its files begin as temporary files of Python, and are renamed by Python.

    Args:
        folder: The folder whose files are watched.
        number: The event.
        listing: File that receives a line per event: what happens, and to which file.
    """
    folder = os.path.realpath(folder)
    lines = os.open(listing, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666) if listing else None
    count = mmap.mmap(-1, 8)

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITES:
                return
            event = "truncate" if flags & os.O_TRUNC and _exists(path) else "append" if _exists(path) else "create"
            paths = [path]
        elif event in CHANGES:
            paths = arguments[: 1 + (event in ("os.rename", "os.link"))]
            if _exists(paths[-1]) if event == "os.mkdir" else not _exists(paths[0]):
                return  # nothing changes: the folder is there already, or the file is not
        else:
            return
        names = [name for path in paths if (name := _inside(path, folder)) is not None]
        if not names:
            return
        done = int.from_bytes(count[:8], "little") + 1
        count[:8] = done.to_bytes(8, "little")
        if lines is not None:
            os.write(lines, f"{event.removeprefix('os.')} {' > '.join(names)}\n".encode())
        if done == number:
            if event in ("create", "truncate"):
                os.close(os.open(paths[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)


def _exists(path):
    return not isinstance(path, int) and os.path.exists(path)  # noqa: PTH110 -- quick: it is called for every opened file


def _inside(path, folder):
    """Return the name of a path relative to the folder, without the random part of temporary names; None if it is outside."""
    if isinstance(path, int):
        return None
    path = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 -- a link is changed itself
    if path != folder and not path.startswith(folder + os.sep):
        return None
    name = os.path.relpath(path, folder)
    return re.sub(r"(?<![^/])(\.[^/]+\.|[^/]+\.partial-)[a-z0-9_]{8}(?=[./]|$)", r"\1*", name)
