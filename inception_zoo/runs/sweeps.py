"""The folder of a sweep: the command that resumes it, the result tables and the progress."""

import logging
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_zoo.architecture.nets import ALIASES, ZOO
from inception_zoo.errors import ZooError
from inception_zoo.redaction import HIDDEN, redacted
from inception_zoo.runs.folders import keep, quoted
from inception_zoo.runs.folds import summarize
from inception_zoo.runs.results import DONE, SWEEP, best_key, best_of, read_results
from inception_zoo.system.csv_files import write_table
from inception_zoo.system.ranks import is_first
from inception_zoo.system.records import read_json, read_yaml, write_json
from inception_zoo.system.renamed import with_new_key
from inception_zoo.system.terminal import console, tell

if TYPE_CHECKING:
    from rich.table import Table

RESUME = "sweep.resume="
MOST = 10**6  # jobs of a sweep
UPDATE = 10.0  # seconds between updates of the result tables of a running sweep
NARROW = 100  # columns of a terminal that has no room for costs
COLUMNS = {  # name, format and unit of the results; the best validation value comes first
    "test/top1": ("test top-1", "{:.4f}", 1),
    "test/recall1": ("test recall@1", "{:.4f}", 1),
    "parameters": ("params, M", "{:.2f}", 1e6),
    "multiply_adds": ("mult-adds, M", "{:,.0f}", 1e6),
    "train/images_per_second": ("images/s", "{:,.0f}", 1),
    "minutes": ("min", "{:.1f}", 1),
}
_begun: list["_Sweep"] = []  # the sweep that this process runs
warn = cache(logging.getLogger(__name__).warning)  # once


def begin(folder: Path, jobs: Sequence[str], fails_again: bool = True) -> None:
    """Save the command line of a sweep, so that it can be resumed, and write its result tables while it runs.

    A sweeper calls this before it launches, and again if the jobs change.

    Args:
        folder: folder of the sweep.
        jobs: folder of each job, relative to `folder`.
        fails_again: whether a resumed sweep runs failed jobs again.
    """
    if not is_first():
        return
    if _begun and _begun[0].asked["jobs"] == [*jobs]:
        return
    folder.mkdir(parents=True, exist_ok=True)
    keep()
    asked = {"argv": redacted(sys.argv[1:]), "cwd": str(Path.cwd()), "jobs": list(jobs), "fails_again": fails_again}
    asked["began"] = _begun[0].asked["began"] if _begun else time.time()
    write_json(folder / SWEEP, asked)
    if _begun:
        _begun[0].asked = asked
    else:
        _begun.append(_Sweep(folder, asked))
        _begun[0].updating.start()


class _Sweep:
    """A sweep while it runs, and the thread that keeps its result tables up to date.

    Args:
        folder: folder of the sweep.
        asked: content of its sweep.json.
    """

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        self.folder, self.asked, self.ended = folder, asked, threading.Event()
        self.updating = threading.Thread(target=self._update, daemon=True)

    def jobs(self) -> list[dict[str, Any]]:
        """Return the results of its jobs that have started, see `jobs_of`."""
        names = {*self.asked["jobs"]}
        return [job for job in jobs_of(self.folder) if job["job"] in names]

    def _update(self) -> None:
        before: list[dict[str, Any]] = []
        taken = 0.0
        while not self.ended.wait(max(UPDATE, 20 * taken)):  # it takes longer to read thousands of jobs
            began = time.monotonic()
            with suppress(ZooError, OSError):  # `finish` reports a full disk
                if (jobs := self.jobs()) and jobs != before:
                    write_results(self.folder, jobs)
                    before = jobs
            taken = time.monotonic() - began


def resumed(words: Sequence[str]) -> list[str]:
    """Replace `sweep.resume=FOLDER` by the command line of the sweep in FOLDER.

    Args:
        words: arguments of the command line.

    Returns:
        The arguments of the sweep; without `sweep.resume`, the given arguments.

    Raises:
        ZooError: the folder holds no sweep; the sweep was started in another folder or with a secret; or other overrides
            were given beside `sweep.resume`.
    """
    folders = [Path(word.removeprefix(RESUME)).expanduser() for word in words if word.startswith(RESUME)]
    if not folders or folders[-1] == Path("null"):
        return list(words)
    folder = folders[-1]
    if not (folder / SWEEP).exists():
        raise ZooError(f"{RESUME}{folder}: there is no {SWEEP} in it; set the folder of a sweep, such as multirun/DATE/TIME")
    if beside := [word for word in words if not word.startswith(RESUME) and word not in ("-m", "--multirun")]:
        raise ZooError(f"{RESUME}{folder} resumes the sweep with its own overrides; leave {beside[0]} out")
    asked = _asked(folder)
    if asked["cwd"] != str(Path.cwd()) and Path(asked["cwd"]).is_dir():  # otherwise the project was moved
        there = shlex.join(["python", "run.py", "-m", f"{RESUME}{folder.absolute()}"])
        start = f"the sweep was started in {asked['cwd']}, to which its paths are relative"
        raise ZooError(f"{RESUME}{folder}: {start}; run: cd {shlex.quote(asked['cwd'])} && {there}")
    words = [word for word in asked["argv"] if not word.startswith("hydra.sweep.dir=")]
    if hidden := next((word for word in words if HIDDEN in word), None):
        raise ZooError(
            f"{RESUME}{folder}: '{hidden}' contained a secret, and secrets are not saved; repeat the whole command with "
            f"hydra.sweep.dir={folder}. In a new sweep, write '${{oc.env:NAME}}' instead of the secret"
        )
    # argparse requires that all overrides are adjacent
    first = next((i for i, word in enumerate(words) if "=" in word and not word.startswith("-")), len(words))
    return [*words[:first], f"hydra.sweep.dir={quoted(folder)}", *words[first:]]


