"""Fault injection: train small networks as a user would, interrupt each run, and resume it (`make test-faults`).

`make test-faults FAULTS=--kill-points` kills commands at every change of a file instead (`kill_points.py`).
A resumed run must equal an uninterrupted run: bit-equal weights in last.ckpt and best.ckpt, the same rows in its CSV (except
speed and memory), the same accuracies. The table FAULTS lists the faults.
"""

import argparse
import csv
import hashlib
import json
import math
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
SITE = os.pathsep.join([str(ROOT / "tests" / "tools" / "faults_site"), *filter(None, [os.environ.get("PYTHONPATH")])])
PAGE = ROOT / "docs" / "faults.md"
EPOCHS, STEPS, EVERY = 3, 14, 5  # epochs, optimizer steps in each, steps between two checkpoints
WORDS = f"""
model.width=0.25 model.stem=medium model.norm=batch model.blocks.grid14=residual model.drop_path=0.1
data.image_size=32 data.eval_batch_size=5 trainer.limit_val_batches=30 trainer.limit_test_batches=6
augmentation.mixup=0.2 callbacks=ema callbacks.ema.decay=0.9 callbacks.last.every_n_steps={EVERY}
trainer.max_epochs={EPOCHS} trainer.accumulate_grad_batches=2 trainer.accelerator=cpu trainer.limit_train_batches={
    2 * STEPS
} trainer.log_every_n_steps=1 logger=csv logger.csv.flush_logs_every_n_steps=1
""".split()
KINDS = {  # kinds of run
    "fp32": "data=digits data.batch_size=32 trainer.precision=32-true",
    "bf16": "data=digits data.batch_size=32 trainer.precision=bf16-mixed",
    "workers": "data=imagenet data.batch_size=6 data.workers=2 trainer.precision=32-true",  # reads image files
    "2 processes": "data=digits data.batch_size=32 trainer.precision=32-true trainer.devices=2",
}
OF_THE_MACHINE = ("train/images_per_second", "train/peak_memory_gib")  # columns that differ between equal runs


# A run


