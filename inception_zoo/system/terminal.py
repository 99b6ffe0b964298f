"""Output in encodings that cannot represent every character, such as ASCII."""

import codecs
import io
import sys

ASCII = {"•": "*", "–": "-", "—": "-", "×": "x", "→": "->", "…": "...", "±": "+-", "≥": ">=", "≤": "<="}
HANDLER = "inception_zoo.ascii"


def never_fail_to_print() -> None:
    """Replace characters that the encoding of stdout or stderr lacks, instead of raising UnicodeEncodeError."""
    codecs.register_error(HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors=HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end
