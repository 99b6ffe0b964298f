"""CSV files that a spreadsheet can open without computing a formula: the only place that writes CSV.

A text that begins like a formula gets an apostrophe in front, as OWASP advises; numbers stay. Reading removes it again.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import write_whole
from inception_zoo.system.regular_files import opened

# also after apostrophes, so that reading is exact; the last four are wide forms, which spreadsheets accept, too
_FORMULA = re.compile("(?![+-]?([0-9.]+(e[+-]?[0-9]+)?|inf|nan)$)'*[-=+@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically."""
    text = io.StringIO(newline="")
    write_rows(text, header, rows)
    write_whole(path, text.getvalue())


def read_table(path: Path, grows: bool = False, errors: str = "backslashreplace") -> Iterator[list[str]]:
    """Yield the rows of a CSV file, the header first; numbers are texts.

    Args:
        path: The file.
        grows: A run appends to the file; a last line without an end is incomplete and left out.
        errors: What becomes of bytes that are not UTF-8, as in names of files. Pages and W&B need Unicode.

    Raises:
        ZooError: The file cannot be read, or is damaged.
    """
    with opened(path, "r", newline="", encoding="utf-8", errors=errors) as file:
        try:
            yield from read_rows(line for line in file if not grows or line.endswith("\n"))
        except csv.Error as error:
            raise ZooError(f"{path} is damaged: {error}") from None


def write_rows(file: IO[str], header: Sequence[str], rows: Iterable[Sequence[Any]], lineterminator: str = "\r\n") -> None:
    """Write rows of texts and numbers as CSV."""
    safe = ([f"'{cell}" if _FORMULA.match(str(cell)) else cell for cell in row] for row in chain([header], rows))
    csv.writer(file, lineterminator=lineterminator).writerows(safe)


def read_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the rows of a CSV as `write_rows` got them; raise csv.Error if it is damaged."""
    for row in csv.reader(lines, strict=True):
        yield [cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for cell in row]