@dataclass
class Run:
    """A run folder and the process that runs in it."""

    folder: Path  # the run folder is folder/run
    words: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    process: Any = None

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def last(self) -> Path:
        return self.run / "checkpoints" / "last.ckpt"

    def start(self, *more: str, env: Mapping[str, str] | None = None) -> "Run":
        """Start the run, or resume it with `ckpt=last`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "HYDRA", "PL_"))}
        cache = {"XDG_CACHE_HOME": str(self.folder.parent / "cache"), "COLUMNS": "400", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "run.py"), "task=fit", *self.words, *more, "hydra.run.dir=run"]
        with (self.folder / "said.txt").open("w") as said:
            where = {**clean, **cache, **self.env, **(env or {})}
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said}
            self.process = subprocess.Popen(command, cwd=self.folder, env=where, start_new_session=True, **streams)
        return self

    def wait(self, seconds: float = 180) -> int:
        """Wait for the process and return its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds:.0f} s; output: {self.error or self.said[-300:]}") from None

    def kill(self) -> None:
        """Kill the whole process group; do nothing if it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def said(self) -> str:
        return (self.folder / "said.txt").read_text(errors="replace")

    @property
    def error(self) -> str:
        """First error line of the output, or an empty string."""
        return next((line for line in self.said.splitlines() if line.startswith("error: ")), "")

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.run / "results.json").read_text())

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of the CSV without machine-dependent columns; skip an incomplete row."""
        try:
            with (self.run / "csv/version_0/metrics.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if None not in row.values() and row["step"]]
        except OSError:
            return []
        return [{key: value for key, value in sorted(row.items()) if value and key not in OF_THE_MACHINE} for row in rows]

    def steps(self) -> int:
        """Return the number of completed optimizer steps."""
        return max((int(row["step"]) + 1 for row in self.rows() if "train/gradient_norm" in row), default=0)

    def is_at(self, steps: int) -> bool:
        return self.steps() >= steps

    def is_saving(self) -> bool:
        return any(self.last.parent.glob(".*"))

    def until(self, condition: Callable[[], bool], every: float = 0.01, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended too early, with {self.process.poll()}: {self.error or self.said[-300:]}"
            assert time.monotonic() < end, f"condition not reached in {seconds:.0f} s"
            time.sleep(every)

    def processes(self, name: str) -> list[int]:
        """Return descendant processes whose command line contains `name`."""
        found: list[int] = []
        parents = {self.process.pid}
        for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
            with suppress(OSError):
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                if parent in parents:
                    parents.add(pid := int(stat.parent.name))
                    if name.encode() in (stat.parent / "cmdline").read_bytes():
                        found.append(pid)
        return found

    def outcome(self) -> dict[str, Any]:
        """Return everything that must be equal for two equal runs: weights, CSV rows and accuracies."""
        found: dict[str, Any] = {name: digest(self.last.with_name(f"{name}.ckpt")) for name in ("last", "best")}
        figures = {key: value for key, value in self.results.items() if key.startswith(("test", "val"))}
        return found | {"CSV": self.rows(), "results": figures}


def digest(path: Path) -> str:
    """Return the SHA-256 of the weights in a checkpoint."""
    sha = hashlib.sha256()
    for key, value in sorted(torch.load(path, map_location="cpu", weights_only=True)["state_dict"].items()):
        sha.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return sha.hexdigest()


def saved_step(*paths: Path) -> int:
    """Return the step of the first readable checkpoint; 0 if none is readable."""
    for path in paths:
        with suppress(Exception):
            return torch.load(path, map_location="cpu", weights_only=True)["global_step"]
    return 0


@dataclass
class Bench:
    """Folder of all runs, and the reference run of each kind."""

    folder: Path
    seed: int
    references: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def new(self, name: str, kind: str, *words: str, **env: str) -> Run:
        """Return a run that has not started; `words` replace overrides with the same keys."""
        keys = {word.partition("=")[0] for word in words}
        usual = [*WORDS, *KINDS[kind].split(), *([f"data.root={self.folder / 'images'}"] if kind == "workers" else [])]
        return Run(self.folder / name, [*(word for word in usual if word.partition("=")[0] not in keys), *words], env)

    def reference(self, kind: str) -> None:
        """Run one kind without faults and store its outcome."""
        began = time.monotonic()
        run = self.new(f"reference {kind}".replace(" ", "_"), kind).start()
        assert run.wait() == 0, run.said[-2000:]
        assert run.steps() == EPOCHS * STEPS, f"{run.steps()} steps in the CSV of the reference"
        self.references[kind], self.seconds[kind] = run.outcome(), time.monotonic() - began

    def same(self, run: Run, kind: str) -> None:
        """Raise AssertionError with the difference if a run differs from its reference."""
        ours, theirs = run.outcome(), self.references[kind]
        for name, value in theirs.items():
            if name == "CSV" and value != ours[name]:
                pairs = list(zip(value, ours[name], strict=False))
                first = next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))
                assert len(value) == len(ours[name]), (
                    f"CSV: {len(ours[name])} rows instead of {len(value)}, different from row {first}"
                )
                raise AssertionError(f"CSV, row {first}: {pairs[first][1]} instead of {pairs[first][0]}")
            assert value == ours[name], f"{name} differ" + ("" if name != "results" else f": {ours[name]} instead of {value}")

    def go_on(self, run: Run, kind: str, *more: str, env: Mapping[str, str] | None = None) -> int:
        """Resume an interrupted run, compare it with its reference, and return the number of lost steps."""
        done, kept = run.steps(), saved_step(run.last, run.last.with_name("previous.ckpt"))
        run.start("ckpt=last", *more, env=env)
        assert run.wait() == 0, f"resumed run: exit status {run.process.returncode}: {run.error or run.said[-500:]}"
        self.same(run, kind)
        return done - kept


