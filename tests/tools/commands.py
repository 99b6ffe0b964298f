"""Run commands as `python ...` would, in forks of one server process that has already imported torch, Lightning and W&B."""

import atexit
import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cloudpickle

PRELOADED = [
    *("inception_zoo.app", "inception_zoo.training.job", "inception_zoo.cli.main", "sklearn.datasets"),
    "wandb.sdk.launch",  # a W&B run imports it late
]
MEDIA = "wandb.sdk.data_types._private"  # at import, W&B creates a temporary folder that it removes as the process ends


def environment(changes: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """Return this process's environment without settings of W&B, Hydra and Lightning, with `changes`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "HYDRA", "PL_"))}
    return {**inherited, "COLUMNS": "200", **dict(changes)}


AT_IMPORT = environment()


def run(
    words: Sequence[Any],
    folder: Path,
    env: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    stdin: str = "",
    timeout: float = 300,
    fresh: bool = False,
    main: Callable[[], Any] | None = None,
) -> subprocess.CompletedProcess:
    """Run `python WORDS` in `folder`.

    Without `fresh` the command runs in a fork of the server, which saves the time of imports. A fork would behave differently
    with another PYTHONPATH, or if `words` is neither a script nor a module; then the command runs in a new process.

    Args:
        words: a script or `-m MODULE`, and its arguments; with `main`, the whole `sys.argv`.
        folder: the working directory.
        env: changes to the environment.
        stdin: text on standard input.
        timeout: seconds.
        fresh: start a new Python process, as a shell does.
        main: a function to call instead of a script.

    Raises:
        subprocess.TimeoutExpired: the command was killed at the time limit.
    """
    words, variables = list(map(str, words)), environment(env)
    forks = main is not None or words[0] == "-m" or words[0].endswith(".py")
    with tempfile.TemporaryDirectory() as files:
        # Files, not pipes: a pipe would wait for every process that the command left behind.
        given, *outputs = (Path(files, name) for name in ("stdin", "stdout", "stderr"))
        given.write_text(stdin)
        if fresh or "PYTHONPATH" in dict(env) or not forks:
            with given.open() as read, outputs[0].open("w") as out, outputs[1].open("w") as err:
                streams = {"stdin": read, "stdout": out, "stderr": err}
                command = [sys.executable, *words]
                status = subprocess.run(command, cwd=folder, env=variables, timeout=timeout, **streams).returncode
        else:
            status = _ended(_start(words, folder, variables, (given, *outputs), main), timeout)
        return subprocess.CompletedProcess(words, status, *(path.read_text() for path in outputs))


@contextmanager
def started(
    words: Sequence[Any], folder: Path, log: Path, timeout: float = 300, main: Callable[[], Any] | None = None
) -> Iterator[BaseProcess]:
    """Start `python WORDS` in a fork with its own process group; wait until it ends, or kill it after an error.

    Both outputs are appended to `log`. `main` is called instead of a script, as in `run`.
    """
    words = list(map(str, words))
    process = _start(words, folder, environment(), (Path(os.devnull), log, log), main, leads=True)
    try:
        yield process
        _ended(process, timeout)
    finally:
        process.kill()
        process.join()


def _start(
    words: list[str],
    folder: Path,
    variables: Mapping[str, str],
    streams: Sequence[Path],
    main: Callable[[], Any] | None = None,
    leads: bool = False,
) -> BaseProcess:
    arguments = (words, cloudpickle.dumps(main), str(folder), variables, list(map(str, streams)), _path(), leads)
    process = _server().Process(target=_become, args=arguments, name="MainProcess", daemon=False)
    process.start()
    return process


def _ended(process: BaseProcess, timeout: float) -> int:
    """Return the exit status; kill the process at the time limit."""
    try:
        process.join(timeout)
        if process.exitcode is None:
            raise subprocess.TimeoutExpired("python", timeout)
        return process.exitcode
    finally:
        process.kill()
        process.join()


@cache
def _server() -> Any:
    """Start the server, in a clean environment; it ends with this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with patch.dict(os.environ, AT_IMPORT, clear=True):  # a test may have changed the number of threads, for example
        forkserver.ensure_running()
    return context


@cache
def _path() -> list[str]:
    """Return `sys.path` of `python SCRIPT`, without the script's folder: pytest adds the tests' folders to its own."""
    command = [sys.executable, "-c", r"import sys; print(*sys.path[1:], sep='\n')"]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout.splitlines()


def _become(
    words: list[str],
    main: bytes,
    folder: str,
    variables: Mapping[str, str],
    streams: Sequence[str],
    path: Sequence[str],
    leads: bool,
) -> None:
    """Turn this fork into `python WORDS`, and end as the interpreter does."""
    if leads:
        os.setsid()
    call = cloudpickle.loads(main)
    multiprocessing.set_start_method(None, force=True)  # the platform's default, not the server's
    multiprocessing.process._parent_process = None
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    for number, name in enumerate(streams):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (multiprocessing has replaced it)
    tempfile.tempdir = None  # look it up again, in this environment
    importlib.import_module(MEDIA).MEDIA_TMP.name = tempfile.mkdtemp("wandb-media")  # the server removes its own folder
    try:
        if call:
            sys.path[:], sys.argv[:] = ["", *path], words
            call()
        elif words[0] == "-m":
            sys.path[:], sys.argv[:] = [folder, *path], words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path[:], sys.argv[:] = [str(Path(words[0]).parent), *path], words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        threading._shutdown()  # the interpreter waits for threads before it calls the exit functions
        atexit._run_exitfuncs()
