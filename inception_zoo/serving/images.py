"""Images from the files, folders and patterns of the command line."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from inception_zoo.data.finding import described, images_below, log_found
from inception_zoo.errors import ZooError
from inception_zoo.system.regular_files import check_regular

S = TypeVar("S")
T = TypeVar("T")


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


def read_ahead(items: Sequence[S], read: Callable[[S], T], count: int) -> Iterator[tuple[Sequence[S], list[T]]]:
    """Yield `count` items, such as paths, at a time, with what `read` returns for each; read the next in the background."""
    chunks = [items[start : start + count] for start in range(0, len(items), count)]
    with ThreadPoolExecutor(4) as pool:
        ahead = pool.map(read, chunks[0]) if chunks else iter(())
        for chunk, following in zip(chunks, [*chunks[1:], []], strict=True):
            found = list(ahead)
            ahead = pool.map(read, following)
            yield chunk, found


def _expand(word: str) -> list[Path]:
    if word == "-":
        # editors on Windows write the mark U+FEFF before the first path
        return [Path(name) for line in sys.stdin if (name := line.removeprefix("\ufeff").strip())]
    path = Path(word)
    if path.exists() and not path.is_dir():
        check_regular(path)
        return [path]
    if path.is_dir():
        left_out: list[str] = []
        below = images_below(path, left_out)
        if not below:
            only = f", only {described(left_out, path)}" if left_out else ""
            raise ZooError(f"{word}: there is no image in this folder{only}")
        log_found((entry.name for entry in below), left_out, path)
        return [Path(entry.path) for entry in below]
    start = next(folder for folder in path.parents if folder.is_dir())  # taken as it is, though its name may have [ or *
    if found := sorted(file for file in start.glob(str(path.relative_to(start))) if not file.is_dir()):
        return found
    raise ZooError(f"{word}: no such file, folder or pattern")
