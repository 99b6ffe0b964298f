"""Kill points: kill a command at each change of a file in its output folder, check the folder, and run the command again.

`faults_site/kill_hook.py` counts the changes: files that are created, truncated, renamed or removed. At a point the whole
process is killed: a new file is empty then, and another change is not made. Then every file with a final name must be whole,
and a file that was there before must be the earlier or the new one. The same command again must succeed, and end as an
undisturbed one: the same files with the same contents, and no others. `make test-faults FAULTS=--kill-points` runs at most
60 points of each command, and `--write` writes docs/faults.md.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import onnx
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))

from tools import commands  # noqa: E402 -- a script's folder is the only one on sys.path

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the server of `commands` cannot import this module

PAGE, HEADING = ROOT / "docs" / "faults.md", "## Kill points"
MOST = 60  # points of a command
TRAINING = [
    *(
        "task=fit",
        "data=digits",
        "data.image_size=32",
        "data.batch_size=32",
        "data.eval_batch_size=64",
        "trainer.accelerator=cpu",
    ),
    *(
        "model.width=0.25",
        "model.stem=medium",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=4",
        "trainer.log_every_n_steps=1",
    ),
    *(
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1",
        "trainer.precision=32-true",
        "callbacks.last.every_n_steps=2",
    ),
    *("logger=csv", "logger.csv.flush_logs_every_n_steps=1"),
]
OF_THE_MACHINE = re.compile(
    "images_per_second|peak_memory_gib|minutes|started|config_sha256|commit"
)  # columns that equal runs need not share
OPTIONAL = ("previous.ckpt", ".lock")  # files that a resumed run need not have
CLI = ("-m", "inception_zoo.cli")


@dataclass(frozen=True)
class Command:
    """A command that writes below the folder `out` of its working directory.

    Attributes:
        words: the command; `INPUTS` is the folder with two runs and with images.
        again: the command that is run after the kill; default: the same.
        once: file that is there as soon as the output is whole, if the command does not replace it: it ends with status 2 then.
        earlier: the command that wrote the earlier version of the output, if there is one.
    """

    words: Sequence[str]
    again: Callable[[Path, Sequence[str]], Sequence[str]] = lambda folder, words: words
    once: str = ""
    earlier: Sequence[str] = ()


def _resumed_fit(folder: Path, words: Sequence[str]) -> Sequence[str]:
    return [*words, "ckpt=last"] if (folder / "out/run").exists() else words


def _resumed_sweep(folder: Path, words: Sequence[str]) -> Sequence[str]:
    began = (folder / "out/sweep/sweep.json").exists()
    return [words[0], "-m", "sweep.resume=out/sweep"] if began else words


def _written(name: str, *options: str, earlier: Sequence[str] = ()) -> Command:
    """Return a command with the output `out/NAME`, whose earlier version comes from the other run, or from other options."""
    verb = options[0]
    one, other = (f"INPUTS/sweep/{job}" for job in range(2))
    before = earlier or (verb, other, f"out/{name}")
    return Command((*CLI, verb, one, f"out/{name}", *options[1:]), earlier=(*CLI, *before))


RUN = str(ROOT / "run.py")
COMMANDS = {
    "fit": Command((RUN, *TRAINING, "hydra.run.dir=out/run"), _resumed_fit),
    "sweep.resume": Command(
        (RUN, "-m", *TRAINING, "trainer.max_epochs=1", "seed=1,2", "hydra.sweep.dir=out/sweep"), _resumed_sweep
    ),
    "export .onnx": _written("net.onnx", "export"),
    "export --int8": _written("net.onnx", "export", "--int8", "--calibration-images=16"),
    "export .pt2": _written("net.pt2", "export"),
    "convert": _written("net.safetensors", "convert", "--overwrite"),
    "report": Command(
        (*CLI, "report", "INPUTS/sweep", "--out=out/report.html"),
        earlier=(*CLI, "report", "INPUTS/sweep/0", "--out=out/report.html"),
    ),
    "data optimize": Command(
        (*CLI, "data", "optimize", "INPUTS/images", "out/chunks", "--chunk-size=20KB"),
        once="chunks/classes.json",
    ),
}


# Files


def content(path: Path) -> Any:
    """Return what must be equal in the file of another run: a digest, or rows. Raise any exception if the file is not whole."""
    match path.suffix:
        case ".ckpt":
            return _tensors(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
        case ".safetensors":
            return _tensors(load_file(path))
        case ".pt2":
            return _tensors(torch.export.load(path).state_dict)
        case ".onnx":
            onnx.checker.check_model(graph := onnx.load(path))
            return _digest(b"".join(weights.SerializeToString() for weights in graph.graph.initializer))
        case ".json":
            found = json.loads(path.read_text())
            if path.name == "results.json":  # of a run, or of the jobs of a sweep
                jobs = found if isinstance(found, list) else [found]
                return {
                    f"{number} {key}": value
                    for number, job in enumerate(jobs)
                    for key, value in job.items()
                    if key.startswith(("val", "test")) or key == "state"
                }
            others = (
                "updated_at",
                "cwd",
                "argv",
            )  # in LitData's index.json; in sweep.json, where a resumed one names its folder in full
            return {key: value for key, value in found.items() if key not in others} if isinstance(found, dict) else found
        case ".csv":
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            assert all(None not in (*row, *row.values()) for row in rows), "an incomplete row"
            return [{key: value for key, value in row.items() if not OF_THE_MACHINE.search(key)} for row in rows]
        case ".png":
            with Image.open(path) as image:
                return _digest(np.asarray(image).tobytes())
        case ".html":
            text = path.read_text()
            assert text.rstrip().endswith("</html>"), "cut off"
            return _digest(re.sub(r"\d{4}-\d\d-\d\d|\d\d:\d\d(:\d\d)?", "", text).encode())  # without the time
        case ".yaml":
            assert yaml.safe_load(path.read_text()) is not None, "empty"
            return None
        case ".log":
            return None
    return _digest(path.read_bytes())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tensors(weights: Mapping[str, Any]) -> str:
    tensors = {key: value for key, value in sorted(weights.items()) if isinstance(value, torch.Tensor)}
    assert tensors, "no weights"
    return _digest(b"".join(key.encode() + value.detach().contiguous().numpy().tobytes() for key, value in tensors.items()))


def contents(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the content of every file in a folder, by name, and an error for each file that is not whole."""
    found, faults = {}, []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name in OPTIONAL or _is_temporary(name):
            continue
        try:
            found[name] = content(path)
        except Exception as error:
            faults.append(f"{name} ({path.stat().st_size} bytes): {type(error).__name__}: {str(error).splitlines()[:1]}")
    return found, faults


