"""A process that has imported torch, Lightning and W&B, and is forked for each `python …` that the tests ask for.

Each line of standard input is a command (see `become`); the answer, a line too, is its exit status, as subprocess has it.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path

LOADED = ("inception_zoo.training.job", "sklearn.datasets", "wandb.sdk.launch")  # the last is what a run of W&B loads late


def awaited():
    """The next command, in a fork of this process; this process waits for its end, and then for another."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def become(words, folder, environment, files, timeout):
    """What `python WORDS` is: with its environment, its folder and its files; words are a script's, or `-m MODULE` and more."""
    signal.alarm(timeout)
    tempfile.tempdir = None  # to be looked up in this environment
    for made in MADE:
        made.mkdir(exist_ok=True)  # an earlier fork has removed it as it ended
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        file = os.open(f"{files}/{name}", os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY)
        os.dup2(file, number)
        os.close(file)
    if words[0] == "-m":
        sys.path[0], sys.argv = str(folder), words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(words[0]).parent), words
        runpy.run_path(words[0], run_name="__main__")


sys.path[0] = str(Path(__file__).resolve().parents[2])
for name in LOADED:
    importlib.import_module(name)
MADE = list(Path(tempfile.gettempdir()).iterdir())  # W&B's folders for pictures and the like
gc.freeze()
become(**awaited())
