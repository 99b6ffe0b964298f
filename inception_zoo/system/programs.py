"""The programs that this package calls: git and a compiler, without what a repository or a variable could let them run."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_DROPPED = ("GIT_", "LD_PRELOAD", "LD_AUDIT", "GCC_EXEC_PREFIX", "COMPILER_PATH")  # variables that let a program run others
_GIT = {  # a repository may come from anybody, and its own config names programs
    **{"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0"},
    **{"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"},
}


def find_program(*names: str) -> str | None:
    """Return the absolute path of the first program that exists; an entry of PATH that depends on the folder is not used."""
    return next((path for name in names if (path := shutil.which(name)) and Path(path).is_absolute()), None)


def run_program(words: Sequence[str | Path], seconds: float | None = None, **own: str) -> str:
    """Run a program and return its output.

    Args:
        words: The program and its arguments.
        seconds: Time limit.
        own: Variables for its environment.

    Raises:
        OSError: The program does not exist.
        subprocess.SubprocessError: It failed, or took too long.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)} | own
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "check": True}
    return subprocess.run(words, env=variables, timeout=seconds, **quiet).stdout.strip()


def git(folder: Path, config: Mapping[str, str], *words: str) -> str:
    """Run git in a folder, with `config` in place of what the repository says, and return its output. Raises as above."""
    path = find_program("git")
    if path is None:
        raise FileNotFoundError("git")
    numbered = {"GIT_CONFIG_COUNT": str(len(config))}
    for number, (key, value) in enumerate(config.items()):
        numbered |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return run_program([path, "--no-pager", "-C", folder, *words], 10, **_GIT, **numbered)


def commit_of(folder: Path, file: str) -> str:
    """Return the commit of the checkout that has `file` of `folder` in it, with `+` if files were changed.

    Raises:
        OSError: There is no git.
        subprocess.SubprocessError: The file is not part of a checkout.
    """
    # no program of the repository is called, so that its owner does not matter: in a container it is often another user
    usual = {"core.fsmonitor": "false", "core.hooksPath": os.devnull, "safe.directory": "*"}
    names = git(folder, usual, "config", "--name-only", "--list").splitlines()
    filters = {name: "false" if name.endswith(".required") else "" for name in names if name.startswith("filter.")}
    config = usual | filters  # a filter would run to compare a file
    git(folder, config, "ls-files", "--error-unmatch", file)  # a package may be inside another project's checkout
    changes = git(folder, config, "diff", "--name-only", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "HEAD")
    return git(folder, config, "rev-parse", "--short=12", "HEAD") + "+" * bool(changes)
