"""A run's results.json, from its start to its end: what it is, how it went, and why if it did not finish."""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from inception_zoo.errors import ZooError, one_line
from inception_zoo.redaction import redacted
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.ranks import is_first

RESULTS = "results.json"
CHECKPOINTS = ("last.ckpt", "previous.ckpt", "best.ckpt")  # of a run folder's `checkpoints`, in the order that it goes on from
REASON = "INCEPTION_ZOO_REASON"  # variable: the file where a process that is not the first says why it failed
DONE = ("finished", "pruned")  # states of runs that there is no more to do for


_claimed: dict[Path, FileLock] = {}


class Pruned(Exception):  # noqa: N818 -- it is none
    """The search has seen enough of this run."""


@contextmanager
def recorded(folder: Path, **known: Any) -> Iterator[dict[str, Any]]:
    """Yields what will stand in results.json, to be filled; `state` and `reason` follow from how the block ends."""
    writes = is_first()
    if writes:
        claim(folder)
    results: dict[str, Any] = {
        "state": "running",
        "reason": None,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        **known,
    }
    started = time.perf_counter()
    if writes:
        _write(folder, results)
    end: BaseException | None = None
    try:
        yield results
    except Pruned as pruned:
        end = pruned
    except BaseException as error:
        end = error
        raise
    finally:
        results["state"], results["reason"] = ending(end)
        results["minutes"] = (time.perf_counter() - started) / 60
        if writes:
            _write(folder, results)
            release(folder)
        elif place := os.environ.get(REASON):
            Path(place).write_text(results["reason"] or "")


def claim(folder: Path) -> None:
    """Let no other job into a run folder until `release`, or the end of this process, however it comes.

    Raises:
        ZooError: another is in it.
    """
    if folder in _claimed:
        return
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ZooError(f"hydra.run.dir={folder}: another job is running in this folder; wait for it, or give another") from None
    except OSError as error:
        raise ZooError(f"hydra.run.dir={folder} cannot be written: {error.strerror}") from None
    _claimed[folder] = lock


def release(folder: Path) -> None:
    if lock := _claimed.pop(folder, None):
        lock.release()


def check_free(folder: Path) -> None:
    """ZooError if a training that begins in `folder` would overwrite the checkpoints of another."""
    if any(folder.glob("checkpoints/*.ckpt")):
        raise ZooError(
            f"hydra.run.dir={folder} holds a run already; ckpt=last goes on with it; or delete it, or give another folder"
        )


def record_failure(folder: Path, reason: str) -> None:
    """For a job that is about to be killed."""
    _write(folder, {**read_results(folder), "state": "failed", "reason": reason})


def ending(error: BaseException | None) -> tuple[str, str | None]:
    """The state of a run whose work has ended in `error`, and the reason."""
    if error is None:
        return "finished", None
    if isinstance(error, Pruned):
        return "pruned", str(error)
    if isinstance(error, Exception):
        return "failed", reason_of(error)
    return "interrupted", None  # Ctrl-C, or SystemExit, which Lightning makes of it and of a SIGTERM


def read_results(folder: Path) -> dict[str, Any]:
    """What a run has recorded; nothing if it never began."""
    path = folder / RESULTS
    return json.loads(path.read_text()) if path.exists() else {}


def is_interrupted(folder: Path) -> bool:
    """Whether a run has begun in a folder, and not come to its end."""
    return read_results(folder).get("state", "finished") not in DONE


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    text = redacted(one_line(error))
    return text if isinstance(error, ZooError) else f"{type(error).__name__}: {text}"[:500]


def commit_of_the_code() -> str | None:
    """The commit that this package is checked out at, if it is; with `+` where files were changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # an installed package may lie in somebody else's checkout
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=True, timeout=10)
        described = [*git, "describe", "--always", "--abbrev=12", "--dirty=+", "--match="]
        return subprocess.run(described, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` → ``{"a.b": 1}``; lists and empty mappings stay one value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _write(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / RESULTS) as temporary:  # others read it while the run goes on
        temporary.write_text(json.dumps(redacted(results), indent=1))
