"""The file results.json of a run: facts, results and state, from the start of the run to its end."""

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
CHECKPOINTS = ("last.ckpt", "previous.ckpt", "best.ckpt")  # in the order in which a run resumes from them
REASON = "INCEPTION_ZOO_REASON"  # environment variable: file for the reason why another rank than 0 failed
DONE = ("finished", "pruned")  # states of runs that need no more work


_claimed: dict[Path, FileLock] = {}


class Pruned(Exception):  # noqa: N818 -- it is not an error
    """Raised when the hyperparameter search stops a run early."""


@contextmanager
def recorded(folder: Path, **known: Any) -> Iterator[dict[str, Any]]:
    """Record a run in results.json, at the start and at the end of the block.

    Args:
        folder: the run folder.
        **known: facts that are known at the start.

    Yields:
        The content of results.json, to be filled. How the block ends sets `state` and `reason`.

    Raises:
        ZooError: another job runs in the folder, or it cannot be written.
    """
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
    """Lock a run folder until `release`, or until the end of this process.

    Args:
        folder: the run folder; it is created if necessary.

    Raises:
        ZooError: another job has locked it, or it cannot be written.
    """
    if folder in _claimed:
        return
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ZooError(f"hydra.run.dir={folder}: another job is running in this folder; wait for it, or set another") from None
    except OSError as error:
        raise ZooError(f"hydra.run.dir={folder} cannot be written: {error.strerror}") from None
    _claimed[folder] = lock


def release(folder: Path) -> None:
    """Release the lock of a run folder, if this process has it."""
    if lock := _claimed.pop(folder, None):
        lock.release()


def check_free(folder: Path) -> None:
    """Check that a new training in `folder` would not overwrite checkpoints.

    Args:
        folder: the run folder.

    Raises:
        ZooError: the folder contains checkpoints.
    """
    if any(folder.glob("checkpoints/*.ckpt")):
        raise ZooError(
            f"hydra.run.dir={folder} already holds a run; resume it with ckpt=last, delete it, or set another folder"
        )


def record_failure(folder: Path, reason: str) -> None:
    """Record the failure of a job that is about to be killed."""
    _write(folder, {**read_results(folder), "state": "failed", "reason": reason})


def ending(error: BaseException | None) -> tuple[str, str | None]:
    """Return the final state of a run that ended with `error`, and the reason."""
    if error is None:
        return "finished", None
    if isinstance(error, Pruned):
        return "pruned", str(error)
    if isinstance(error, Exception):
        return "failed", reason_of(error)
    return "interrupted", None  # KeyboardInterrupt, or SystemExit, which Lightning raises after Ctrl-C and SIGTERM


def read_results(folder: Path) -> dict[str, Any]:
    """Return the content of results.json; an empty dict if the run never started."""
    path = folder / RESULTS
    return json.loads(path.read_text()) if path.exists() else {}


def is_interrupted(folder: Path) -> bool:
    """Return whether a run was started in a folder and is neither finished nor pruned."""
    return read_results(folder).get("state", "finished") not in DONE


def reason_of(error: BaseException) -> str:
    """Return an error as one line without secrets; errors other than ZooError with their type, cut to 500 characters."""
    text = redacted(one_line(error))
    return text if isinstance(error, ZooError) else f"{type(error).__name__}: {text}"[:500]


def commit_of_the_code() -> str | None:
    """Return the git commit of this package, with `+` if files were changed; None if it is not in a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # an installed package may be inside another project's checkout
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=True, timeout=10)
        described = [*git, "describe", "--always", "--abbrev=12", "--dirty=+", "--match="]
        return subprocess.run(described, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping: ``{"a": {"b": 1}}`` → ``{"a.b": 1}``. Lists and empty mappings stay values.

    Args:
        config: the nested mapping.
        prefix: prefix of every key.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _write(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / RESULTS) as temporary:  # others read it during the run
        temporary.write_text(json.dumps(redacted(results), indent=1))