def _asked(folder: Path) -> dict[str, Any]:
    """Return sweep.json, with the names of the jobs' folders; older versions recorded their number."""
    asked = read_json(path := folder / SWEEP, {})
    if isinstance(jobs := asked.get("jobs"), int) and jobs in range(MOST):
        asked["jobs"] = [str(number) for number in range(jobs)]
    lists = (asked.get("argv"), asked.get("jobs"))
    whole = all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in lists)
    cwd = asked.get("cwd")
    if not (whole and isinstance(cwd, str) and Path(cwd).is_absolute()):
        raise ZooError(f"{path} has no argv, cwd or jobs; repeat the whole command with hydra.sweep.dir={folder}")
    return asked


def finish(allowing: Callable[[str], str]) -> int:
    """Print and write the tables of the sweep that this process has run, if any.

    Args:
        allowing: adds the variable that allows what the user has allowed to the command that resumes the sweep.

    Returns:
        The exit status: 1 if a job did not finish, else 0.
    """
    if not _begun:
        return 0
    sweep = _begun.pop()
    sweep.ended.set()
    sweep.updating.join()
    folder, asked, jobs = sweep.folder, sweep.asked, sweep.jobs()
    if not asked["jobs"]:
        tell("the other sweeps have all trials of the study; nothing is left for this one")
        return 0
    if not jobs:  # a mistake in the overrides, reported already
        return 1
    write_results(folder, jobs)
    out = console(140)
    out.print(sweep_table(jobs, out.width))
    for line in summarize(folder, jobs):
        tell(line, stdout=True)
    left = len(asked["jobs"]) - sum(job["state"] in DONE for job in jobs)
    if left:
        again = left if asked["fails_again"] else left - sum(job["state"] == "failed" for job in jobs)
        how = f"; resume with: {allowing(f'python run.py -m {RESUME}{shlex.quote(str(folder))}')}" if again else ""
        tell(f"{left} of {len(asked['jobs'])} jobs did not finish{how}")
    tell(f"sweep folder: {folder}", stdout=True)
    return int(left > 0)


def jobs_of(folder: Path) -> list[dict[str, Any]]:
    """Return the results of the jobs of a sweep, with folder name (`job`) and `overrides`, sorted by the name."""
    found = sorted((path.parent for path in folder.glob("*/results.json")), key=lambda job: (len(job.name), job.name))
    usual = {"state": "finished"}
    return [{"job": job.name, "overrides": overrides_of(words_of(job) or ()), **usual, **read_results(job)} for job in found]


def words_of(folder: Path) -> list[str] | None:
    """Return the overrides of a run with current names of keys, without secrets; None if it has not started."""
    try:
        words = read_yaml(path := folder / ".hydra" / "overrides.yaml", [])
    except ZooError as error:
        warn(f"{error}; the run counts as not started")
        return None
    return redacted([*map(with_new_key, words)]) if words or path.exists() else None


def overrides_of(words: Iterable[str]) -> dict[str, str]:
    """Return overrides as a dict, without the keys `sweep.*`."""
    pairs = (word.partition("=") for word in words)
    return {key: value for key, _, value in pairs if not key.startswith("sweep.")}


def write_results(folder: Path, jobs: Sequence[dict[str, Any]]) -> None:
    """Write `results.json` and `results.csv` of a sweep, with overrides and results of each job."""
    write_json(folder / "results.json", jobs)
    rows = [{**{k: v for k, v in job.items() if k != "overrides"}, **job["overrides"]} for job in jobs]
    columns = dict.fromkeys(key for row in rows for key in row)
    write_table(folder / "results.csv", list(columns), ([row.get(key, "") for key in columns] for row in rows))


