"""The commands and Python snippets of the README and the documentation: known options, and blocks that run in smoke size."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
from conftest import ROOT

from inception_zoo.cli.main import app
from inception_zoo.config.hydra_patches import install
from inception_zoo.config.unknown_keys import wrong_overrides

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(bash|python)( no-run)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
LIGHT = ("--cfg", "--help", "--info", "sweep.resume", "trainer=smoke")  # what a command needs no smaller size for


def blocks_of(page):
    """Return (language, whether it runs here, text) of each block."""
    return [(found[1], not found[2], found[3].replace("\\\n", " ")) for found in BLOCK.finditer(page.read_text("utf-8"))]


def commands_of(page):
    lines = (line for language, _, text in blocks_of(page) if language == "bash" for line in text.splitlines())
    every = (shlex.split(line, comments=True) for line in lines)
    return [words[: words.index("|")] if "|" in words else words for words in every if words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_has_known_options(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    install()
    command = typer.main.get_command(app)
    for words in commands_of(page):
        if words[:2] in (["python", "run.py"], ["inception-zoo", "run"]) and "--config-dir" not in words:
            assert wrong_overrides([word.replace("…", "x") for word in words[2:]]) == [], words
        elif words[0] == "inception-zoo" and "--help" not in words and "--install-completion" not in words:
            name, *arguments = words[1:]
            found = command.commands[name]
            if name == "data":
                found, arguments = found.commands[arguments[0]], arguments[1:]
            found.make_context(name, arguments)  # which fails at an unknown option


def test_blocks_are_found():
    assert ("python", True) in [block[:2] for block in blocks_of(ROOT / "README.md")]
    assert sum(runs for page in PAGES for _, runs, _ in blocks_of(page)) > 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block[1] for block in blocks_of(page))], ids=lambda page: page.stem
)
def test_the_blocks_of_a_page_run(page, tmp_path):
    (tmp_path / "run.py").symlink_to(ROOT / "run.py")
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "bin").mkdir()
    for name, command in {"python": "", "inception-zoo": "-m inception_zoo.cli"}.items():
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
        script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
    }
    for number, (language, runs, text) in enumerate(blocks_of(page)):
        if runs:
            words = ["bash", "-euo", "pipefail", "-c", smaller(text)] if language == "bash" else [sys.executable, "-c", text]
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, (number, text, done.stdout[-1000:], done.stderr[-2000:])


def smaller(text):
    """Add `trainer=smoke` to the jobs that would take minutes."""
    lines = []
    for line in text.splitlines():
        command, mark, comment = line.partition(" #")
        is_job = command.lstrip().startswith(("python run.py", "inception-zoo run"))
        lines.append(
            f"{command} trainer=smoke{mark}{comment}" if is_job and not any(each in command for each in LIGHT) else line
        )
    return "\n".join(lines)
