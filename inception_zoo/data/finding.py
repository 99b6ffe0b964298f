"""Images in folders: this module alone decides which files are images. Does not import torch."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from inception_zoo.data.pictures import is_picture
from inception_zoo.errors import ZooError, printable
from inception_zoo.system.ranks import is_first

CLUTTER = ("thumbs.db", "desktop.ini")  # hidden files of Windows; macOS's .DS_Store and ._a.jpg begin with a dot
NAMED = 10  # number of files to name in the log

Entry = os.DirEntry[str]

log = logging.getLogger(__name__)


def images_below(folder: str | Path, left_out: list[str], strict: bool = False) -> list[Entry]:
    """Return the images in a folder and its subfolders, also behind links, sorted by name.

    Args:
        folder: to search.
        left_out: the paths of files that are not images are added to it. Hidden files are ignored.
        strict: reject hidden folders, instead of ignoring them.

    Raises:
        ZooError: a folder cannot be read or links to one that contains it, or see `strict`.
    """
    found = []
    for entry in entries(folder, left_out, strict):
        found += images_below(entry.path, left_out, strict) if entry.is_dir() else [entry]
    return found


def entries(folder: str | Path, left_out: list[str], strict: bool = False) -> list[Entry]:
    """Return the folders and images in a folder, sorted by name; otherwise as `images_below`."""
    found = []
    try:
        with os.scandir(folder) as every:
            for entry in sorted(every, key=lambda entry: entry.name):
                hidden = entry.name.startswith(".") or entry.name.lower() in CLUTTER
                if entry.is_dir() and hidden and strict:
                    raise ZooError(f"{entry.path} is a hidden folder among the images; delete it or move it elsewhere")
                if hidden:
                    continue
                if entry.is_dir() or is_picture(entry.path):  # also a pipe or a broken link with this suffix: it is reported
                    found.append(entry)
                else:
                    left_out.append(entry.path)
    except OSError as error:
        raise ZooError(f"{error.filename} cannot be read: {error.strerror}") from None
    for entry in found:
        if entry.is_symlink() and entry.is_dir() and Path(folder).resolve().is_relative_to(Path(entry.path).resolve()):
            raise ZooError(f"{entry.path} links to a folder that contains it; delete the link")
    return found


def log_found(images: Iterable[str], left_out: Sequence[str], root: str | Path) -> None:
    """Log the number of images without a suffix, and the number and the first names of files that are not used.

    Args:
        images: paths of the images.
        left_out: paths of the other files.
        root: folder that contains both.
    """
    if not is_first():
        return
    if unnamed := sum("." not in path.rpartition("/")[2] for path in images):
        log.info("%s", printable(f"{root}: images without a suffix, known by their content: {unnamed:,}"))
    if left_out:
        log.warning("%s", printable(f"{root}: left out {described(left_out, root)}"))


def described(left_out: Sequence[str], root: str | Path) -> str:
    """Return the number and the first names of files that are not images; the arguments are those of `log_found`."""
    names = ", ".join(os.path.relpath(path, root) for path in left_out[:NAMED]) + (", …" if len(left_out) > NAMED else "")
    files = "1 file that is not an image" if len(left_out) == 1 else f"{len(left_out):,} files that are not images"
    return f"{files} in a supported format: {names}"
