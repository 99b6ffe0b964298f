"""The file results.json of a run: facts, results and state, from the start of the run to its end."""

import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from inception_zoo.errors import ZooError, did_you_mean, one_line, origin_of, shown
from inception_zoo.redaction import redacted
from inception_zoo.runs.folders import claim, claim_first, claim_new, is_new, keep, quoted, release
from inception_zoo.system.atomic_files import write_whole
from inception_zoo.system.programs import commit_of
from inception_zoo.system.ranks import agreed, by_torchrun, is_elastic, is_first
from inception_zoo.system.records import read_json, write_json
from inception_zoo.system.terminal import asked, is_closed_output

RESULTS = "results.json"
SWEEP = "sweep.json"  # in the folder of a sweep
CHECKPOINTS = ("last.ckpt", "previous.ckpt", "best.ckpt")  # in the order in which a run resumes from them
REASON = "INCEPTION_ZOO_REASON"  # environment variable: file for the reason why another rank than 0 failed
STATES = ("finished", "running", "failed", "interrupted", "pruned")
DONE = ("finished", "pruned")  # states of runs that need no more work
# Keys in results.json; those with a `/` are numbers, too:
TEXTS = ("reason", "started", "model", "swapped", "monitor", "mode", "tested")
NUMBERS = ("minutes", "earlier_minutes", "parameters", "multiply_adds", "image_size")
warn = cache(logging.getLogger(__name__).warning)  # once


class Pruned(Exception):  # noqa: N818 -- it is not an error
    """Raised when the hyperparameter search stops a run early."""


@contextmanager
def recorded(folder: Path, **known: Any) -> Iterator[dict[str, Any]]:
    """Record a run in results.json at the end of the block; `begin` records its start.

    Args:
        folder: the run folder.
        **known: facts that are known at the start.

    Yields:
        The content of results.json, to be filled. How the block ends sets `state` and `reason`. The record of a finished run
        stays if an attempt to resume it fails before `begin`.

    Raises:
        ZooError: another job runs in the folder, or it cannot be written.
    """
    writes = is_first()
    if writes:
        claim(folder)
    before = read_results(folder)
    results: dict[str, Any] = {"started": datetime.now().astimezone().isoformat(timespec="seconds"), **known}
    end: BaseException | None = None
    try:
        yield results
    except Pruned as pruned:
        end = pruned
    except BaseException as error:
        end = error
        raise
    finally:
        begun = "state" in results
        results["state"], results["reason"] = ending(end)
        results["minutes"] = minutes_of(results)
        if writes and begun and not folder.is_dir():
            release(folder)
            raise ZooError(f"hydra.run.dir={folder}: the run folder was deleted during the run; start the run again") from end
        if writes:
            if begun or before.get("state") not in DONE:
                outcome = {key: results[key] for key in ("state", "reason")}
                _write(folder, results if begun else {**results, **before, **outcome})
            release(folder)
        elif place := os.environ.get(REASON):
            write_whole(Path(place), results["reason"] or "")


def begin(folder: Path, results: dict[str, Any]) -> None:
    """Record that the training or test of a run starts: from now on its folder is kept."""
    results |= {"state": "running", "reason": None}
    if is_first():
        keep()
        _write(folder, results)


def minutes_of(results: Mapping[str, Any]) -> float:
    """Return the run time in minutes until now, with the parts before the run was resumed (`earlier_minutes`)."""
    now = datetime.now().astimezone() - datetime.fromisoformat(results["started"])
    return results.get("earlier_minutes", 0.0) + now.total_seconds() / 60


def best_of(results: Mapping[str, Any]) -> float | None:
    """Return the best value of the metric that selected the run's best checkpoint; None without one."""
    return results.get(best_key(results))


def best_key(results: Mapping[str, Any]) -> str:
    """Return the name of the best value in results.json. Results of older versions do not name the metric."""
    return f"{results.get('monitor', 'val/top1')}_best"


