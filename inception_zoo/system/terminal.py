"""The terminal: Rich's console, encodings that cannot represent every character, signals, and output that was closed."""

import codecs
import io
import logging
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

ASCII = {"•": "*", "–": "-", "—": "-", "×": "x", "→": "->", "…": "...", "±": "+-", "≥": ">=", "≤": "<="}
HANDLER = "inception_zoo.ascii"
ENDING = tuple(  # signals that ask a job to end; SIGHUP: the connection to the terminal was lost (not on Windows)
    number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)


def console(least: int = 0, markup: bool = False, **options: Any) -> "Console":
    """Return a Rich console that prints paths, names of classes and other text of users as it is.

    Rich's own default takes `[x]` in a text for markup, and `:x:` for an emoji.

    Args:
        least: columns where the output is not a terminal, so that the rows of tables stay whole in a file.
        markup: Rich's markup is wanted; text of users is escaped.
        **options: of Rich's Console.
    """
    from rich.console import Console

    made = Console(markup=markup, emoji=False, **options)
    if not made.is_terminal:
        made.width = max(made.width, least)
    return made


def never_fail_to_print() -> None:
    """Replace characters that the encoding of stdout or stderr lacks, instead of raising UnicodeEncodeError.

    A log line that cannot be printed, because the output was closed, is dropped without a traceback.
    """
    logging.raiseExceptions = False
    codecs.register_error(HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors=HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a job: `ENDING` without ignored ones, since `nohup` makes a program ignore SIGHUP."""
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def is_closed_output(error: BaseException | None) -> bool:
    """Return whether an error was caused by a closed output, as in ``| head -1``."""
    if isinstance(error, SystemExit):  # Rich raises it, and redirects stdout
        return isinstance(error.__context__, BrokenPipeError)
    return isinstance(error, BrokenPipeError) and any(map(_is_broken_pipe, (1, 2)))


def _is_broken_pipe(descriptor: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return False
    states = select.poll()
    states.register(descriptor, 0)
    return any(state & select.POLLERR for _, state in states.poll(0))


def leave_lost_terminal() -> None:
    """Discard the output to a terminal that no longer exists, where writing would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(nowhere, stream)
    os.close(nowhere)