def sweep_table(jobs: Sequence[dict[str, Any]], width: int) -> "Table":
    """Return the result table of a sweep: network, block changes and overrides where they vary, results, and failures.

    Args:
        jobs: result of `jobs_of`.
        width: columns of the output. Overrides that do not fit beside the results share a column, with a line for each.
    """
    from rich import box
    from rich.table import Table

    models = [job.get("model") or job["overrides"].get("model", "") for job in jobs]
    files = [job["overrides"].get("model", "") for job in jobs]  # a file in conf/model is shown by its file name
    models = [name if name and name not in {*ZOO, *ALIASES} else model for name, model in zip(files, models, strict=True)]
    columns: dict[str, list[str]] = {"model": models, "block changes": [job.get("swapped") or "none" for job in jobs]}
    for key in dict.fromkeys(key for job in jobs for key in job["overrides"]):
        if key not in ("model", "block") and not key.startswith("model.blocks."):  # they have their own columns
            columns[key] = [_short(job["overrides"].get(key, "")) for job in jobs]
    columns = {key: words for key, words in columns.items() if len(set(words)) > 1 and not _by_name(key, words, columns)}
    last = [key.rpartition(".")[2] for key in columns]
    named = [name if last.count(name) == 1 else key for name, key in zip(last, columns, strict=True)]
    best = {best_key(job): job.get("monitor", "val/top1").replace("/", " ").replace("top1", "top-1") for job in jobs}
    figures = {key: (name, "{:.4f}", 1) for key, name in best.items()} | COLUMNS
    always = (*best, "test/top1", "test/recall1", "minutes")
    shown = [key for key in figures if len({job[key] for job in jobs if key in job}) > (key not in always)]
    if width < NARROW:  # results.csv has all of them
        shown = [key for key in shown if key in always]
    words = list(zip(*columns.values(), strict=True)) or [()] * len(jobs)
    states = [f"{job['state']}: {job['reason']}" if job.get("reason") else job["state"] for job in jobs]
    unusual = any(job["state"] != "finished" for job in jobs)
    texts = [[job["job"] for job in jobs], *([name, *cells] for name, cells in zip(named, columns.values(), strict=True))]
    needed = [max(map(len, each)) for each in texts] + [max(6, len(figures[key][0])) for key in shown] + [30] * unusual
    if sum(needed) + 3 * len(needed) > width:
        lines = [[f"{name}: {word}" for name, word in zip(named, row, strict=True) if word] for row in words]
        words = [("\n".join([*line, *([state] * unusual)]),) for line, state in zip(lines, states, strict=True)]
        named, unusual = ["overrides, state" if unusual else "overrides"], False
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("job", *named):
        table.add_column(name, overflow="fold")
    for key in shown:
        table.add_column(figures[key][0], justify="right", no_wrap=True)
    if unusual:
        table.add_column("state", overflow="fold", min_width=30)
    for job, row, state in zip(jobs, words, states, strict=True):
        cells = [figures[key][1].format(job[key] / figures[key][2]) if key in job else "" for key in shown]
        table.add_row(job["job"], *row, *cells, *([state] * unusual))
    return table


def _by_name(key: str, words: Sequence[str], columns: Mapping[str, Sequence[str]]) -> bool:
    """Return True if runs share names, and an override has one value in all runs of a name, which then stands for it."""
    names = columns.get("run_name", ())
    return key != "run_name" and len({*names}) < len(names) and len({*zip(names, words, strict=True)}) == len({*names})


def _short(word: str) -> str:
    """Round a long number to four digits; return other values unchanged."""
    try:
        return f"{float(word):.4g}" if len(word) > 6 else word
    except ValueError:
        return word


def progress(run_folder: Path) -> str | None:
    """Return job number, best validation top-1 so far and remaining time of a sweep; None if the run is not part of one."""
    folder = run_folder.parent
    try:
        asked = _asked(folder) if (folder / SWEEP).exists() else {"jobs": []}
    except ZooError as error:  # not a reason to end a job
        return str(error)
    if run_folder.name not in (jobs := asked["jobs"]):
        return None
    begun = asked.get("began")
    if not isinstance(begun, float):  # an older version
        begun = (folder / SWEEP).stat().st_mtime
    others = [path for path in folder.glob("*/results.json") if path.parent != run_folder]
    done = {path: found for path in others if (found := read_results(path.parent)).get("state") in DONE}
    parts = [f"job {jobs.index(run_folder.name) + 1}/{len(jobs)}"]
    known = {(found.get("monitor", "val/top1"), found.get("mode")) for found in done.values() if best_of(found) is not None}
    if len(known) == 1:  # else the values cannot be compared
        ((name, mode),) = known
        values = [value for found in done.values() if (value := best_of(found)) is not None]
        best = min(values) if mode == "min" else max(values)
        parts.append(f"best {'val' if name == 'val/top1' else name} {best:.4f}")
    if lately := sum(path.stat().st_mtime > begun for path in done):  # ended since the sweep was started or resumed
        left = (time.time() - begun) / 60 / lately * (len(jobs) - len(done))
        parts.append(f"{left:.0f} min left" if left >= 1 else "<1 min left")
    return ", ".join(parts)
