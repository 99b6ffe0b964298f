"""CSV files that a spreadsheet can open without computing a formula: the only place that writes CSV.

A text that begins like a formula gets an apostrophe in front, as OWASP advises; numbers stay. `read_rows` removes it again.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import IO, Any

# also after apostrophes, so that reading is exact; the last four are wide forms, which spreadsheets accept, too
_FORMULA = re.compile("(?![+-]?([0-9.]+(e[+-]?[0-9]+)?|inf|nan)$)'*[-=+@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")


def write_rows(file: IO[str], header: Sequence[str], rows: Iterable[Sequence[Any]], lineterminator: str = "\r\n") -> None:
    """Write rows of texts and numbers as CSV."""
    safe = ([f"'{cell}" if _FORMULA.match(str(cell)) else cell for cell in row] for row in chain([header], rows))
    csv.writer(file, lineterminator=lineterminator).writerows(safe)


def read_rows(file: Iterable[str], strict: bool = False) -> Iterator[list[str]]:
    """Yield the rows of a CSV as `write_rows` got them; numbers are texts.

    Raises:
        csv.Error: The file is damaged, and `strict` is True.
    """
    for row in csv.reader(file, strict=strict):
        yield [cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for cell in row]