def images(root: Path) -> Path:
    """Create an ImageNet-like folder: three classes, 72 training and 20 validation JPEGs each."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 72), ("val", 20)):
        for label, name in enumerate(("n01440764", "n01443537", "n01484850")):
            (folder := root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 128, (48, 64, 3), dtype=np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(folder / f"{name}_{number}.JPEG")
    return root


# Faults. Each function takes the bench, a new name, a random generator and the arguments in FAULTS. It returns the lost steps.


def killed(bench: Bench, name: str, chance: random.Random, kind: str, when: str, tmpdir: str = "/tmp") -> int:
    """Kill every process of the job with SIGKILL."""
    run = bench.new(name, kind, TMPDIR=tmpdir).start()
    step = {"step": chance.randint(1, EPOCHS * STEPS - 1), "validation": STEPS * chance.randint(1, EPOCHS)}
    wanted = step.get(when, EVERY * chance.randint(1, 8))
    run.until(lambda: run.is_at(wanted), 0.002)
    if when == "saving":
        run.until(run.is_saving, 0.0005)
    else:
        time.sleep(chance.uniform(0, 0.3))
    run.kill()
    return bench.go_on(run, kind)


def full_disk(bench: Bench, name: str, chance: random.Random, kind: str, how: str) -> int:
    """Fill the disk, or limit the file size, at a random step; remove the limit and resume."""
    run = bench.new(name, kind)
    with small_disk(run.run) if how == "tmpfs" else nullcontext():
        run.start()
        wanted = chance.randint(6, 20)
        run.until(lambda: run.last.exists() and run.is_at(wanted))
        if how == "tmpfs":
            fill(run.run / "filler")
        else:
            resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (2**20, 2**20))
        broken_off(run, run.wait())
        (run.run / "filler").unlink(missing_ok=True)
        return bench.go_on(run, kind)


def read_only(bench: Bench, name: str, chance: random.Random, kind: str) -> int:
    """Make the checkpoint folder read-only at a random step."""
    run = bench.new(name, kind).start()
    wanted = chance.randint(6, 20)
    run.until(lambda: run.last.exists() and run.is_at(wanted))
    with no_writing(run.last.parent):
        broken_off(run, run.wait())
    return bench.go_on(run, kind)


def broken_off(run: Run, status: int) -> None:
    """Check that the run ended by itself with an error line, and left a readable checkpoint."""
    assert status not in (0, None) and status > 0, f"exit status {status}"
    assert "checkpoints" in run.error or "cannot be written" in run.error or "No space" in run.error, (
        f"no error line names the file: {run.error or run.said[-300:]}"
    )
    assert saved_step(run.last) > 0, "last.ckpt is damaged"


def asked(bench: Bench, name: str, chance: random.Random, kind: str, signum: signal.Signals) -> int:
    """Send SIGTERM to the first process, as a scheduler does, or SIGINT to all, as a terminal does."""
    run = bench.new(name, kind).start()
    wanted = chance.randint(2, EPOCHS * STEPS - 4)
    run.until(lambda: run.is_at(wanted))
    (os.killpg if signum == signal.SIGINT else os.kill)(run.process.pid, signum)
    status = run.wait(40)
    assert status == 128 + signum, f"exit status {status}"
    assert run.results["state"] == "interrupted", run.results["state"]
    lost = bench.go_on(run, kind)
    assert lost == 0, f"{lost} steps lost"
    return lost


def one_raises(bench: Bench, name: str, chance: random.Random, kind: str) -> int:
    trigger = bench.folder / name / "now"
    run = bench.new(name, kind, PYTHONPATH=SITE, INCEPTION_ZOO_FAULT=f"raise:{trigger}").start()
    wanted = chance.randint(6, 25)
    run.until(lambda: run.is_at(wanted))
    trigger.touch()
    assert run.wait(30) not in (0, None)
    reason = run.results["reason"] or ""
    assert "InjectedFault" in run.said, f"the output does not report it: {run.said[-300:]}"
    assert "InjectedFault" in reason and run.results["state"] == "failed", f"the reason given is: {reason}"
    trigger.unlink()
    return bench.go_on(run, kind)


def one_killed(bench: Bench, name: str, chance: random.Random, kind: str, process: str, reason: str) -> int:
    """Kill one child process with SIGKILL."""
    run = bench.new(name, kind).start()
    wanted = chance.randint(6, 25)
    run.until(lambda: run.is_at(wanted))
    pids = run.processes(process)
    assert pids, f"there is no {process}"
    os.kill(pids[-1], signal.SIGKILL)
    assert run.wait(45) not in (0, None)
    given = run.results["reason"] or ""
    assert run.results["state"] == "failed" and reason in given, f"the reason given is: {given}"
    return bench.go_on(run, kind)


def wandb_killed(bench: Bench, name: str, chance: random.Random, kind: str) -> int:
    """Kill W&B's service process; the run must continue."""
    run = bench.new(name, kind, "logger=wandb").start()
    wanted = chance.randint(6, 25)
    run.until(lambda: run.is_at(wanted))
    pids = run.processes("wandb-core")
    assert pids, "there is no wandb-core"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    status = run.wait()
    assert status == 0, f"exit status {status}: {run.error or run.said[-300:]}"
    bench.same(run, kind)
    return 0