def _is_temporary(name: str) -> bool:
    return any((part.startswith(".") and part not in (".", ".hydra")) or ".partial-" in part for part in name.split("/"))


def left_in(folder: Path) -> list[str]:
    """Return the temporary files and folders in a folder."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.name not in OPTIONAL]
    return [path.as_posix() for path in paths if _is_temporary(path.as_posix()) and not _is_temporary(path.parent.as_posix())]


# Points


@dataclass(frozen=True)
class Verdict:
    """Outcome of a point: the faults of the folder after the kill, and after the same command again."""

    number: int
    event: str
    lost: Sequence[str] = ()  # files that were there before
    half: Sequence[str] = ()  # files with a final name that are not whole
    wrong: Sequence[str] = ()  # after the command was run again

    @property
    def faults(self) -> list[str]:
        return [
            *(f"lost after the kill: {name}" for name in self.lost),
            *(f"half after the kill: {name}" for name in self.half),
            *self.wrong,
        ]


@dataclass
class Bench:
    """Folder of all commands, with the inputs that they share."""

    folder: Path
    references: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> Path:
        """Two small runs, and a folder of images."""
        made = self.folder / "inputs"
        made.mkdir()
        words = [RUN, "-m", *TRAINING, "trainer.max_epochs=1", "seed=1,2", f"hydra.sweep.dir={made}/sweep"]
        done = commands.run(words, made)
        assert not done.returncode, done.stderr
        generator = np.random.default_rng(0)
        for place in ("train/cat", "train/dog", "val/cat", "val/dog"):
            (made / "images" / place).mkdir(parents=True)
            for number in range(6):
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(made / "images" / place / f"{number}.png")
        return made

    def start(self, name: str, at: str) -> Path:
        """Return a new folder for a command, with the earlier version of its output."""
        folder = self.folder / re.sub(r"\W+", "_", name) / at
        if at != "earlier" and COMMANDS[name].earlier:
            shutil.copytree(folder.with_name("earlier"), folder)
        else:
            (folder / "out").mkdir(parents=True)
        return folder

    def run(self, folder: Path, words: Sequence[str], number: int = 0, listing: Path | None = None) -> int | None:
        """Run a command in a folder and return its exit status; kill it before the event with this number."""
        words = [word.replace("INPUTS", str(self.inputs)) for word in words]
        main = _hooked(words, folder / "out", number, listing)
        with commands.started(words, folder, folder / "said.txt", main=main) as process:
            pass
        return process.exitcode

    def reference(self, name: str) -> list[str]:
        """Run a command undisturbed, keep its outcome, and return its events."""
        command = COMMANDS[name]
        before: dict[str, Any] = {}
        if command.earlier:
            folder = self.start(name, "earlier")
            assert self.run(folder, command.earlier) == 0, (folder / "said.txt").read_text()
            before = contents(folder / "out")[0]
        folder = self.start(name, "reference")
        listing = folder / "events.txt"
        assert self.run(folder, command.words, listing=listing) == 0, (folder / "said.txt").read_text()
        after, faults = contents(folder / "out")
        assert not faults and not left_in(folder / "out"), (faults, left_in(folder / "out"))
        assert all(after[file] != before[file] for file in before), "the earlier files are equal to the new ones"
        events = listing.read_text().splitlines() if listing.exists() else []
        self.references[name] = before, after, events
        return events

    def judge(self, name: str, number: int) -> Verdict:
        """Kill a command at a point, check its folder, and run it again."""
        command, (before, after, events) = COMMANDS[name], self.references[name]
        folder = self.start(name, str(number))
        out = folder / "out"
        status = self.run(folder, command.words, number)
        found, half = contents(out)
        lost = [file for file in before if file not in found or found[file] not in (before[file], after[file])]
        lost = [file for file in lost if not any(fault.startswith(f"{file} ") for fault in half)]
        wrong = [] if status == -9 else [f"exit status {status} instead of a kill"]
        right = 2 if command.once and (out / command.once).exists() else 0
        status = self.run(folder, command.again(folder, command.words))
        if status != right:
            said = (folder / "said.txt").read_text().strip().splitlines()
            wrong.append(f"again: exit status {status} instead of {right}: {said[-1] if said else ''}")
        if not wrong:
            wrong = self.ended(out, after)
        verdict = Verdict(number, events[number - 1], lost, half, wrong)
        if not verdict.faults:
            shutil.rmtree(folder)
        return verdict

    @staticmethod
    def ended(out: Path, after: Mapping[str, Any]) -> list[str]:
        """Return the differences of a folder from the one of an undisturbed command."""
        found, faults = contents(out)
        wrong = [f"half after the end: {fault}" for fault in faults]
        names = sorted(after.keys() | found.keys())
        wrong += [
            f"after the end: {_difference(file, after, found)}" for file in names if after.get(file, 0) != found.get(file, 0)
        ]
        return wrong + [f"left: {file}" for file in left_in(out)]


def _difference(file: str, after: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if file not in found or file not in after:
        return f"{file} is {'new' if file in found else 'missing'}"
    wanted, given = after[file], found[file]
    if isinstance(wanted, list) and isinstance(given, list):
        first = next((n for n, (one, two) in enumerate(zip(wanted, given, strict=False)) if one != two), "the end")
        return f"{file} differs: {len(given)} rows instead of {len(wanted)}, from row {first}"
    keys = sorted(wanted.keys() ^ given.keys()) if isinstance(wanted, dict) else ""
    return f"{file} differs {', '.join(keys)}"


def _hooked(words: Sequence[str], watched: Path, number: int, listing: Path | None) -> Callable[[], None]:
    """Return the function that runs a command in a fork, with the hook."""
    site = str(ROOT / "tests/tools/faults_site")

    def main() -> None:
        import runpy
        import sys

        sys.path.insert(0, site)
        import kill_hook

        sys.path[0] = ""
        kill_hook.install(watched, number, listing)
        if words[0] == "-m":
            sys.argv[:] = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")

    return main


def spread(events: Sequence[str], most: int) -> list[int]:
    """Return the numbers of at most `most` events: the first and the last of each kind, then evenly spread ones."""
    if len(events) <= most:
        return list(range(1, len(events) + 1))
    first, last = {}, {}
    for number, event in enumerate(events, 1):
        first.setdefault(event, number)
        last[event] = number
    wanted = sorted({*first.values(), *last.values()})
    if len(wanted) > most:
        return [wanted[n] for n in np.linspace(0, len(wanted) - 1, most).round().astype(int)]
    others = [number for number in range(1, len(events) + 1) if number not in wanted]
    more = np.linspace(0, len(others) - 1, most - len(wanted)).round().astype(int)
    return sorted({*wanted, *(others[n] for n in more)})


def judged(bench: Bench, name: str, most: int = MOST, jobs: int = 2) -> Iterator[Verdict]:
    """Yield the verdict of each point of a command."""
    numbers = spread(bench.reference(name), most)
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda number: bench.judge(name, number), numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a command's name")
    parser.add_argument("--most", type=int, default=MOST, help="most points of a command")
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel commands")
    parser.add_argument("--write", action="store_true", help=f"write the table in {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    bench = Bench(Path(tempfile.mkdtemp(prefix="inception_zoo_kills_")))
    print(f"runs are in {bench.folder}; failed ones are kept", flush=True)
    rows, failed = [], False
    for name in (name for name in COMMANDS if options.only in name):
        began = time.monotonic()
        verdicts = []
        for verdict in judged(bench, name, options.most, options.jobs):
            verdicts.append(verdict)
            for fault in verdict.faults:
                print(f"  {name}, point {verdict.number} ({verdict.event}): {fault}", flush=True)
        counts = [sum(map(bool, (getattr(each, kind) for each in verdicts))) for kind in ("lost", "half", "wrong")]
        rows.append((f"`{name}`", len(bench.references[name][2]), len(verdicts), *counts))
        print(f"{' | '.join(map(str, rows[-1]))} ({time.monotonic() - began:.0f} s)", flush=True)
        failed |= any(counts)
    if options.write:
        PAGE.write_text(page(PAGE.read_text(), rows))
    if not failed:
        shutil.rmtree(bench.folder)
    sys.exit(failed)


def page(text: str, rows: Sequence[Sequence[Any]]) -> str:
    """Return the text of docs/faults.md with new rows in the table of kill points; the other rows stay."""
    before, _, old = text.partition(HEADING)
    known = {line.split(" | ")[0]: line for line in old.splitlines() if line.startswith("| `")}
    known |= {f"| {row[0]}": f"| {' | '.join(map(str, row))} |" for row in rows}
    table = "\n".join(known.values())
    return f"""{before.rstrip()}

{HEADING}

`make test-faults FAULTS=--kill-points` kills commands where they change their output folder: just after a file
is opened for writing, and before a file is renamed or removed. At most {MOST} of these points are tried for each
command.

- After the kill, every file with a final name must be whole. A file that was there before must be there still:
  the earlier version or the new one.
- The same command is run again: a training with `ckpt=last`, a sweep with `sweep.resume`. It must succeed, and
  end with the same files as an undisturbed command, with the same contents, and with no others.

| command | changes | points | lost a file | left half a file | ended differently |
| --- | ---: | ---: | ---: | ---: | ---: |
{table}

{time.strftime("%Y-%m-%d")}, {os.cpu_count()} cores.
"""


if __name__ == "__main__":
    main()
