"""Image paths from the files, folders and patterns of the command line."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from inception_zoo.data.pictures import SUFFIXES
from inception_zoo.errors import ZooError


def find_images(words: Sequence[str]) -> list[Path]:
    """Return the paths of the images that `words` name.

    Args:
        words: files, folders (all images below them), glob patterns, or `-` for paths on standard input, one per line.

    Raises:
        ZooError: a word matches nothing, or no image was found.
    """
    found = [path for word in words for path in _expand(word)]
    if not found:
        raise ZooError("no image is given; name files, folders or patterns")
    return found


def _expand(word: str) -> list[Path]:
    if word == "-":
        return [Path(line.strip()) for line in sys.stdin if line.strip()]
    path = Path(word)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(_below(path))
        if not found:
            raise ZooError(f"{word}: there is no image in this folder; supported are {', '.join(sorted(SUFFIXES))}")
        return found
    start = Path(path.anchor or ".")
    if found := sorted(file for file in start.glob(str(path.relative_to(start))) if file.is_file()):
        return found
    raise ZooError(f"{word}: no such file, folder or pattern")


def _below(folder: Path) -> Iterator[Path]:
    """Yield every image below a folder, without hidden files and folders."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            yield path
