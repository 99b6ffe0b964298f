"""The terminal: Rich's console, encodings that cannot represent every character, signals, and output that was closed."""

import atexit
import codecs
import io
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from inception_zoo.redaction import learn, printable, redacted, safe

if TYPE_CHECKING:
    from rich.console import Console

ASCII = {"•": "*", "–": "-", "—": "-", "×": "x", "→": "->", "…": "...", "±": "+-", "≥": ">=", "≤": "<="}
HANDLER = "inception_zoo.ascii"
ENDING = tuple(  # signals that ask a job to end; SIGHUP: the connection to the terminal was lost (not on Windows)
    number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)
PRESS = 1.0  # seconds; signals that follow each other faster count as one, such as those of a Ctrl-C that is held down
_status: int | None = None  # exit status, as soon as a signal or `leave` has decided it
_requests, _latest = 0, 0.0  # number of requests to end, time of the latest signal


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


def tell(text: object, stdout: bool = False) -> None:
    """Print one line, on stderr unless `stdout` is True, without secrets and with escapes for control characters."""
    print(printable(redacted(str(text))), file=sys.stdout if stdout else sys.stderr)


def tell_json(content: Any) -> None:
    """Print containers as JSON, without secrets."""
    sys.stdout.write(_Clean(json.dumps(redacted(content), indent=1) + "\n"))


def data_output() -> Any:
    """Return stdout for the rows of a table: control characters are escaped, but nothing in them is taken for a secret."""
    return SimpleNamespace(write=lambda text: sys.stdout.write(_Clean(printable(text, "\r\n\t"))))


def guard_output() -> None:
    """Remove secrets from what this process and its libraries print, and escape control characters except colours and cursor.

    A character that the encoding lacks is replaced, instead of raising UnicodeEncodeError. A log line that cannot be printed,
    because the output was closed, is dropped without a traceback.
    """
    import rich.text

    rich.text.strip_control_codes = safe  # type: ignore[assignment]  # each text, also Lightning's, before it is folded and coloured
    logging.raiseExceptions = False
    codecs.register_error(HANDLER, _replace)
    learn([sys.argv[1:], dict(os.environ)])
    for name in ("stdout", "stderr"):
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)
            setattr(sys, name, _Guarded(stream))


class _Clean(str):
    """Text without secrets and control characters."""


class _Guarded:
    """Stream that writes only `_Clean` text. It is the outermost one, although W&B replaces `write` to record the output."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self.__dict__["stream"] = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.stream, name, value)

    def write(self, text: str) -> int:
        if isinstance(text, _Clean):  # from this module, or from W&B's `write`, which calls this one
            return type(self.stream).write(self.stream, text)
        return self.stream.write(_Clean(printable(redacted(text), "\x1b\r\n\t")))

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a job: `ENDING` without ignored ones, since `nohup` makes a program ignore SIGHUP."""
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def end_on_signals() -> None:
    """End this process with status 128 + N after signal N: SIGINT, SIGTERM or SIGHUP.

    The first signal decides the status. Later ones are ignored, except Ctrl-C a second or more after the latest signal: the
    second request raises SystemExit again, where a block that cleans up may wait; the third ends the process at once.
    """
    for number in (signal.SIGINT, *ending_signals()):
        signal.signal(number, _end)
        atexit.register(signal.signal, number, signal.SIG_IGN)  # after all others; a default handler would change the status


def _end(number: int, frame: FrameType | None) -> None:
    if hear(number):
        sys.exit(asked())


def hear(number: int) -> int:
    """Count a signal. Return 1 if it is the first request to end, 2 if it is Ctrl-C pressed again, and 0 if it is ignored."""
    global _status, _requests, _latest
    again, _latest = number == signal.SIGINT and time.monotonic() - _latest > PRESS, time.monotonic()
    if _status is not None and not again:
        return 0
    _status, _requests = 128 + number if _status is None else _status, _requests + 1
    leave_lost_terminal()
    if _requests > 2:
        os._exit(_status)
    return _requests


def asked() -> int:
    """Return the exit status that a signal asked for; 0 without one."""
    return _status if _status is not None and _status > 128 else 0  # `leave` may have decided it without a signal


def leave(status: int) -> NoReturn:
    """Exit with the status of the first signal, or with `status`, which later signals do not change."""
    global _status, _requests
    _status, _requests = status if _status is None else _status, max(_requests, 1)
    sys.exit(_status)


def obey_parent(worker: int = 0) -> None:
    """Let only its parent end a data worker: a signal to all processes must not take its data from the step that finishes."""
    for number in (signal.SIGINT, *ENDING):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on Windows and macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)  # as torch's handler does


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