def evaluated_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that a run tested, or its best one if it was not tested; None without such a checkpoint.

    Raises:
        ZooError: the tested checkpoint was deleted.
    """
    tested = read_results(folder).get("tested", "")
    path = folder / (tested or "checkpoints/best.ckpt")
    if tested and not path.is_file():
        raise ZooError(f"{path} is missing, the checkpoint that the run tested (results.json); name another file")
    return path if tested is not None and path.is_file() else None


def claim_folder(cfg: DictConfig, kind: str) -> None:
    """Claim the folder of this command. A default name is made unique; a folder named on the command line may exist.

    Args:
        cfg: the composed config; receives the name.
        kind: `run`, or `sweep`.

    Raises:
        ZooError: the folder is used by a running job, or by another run or sweep; or it cannot be written.
    """
    key, hydra = f"hydra.{kind}.dir", cfg.hydra
    folder = Path(str(hydra[kind].dir))
    is_named = any(word.startswith(f"{key}=") for word in hydra.overrides.hydra)
    layout = str(OmegaConf.to_container(hydra[kind], resolve=False)["dir"])  # type: ignore[call-overload,index]
    if is_named or "zoo.now" not in layout:  # a name with the time is the default of conf/config.yaml
        if is_first():
            claim_first(folder, key)
        if kind == "run" and cfg.task == "fit" and (is_elastic() or (by_torchrun() and cfg.trainer.num_nodes == "auto")):
            left = is_first() and is_interrupted(folder) and has_checkpoint(folder)
            cfg.ckpt = "last" if agreed("restarted", str(left)) == "True" else cfg.ckpt  # torchrun has restarted it
        if is_first():
            if kind == "run":
                check_free(folder, cfg.task, cfg.ckpt)
            elif (folder / ".hydra").is_dir():
                raise ZooError(f"hydra.sweep.dir={folder} already holds a run; set another folder")
        return
    if kind == "run" and is_elastic():
        raise ZooError(f"torchrun --max-restarts needs {key}=FOLDER; otherwise a restarted job begins anew in another folder")
    unique = agreed(key, str(claim_new(folder, key)) if is_first() else str(folder))
    if unique != str(folder):
        with read_write(hydra), open_dict(hydra):
            hydra[kind].dir = unique
            hydra.overrides.hydra.append(f"{key}={quoted(Path(unique))}")  # a job of a sweep composes its config again


def has_checkpoint(folder: Path) -> bool:
    """Return True if a run folder has a checkpoint from which its training can be resumed."""
    return any((folder / "checkpoints" / name).exists() for name in CHECKPOINTS)


def check_free(folder: Path, task: str, ckpt: str | None) -> None:
    """Check that a single job would not overwrite another run, or write into a sweep.

    Args:
        folder: the run folder.
        task: the config key. Only a training may continue in a used folder.
        ckpt: the config key. The training must resume from the folder's own checkpoint.

    Raises:
        ZooError: the folder is used.
    """
    if (folder / SWEEP).exists():
        raise ZooError(f"hydra.run.dir={folder} already holds a sweep; set another folder")
    own = ckpt == "last" or (ckpt is not None and Path(ckpt).resolve().is_relative_to(folder.resolve()))
    if task == "fit" and own:
        return
    if any(folder.glob("checkpoints/*.ckpt")) or checked_results(folder).get("state") in DONE:
        resume = "resume it with ckpt=last, delete it, or " if task == "fit" else ""
        raise ZooError(f"hydra.run.dir={folder} already holds a run; {resume}set another folder")


def record_end(folder: Path, reason: str, state: str = "failed") -> None:
    """Record the end of a job that is about to be killed."""
    _write(folder, {**read_results(folder), "state": state, "reason": reason})


def ending(error: BaseException | None) -> tuple[str, str | None]:
    """Return the final state of a run that ended with `error`, and the reason."""
    if error is None:
        return "finished", None
    if is_closed_output(error):
        return "interrupted", "the output was closed (broken pipe)"
    if isinstance(error, Pruned):
        return "pruned", str(error)
    if isinstance(error, Exception):
        # another error after a signal is its consequence, such as a lost connection to a rank that it has ended, too
        return "failed" if isinstance(error, ZooError) or not asked() else "interrupted", reason_of(error)
    return "interrupted", None  # SystemExit, after a signal; KeyboardInterrupt in a worker of a launcher


def read_results(folder: Path) -> dict[str, Any]:
    """Return the content of results.json; an empty dict if the run never started. A damaged file means an interrupted run."""
    try:
        return checked_results(folder)
    except ZooError as error:
        warn(f"{error}; the run counts as interrupted")
        return {"state": "interrupted", "reason": f"{RESULTS} is damaged"}


def checked_results(folder: Path) -> dict[str, Any]:
    """Return the content of results.json; an empty dict if it does not exist.

    Raises:
        ZooError: the file is damaged, or a value has the wrong type.
    """
    results = read_json(path := folder / RESULTS, {})
    for key, value in results.items():
        kind = str if key in TEXTS else int | float if "/" in key or key in NUMBERS else object
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not object)):
            raise ZooError(f"{path}: {key}={shown(value)} must be {'text' if kind is str else 'a number'}")
    if (state := results.get("state", STATES[0])) not in STATES:
        raise ZooError(f"{path}: state={state} is unknown; {did_you_mean(state, STATES)}")
    return {key: value for key, value in results.items() if value is not None or key in TEXTS}


def is_interrupted(folder: Path, single: bool = False) -> bool:
    """Return whether a run was started in a folder and is neither finished nor pruned.

    Args:
        folder: the run folder.
        single: not a job of a sweep. An earlier folder without results.json is then that of a run that was killed at its start.
    """
    if single and folder.is_dir() and not (folder / RESULTS).exists():
        return not is_new(folder)
    return read_results(folder).get("state", "finished") not in DONE


def reason_of(error: Exception) -> str:
    """Return an error as one line without secrets; errors other than ZooError with their type, cut to 500 characters."""
    error = origin_of(error)
    text = redacted(one_line(error) if isinstance(error, ZooError) else f"{type(error).__name__}: {one_line(error)}")
    return text if isinstance(error, ZooError) or len(text) <= 500 else f"{text[:499]}…"


def commit_of_the_code() -> str | None:
    """Return the git commit of this package, with `+` if files were changed; None if it is not in a checkout."""
    try:
        return commit_of(Path(__file__).parent, "__init__.py")
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
    write_json(folder / RESULTS, redacted(results))  # others read it during the run
