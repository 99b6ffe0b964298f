"""Images from the files, folders and patterns of the command line."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from inception_zoo.data.finding import described, images_below, log_found
from inception_zoo.data.layout import column_of, columns_of
from inception_zoo.errors import ZooError
from inception_zoo.system.regular_files import check_regular

S = TypeVar("S")
T = TypeVar("T")


def find_images(words: Sequence[str]) -> list[Path]:
    """Return the paths of the images that `words` name, see `find_grouped`."""
    return [path for path, _ in find_grouped(words)]


def find_grouped(words: Sequence[str], group: str | None = None) -> list[tuple[Path, str | None]]:
    """Return the paths of the images that `words` name, and their groups.

    Args:
        words: files, folders (all images below them), glob patterns, tables (.csv) with a column `path`, relative to the
            table, or `-` for paths on standard input, one per line.
        group: column of the groups in the tables, such as the patient; None: the column `group`, if there is one.

    Raises:
        ZooError: a word matches nothing, no image was found, or a table does not have a column.
    """
    found = [each for word in words for each in _expand(word, group)]
    if not found:
        raise ZooError("no image is given; name files, folders, patterns or tables")
    if group and not any(map(_is_table, words)):
        raise ZooError(f"--group {group}: no table is given; name a .csv file, or leave --group out")
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


def _is_table(word: str) -> bool:
    return word.endswith(".csv") and Path(word).is_file()


def _expand(word: str, group: str | None) -> list[tuple[Path, str | None]]:
    if _is_table(word):
        path, columns = Path(word), columns_of(Path(word), word, "give a table in CSV")
        paths, group = column_of(columns, word, "path"), group or ("group" if "group" in columns else None)
        groups = column_of(columns, word, group) if group else [None] * len(paths)
        return [(path.parent / name, each) for name, each in zip(paths, groups, strict=True)]
    return [(each, None) for each in _paths(word)]


def _paths(word: str) -> list[Path]:
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