def wandb_unreachable(bench: Bench, name: str, chance: random.Random, kind: str) -> int:
    """Use an unreachable W&B server: the run ends with one error line or finishes, without a long wait."""
    fake = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0123456789" * 4}
    run = bench.new(name, kind, "logger=wandb", "logger.wandb.offline=false", **fake)
    status = run.start().wait(2 * bench.seconds[kind] + 60)
    if status == 0:
        bench.same(run, kind)
    else:
        assert status == 2 and "logger.wandb" in run.error, f"exit status {status}: {run.error or run.said[-300:]}"
    return 0


def clock(bench: Bench, name: str, chance: random.Random, kind: str, hours: int) -> int:
    """Shift the clock during the run, kill the run later, and make its files days older before it resumes."""
    place = bench.folder / name / "shift"
    run = bench.new(name, kind, PYTHONPATH=SITE, INCEPTION_ZOO_FAULT=f"clock:{place}").start()
    wanted = chance.randint(3, 20)
    run.until(lambda: run.is_at(wanted))
    place.write_text(str(3600 * hours))
    run.until(lambda: run.is_at(wanted + 12))
    run.kill()
    place.unlink()
    for age, path in enumerate(sorted(run.last.parent.iterdir(), reverse=True)):
        os.utime(path, (time.time() - 86400 * (age + 1),) * 2)
    return bench.go_on(run, kind)


def damaged(bench: Bench, name: str, chance: random.Random, kind: str, how: str) -> int:
    """Corrupt last.ckpt: the run must resume from previous.ckpt and log a warning."""
    run = bench.new(name, kind).start()
    wanted = chance.randint(2 * EVERY + 2, EPOCHS * STEPS - 4)
    run.until(lambda: run.is_at(wanted) and run.last.with_name("previous.ckpt").exists())
    run.kill()
    data = run.last.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes(255 - byte for byte in data[middle : middle + 16]) + data[middle + 16 :]
    bytes_of = {"flipped": flipped, "cut": data[:middle], "empty": b"", "garbage": chance.randbytes(100_000)}
    run.last.unlink()  # previous.ckpt may be a hard link to the same file
    run.last.write_bytes(bytes_of[how])
    done, kept = run.steps(), saved_step(run.last.with_name("previous.ckpt"))
    run.start("ckpt=last")
    assert run.wait() == 0, run.error or run.said[-300:]
    assert any("last.ckpt" in line and "damaged" in line for line in run.said.splitlines()), "no warning names the damaged file"
    bench.same(run, kind)
    return done - kept


def two_jobs(bench: Bench, name: str, chance: random.Random, kind: str, *more: str) -> int:
    """Start a second job in the folder of a running job: it is refused, and the first job finishes."""
    first, second = bench.new(name, kind).start(), bench.new(name, kind)
    first.until(lambda: first.is_at(2))
    said = first.folder / "said.txt"
    said.rename(first.folder / "said_first.txt")
    status = second.start(*more).wait(40)
    assert status == 2 and second.error, f"exit status {status}: {second.error or second.said[-300:]}"
    assert first.wait() == 0
    bench.same(first, kind)
    return 0


# Disks


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"0")


@contextmanager
def no_writing(folder: Path) -> Iterator[None]:
    """Make a folder read-only: by permissions, or by a read-only bind mount for root, who ignores permissions."""
    if os.geteuid():
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
        return not done.returncode and not subprocess.run(["umount", folder], capture_output=True).returncode


# Faults: name → (function, expected result, arguments of each run)

SAME = "resumes bit-equal"
FAULTS: dict[str, tuple[Callable[..., int], str, Sequence[tuple]]] = {
    "kill -9 in mid-epoch": (killed, SAME, [(kind, "step") for kind in KINDS for _ in range(2)]),
    "kill -9 in validation": (killed, SAME, [(kind, "validation") for kind in KINDS]),
    "kill -9 while saving": (killed, SAME, [(kind, "saving") for kind in KINDS]),
    "kill -9, TMPDIR on another disk": (killed, SAME, [(kind, "saving", "/dev/shm") for kind in KINDS]),
    "full disk": (full_disk, f"error line, last.ckpt intact; with free space, {SAME}", [("fp32", "tmpfs")]),
    "file size limit": (full_disk, f"error line, last.ckpt intact; without the limit, {SAME}", [("fp32", "rlimit")]),
    "read-only folder": (read_only, f"error line, last.ckpt intact; when writable, {SAME}", [("fp32",)]),
    "SIGTERM": (
        asked,
        f"exit 143, interrupted; {SAME}",
        [(kind, signal.SIGTERM) for kind in ("fp32", "workers", "2 processes")],
    ),
    "SIGINT": (asked, f"exit 130, interrupted; {SAME}", [(kind, signal.SIGINT) for kind in ("bf16", "2 processes")]),
    "one of two processes raises": (one_raises, f"ends within 30 s and reports the error; {SAME}", [("2 processes",)]),
    "one of two processes killed": (
        *(one_killed, f"ends within 45 s and names the process; {SAME}"),
        [("2 processes", "job.name=rank1", "SIGKILL")],
    ),
    "a data worker killed": (
        one_killed,
        f"ends within 45 s and reports it; {SAME}",
        [("workers", "run.py", "DataLoader worker")],
    ),
    "W&B's service killed": (wandb_killed, "finishes bit-equal, exit 0", [("fp32",)]),
    "W&B unreachable": (wandb_unreachable, "ends with one error line, or finishes bit-equal; no long wait", [("fp32",)]),
    "the clock jumps, files are older": (clock, SAME, [("fp32", -3), ("fp32", 3)]),
    "last.ckpt damaged": (
        *(damaged, "warns, resumes from previous.ckpt, bit-equal"),
        [("fp32", how) for how in ("flipped", "cut", "empty", "garbage")],
    ),
    "two jobs in one folder": (
        two_jobs,
        "the second is refused with one error line, exit 2; the first finishes bit-equal",
        [("fp32",), ("fp32", "ckpt=last")],
    ),
}


@dataclass(frozen=True)
class Verdict:
    fault: str
    arguments: tuple
    lost: int | None  # number of steps; None: the test failed
    reason: str = ""


def judge(bench: Bench, fault: str, number: int) -> Verdict:
    function, _, runs = FAULTS[fault]
    name = f"{list(FAULTS).index(fault):02}_{number}"
    try:
        lost = function(bench, name, random.Random(f"{bench.seed} {name}"), *runs[number])
        shutil.rmtree(bench.folder / name, ignore_errors=True)
        return Verdict(fault, runs[number], lost)
    except Exception as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return Verdict(fault, runs[number], None, f"{kind}{error}")


def main() -> None:
    if "--kill-points" in sys.argv[1:]:
        sys.argv.remove("--kill-points")
        sys.path.insert(0, str(ROOT / "tests"))
        from tools import kill_points

        return kill_points.main()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="random seed of the moments of the faults")
    parser.add_argument("--only", default="", help="part of a fault's name")
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel runs")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    console, began = Console(), time.monotonic()
    bench = Bench(Path(tempfile.mkdtemp(prefix="inception_zoo_faults_")), options.seed)
    print(f"runs are in {bench.folder}; failed runs are kept", flush=True)
    images(bench.folder / "images")
    chosen = [fault for fault in FAULTS if options.only in fault]
    left_out = ["full disk", "read-only folder"] if os.geteuid() == 0 and not can_mount() else []
    left_out += ["full disk"] if os.geteuid() else []
    tasks = [(fault, number) for fault in chosen if fault not in left_out for number in range(len(FAULTS[fault][2]))]
    kinds = sorted({FAULTS[fault][2][number][0] for fault, number in tasks})
    verdicts = []
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(bench.reference, kinds))
        different = {reference["last"] for reference in bench.references.values()}
        assert len(different) == len(kinds), "different kinds of run have equal weights: the comparison would prove nothing"
        for verdict in pool.map(lambda task: judge(bench, *task), tasks):
            how = f"lost {verdict.lost}" if verdict.lost is not None else f"FAILED: {verdict.reason}"
            print(f"{verdict.fault} ({', '.join(map(str, verdict.arguments))}): {how}", flush=True)
            verdicts.append(verdict)
    lines = [summary(fault, [verdict for verdict in verdicts if verdict.fault == fault]) for fault in chosen]
    table = Table("fault", "runs", "lost steps, at most", "verdict", title=f"{(time.monotonic() - began) / 60:.1f} min")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    if options.write:
        PAGE.write_text(page(lines, options.seed))
    failed = any(verdict.lost is None for verdict in verdicts)
    if not failed:
        shutil.rmtree(bench.folder)
    sys.exit(failed)


def summary(fault: str, verdicts: Sequence[Verdict]) -> tuple[str, str, str, str]:
    """Return a row of the result table."""
    if not verdicts:
        return fault, "0", "–", "not run: it needs permission to mount"
    failed = [verdict for verdict in verdicts if verdict.lost is None]
    lost = max((verdict.lost for verdict in verdicts if verdict.lost is not None), default=math.nan)
    good = FAULTS[fault][1] if not failed else f"{len(failed)} of {len(verdicts)} failed: {failed[0].reason}"
    return fault, str(len(verdicts)), str(lost), good


def page(lines: Sequence[Sequence[str]], seed: int) -> str:
    """Return the text of docs/faults.md."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--match="]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "hydra-core", "wandb"))
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    kill_points = PAGE.read_text().partition("## Kill points")[1:] if PAGE.exists() else ()
    return f"""# Fault injection: does an interrupted run resume exactly?

`make test-faults` runs this test. `make test-faults FAULTS="--seed 2"` injects the faults at other moments.

Each run trains a small GoogLeNet for {EPOCHS} epochs of {STEPS} steps, with a checkpoint every {EVERY} steps.
It uses residual blocks, dropout, drop path, mixup, an average of the weights and gradient accumulation.
There are four kinds of run: fp32, bf16, image files with two data workers, and two processes.

"Bit-equal" compares a run with an uninterrupted run. An interrupted run is resumed with
`task=fit ckpt=last hydra.run.dir=FOLDER`. Then three things must be equal:

- the SHA-256 of all weights in `last.ckpt` and in `best.ckpt`;
- every row of the CSV, except speed and memory;
- the accuracies.

Lost steps are the optimizer steps that the resumed run had to repeat.

| fault | runs | lost steps, at most | verdict |
| --- | ---: | ---: | --- |
{table}

{datetime.now():%Y-%m-%d}, seed {seed}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()},
{versions}, commit {commit}.
""" + "".join(("\n", *kill_points) if any(kill_points) else ())


if __name__ == "__main__":
    main()
