"""Sweeps as a user runs them: a failed or interrupted job does not affect the others."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, lines, processes_of, wandb_records, wandb_run
from filelock import FileLock
from tools import commands
from tools.hosts import wait_for

from inception_zoo import ZooError
from inception_zoo.runs import sweeps
from inception_zoo.runs.results import Pruned, begin, is_interrupted, read_results, recorded
from inception_zoo.runs.sweeps import progress, resumed, sweep_table
from inception_zoo.system.records import write_json
from inception_zoo.system.terminal import console

BAD = """
from lightning import Callback

class Bad(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.world_size == 2:
            raise RuntimeError("two are\\nunlucky")
"""


def results_of(folder, jobs):
    return [read_results(folder / str(job)) for job in range(jobs)]


@pytest.mark.slow
def test_every_job_has_its_devices_its_folder_and_its_wandb_run(zoo, cli, visit, tmp_path):
    done = zoo("-m", "trainer.devices=1,2", "seed=1,2", *SMALL, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "sweep"
    assert sorted(path.parent.name for path in sweep.glob("*/checkpoints")) == ["0", "1", "2", "3"]
    results = results_of(sweep, 4)
    assert [(r["world_size"], r["seed"], r["state"]) for r in results] == [(d, s, "finished") for d in (1, 2) for s in (1, 2)]
    assert len({r["config_sha256"] for r in results}) == 4
    runs = [wandb_run(sweep / str(job)) for job in range(4)]
    assert [(run["config"]["trainer"]["devices"], run["config"]["seed"]) for run in runs] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert "job 3/4, best val " in done.stdout + done.stderr
    assert processes_of(tmp_path) == []
    table = json.loads((sweep / "results.json").read_text())
    rows = list(csv.DictReader((sweep / "results.csv").read_text().splitlines()))
    assert (
        [job["overrides"]["trainer.devices"] for job in table]
        == [row["trainer.devices"] for row in rows]
        == ["1", "1", "2", "2"]
    )
    assert [job["test/top1"] for job in table] == [float(row["test/top1"]) for row in rows] == [r["test/top1"] for r in results]
    assert "sweep folder: sweep" in done.stdout

    written = cli("report", "sweep")
    assert written.returncode == 0 and "report: report.html (4 runs in 2 groups)" in written.stderr
    page = visit(tmp_path / "report.html")  # fails on a network request or a logged error
    assert page.locator("#board tbody tr").count() == 2 and "n = 2" in page.locator("#board tbody").inner_text()


def test_a_job_that_raises_leaves_the_others_alone_and_runs_again_when_the_sweep_goes_on(zoo, tmp_path):
    (tmp_path / "bad.py").write_text(BAD)
    words = ["+callbacks.bad._target_=bad.Bad", *SMALL, "hydra.sweep.dir=sweep"]
    sweep, allowed = tmp_path / "sweep", {"INCEPTION_ZOO_TARGETS": "bad.Bad"}
    done = zoo("-m", "trainer.devices=2,1", *words, env={"TMPDIR": str(tmp_path), **allowed})
    assert done.returncode == 1
    assert [r["state"] for r in results_of(sweep, 2)] == ["failed", "finished"]
    assert read_results(sweep / "0")["reason"] == "RuntimeError: two are unlucky"
    exits = [record["exit"] for job in range(2) for record in wandb_records(sweep / str(job)) if "exit" in record]
    assert [record.get("exit_code", 0) for record in exits] == [1, 0]
    assert "failed: RuntimeError: two are unlucky" in " ".join(done.stdout[done.stdout.rindex(" job ") :].split())
    assert (
        "1 of 2 jobs did not finish; resume with: INCEPTION_ZOO_TARGETS=bad.Bad python run.py -m sweep.resume=sweep"
        in done.stderr
    )
    assert processes_of(tmp_path) == [] and not list(tmp_path.glob("inception_zoo_*"))

    (tmp_path / "bad.py").write_text(BAD.replace("world_size == 2", "world_size == 4"))
    before = results_of(sweep, 2)
    other = zoo("-m", "trainer.devices=1,2", *words, env=allowed)
    assert other.returncode == 2 and "error: hydra.sweep.dir=sweep holds another sweep: its job 0 differs" in other.stderr
    with FileLock(sweep / "0/.lock"):  # as a job that has survived the command of its sweep
        busy = zoo("-m", "sweep.resume=sweep", env=allowed)
    assert (
        busy.returncode == 1 and f"error: job 0: hydra.run.dir={sweep}/0: another job is running in this folder" in busy.stderr
    )
    assert "1 of 2 jobs did not finish; resume with" in busy.stderr and "Traceback" not in busy.stderr
    again = zoo("-m", "sweep.resume=sweep", env=allowed)
    assert again.returncode == 0, again.stderr
    after = results_of(sweep, 2)
    assert [r["state"] for r in after] == ["finished"] * 2 and after[1] == before[1]


def test_the_tables_of_a_sweep_are_written_while_it_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "UPDATE", 0.02)
    table = tmp_path / "sweep/results.csv"

    def rows():
        return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []

    sweeps.begin(tmp_path / "sweep", ["0", "1"])
    try:
        for number, state in enumerate(["running", "failed"]):
            (tmp_path / f"sweep/{number}").mkdir()
            write_json(tmp_path / f"sweep/{number}/results.json", {"state": state, "model": "googlenet"})
            assert wait_for(lambda count=number + 1: len(rows()) == count, 10)
        assert [(row["job"], row["state"]) for row in rows()] == [("0", "running"), ("1", "failed")]
    finally:
        assert sweeps.finish(str) == 1
    assert "2 of 2 jobs did not finish" in capfd.readouterr().err


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_in_mid_job(zoo, tmp_path):
    command = [ROOT / "run.py", "-m", "trainer.devices=1,2", *SMALL, "trainer.max_epochs=12", "logger=csv"]
    sweep = tmp_path / "sweep"
    with commands.started([*command, "hydra.sweep.dir=sweep"], tmp_path, tmp_path / "log") as job:
        deadline = time.monotonic() + 120
        while not (sweep / "1/checkpoints/previous.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(job.pid, signal.SIGINT)
    assert job.exitcode > 0
    assert [r["state"] for r in results_of(sweep, 2)] == ["finished", "interrupted"]
    assert processes_of(tmp_path) == []
    first, begun = read_results(sweep / "0"), speeds(sweep / "1")
    done = zoo("-m", "sweep.resume=sweep")
    assert done.returncode == 0, done.stderr
    assert results_of(sweep, 2)[1]["state"] == "finished" and read_results(sweep / "0") == first
    assert f"checkpoint: {sweep}/1/checkpoints/last.ckpt" in done.stdout + done.stderr
    after = speeds(sweep / "1")
    assert after[: len(begun)] == begun and [epoch for epoch, _ in after] == list(map(str, range(12)))  # no epoch was repeated


def speeds(folder):
    """Return (epoch, images/s) for each epoch; the speeds identify a training run."""
    with (folder / "csv/version_0/metrics.csv").open() as file:
        rows = csv.DictReader(file)
        return [(row["epoch"], row["train/images_per_second"]) for row in rows if row.get("train/images_per_second")]


def torchrun(tmp_path, script, *words, options=()):
    command = [
        Path(sys.executable).parent / "torchrun",
        "--nproc-per-node=2",
        *options,
        script,
        "trainer.devices=2",
        "logger=csv",
        *words,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_torchrun_has_one_folder_for_all_ranks(tmp_path):
    late = "import os, runpy, sys, time\ntime.sleep(1.5 * int(os.environ['RANK']))\n"  # two start times: two folder names
    (tmp_path / "late.py").write_text(late + f"runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')\n")
    done = torchrun(tmp_path, "late.py", *SMALL)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/*/*")
    assert read_results(folder)["world_size"] == 2 and read_results(folder)["state"] == "finished"


LOST_ONCE = """
import os, runpy, signal, threading, time
from pathlib import Path

def die():
    while not Path("run/checkpoints/last.ckpt").exists():
        time.sleep(0.05)
    if not Path("lost").exists():
        Path("lost").touch()
        os.kill(os.getpid(), signal.SIGKILL)

if os.environ["RANK"] == "1":
    threading.Thread(target=die, daemon=True).start()
"""


@pytest.mark.slow
def test_a_job_that_torchrun_restarts_resumes_by_itself(tmp_path):
    (tmp_path / "odd.py").write_text(LOST_ONCE + f"runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')\n")
    elastic = ["--max-restarts=1", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    words = [*SMALL, "trainer.max_epochs=12", "trainer.precision=32-true", "trainer.accelerator=cpu"]
    done = torchrun(tmp_path, "odd.py", *words, "hydra.run.dir=run", options=elastic)
    assert done.returncode == 0, done.stderr
    assert "checkpoint: " in done.stdout and "last.ckpt" in done.stdout  # of the second start
    assert (tmp_path / "lost").exists() and read_results(tmp_path / "run")["state"] == "finished"
    done = torchrun(tmp_path, "odd.py", *words, options=elastic)
    assert done.returncode != 0 and "torchrun --max-restarts needs hydra.run.dir=FOLDER" in done.stderr


def test_processes_with_different_configs_stop(tmp_path):
    (tmp_path / "odd.py").write_text(
        "import os, sys\nfrom inception_zoo.app import main\nsys.argv.append(f'aux_weight=0.{os.environ[\"RANK\"]}')\nmain()\n"
    )
    done = torchrun(tmp_path, "odd.py", *SMALL)
    assert done.returncode != 0
    assert "error: the ranks differ: aux_weight=0.0 on rank 0 (" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "sweep.resume=nowhere"], "sweep.resume=nowhere: there is no sweep.json in it"),
        (
            ["-m", "sweep.resume=sweep", "seed=3"],
            "sweep.resume=sweep resumes the sweep with its own overrides; leave seed=3 out",
        ),
        (["-m", "sweep.resume=elsewhere"], "run: cd / && python run.py -m sweep.resume="),
    ],
)
def test_a_sweep_that_cannot_go_on_says_why(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, cwd in (("sweep", str(tmp_path)), ("elsewhere", "/"), ("moved", "/gone")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_text(json.dumps({"argv": ["-m", "seed=1,2"], "cwd": cwd, "jobs": 2}))
    for name in ("sweep", "moved"):  # with the folder in which it was started
        assert resumed(["-m", f"sweep.resume={name}"]) == ["-m", f'hydra.sweep.dir="{name}"', "seed=1,2"]
    with pytest.raises(ZooError) as error:
        resumed(words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep=v3_ablation", "model=inception_v4"], "error: model: the jobs of this sweep set this key themselves"),
        (["seed=1,2", "hydra.sweep.subdir=mine"], "error: hydra.sweep.subdir=mine must give each job a folder of its own"),
        (
            ["sweep=optuna", "hydra.sweeper.n_trial=2"],
            "error: unknown config key 'hydra.sweeper.n_trial'; did you mean 'hydra.sweeper.n_trials'?",
        ),
        (["model=googlenet,inceptoin_v3"], "error: model=inceptoin_v3 is unknown; did you mean 'inception_v3'?"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(zoo, words, message, tmp_path):
    done = zoo(*words, *SMALL) if words[0].startswith("sweep=") else zoo("-m", *words, *SMALL)
    assert done.returncode == 2 and len(lines(done.stderr)) == 1 and message in done.stderr
    assert not list(tmp_path.rglob("results.*"))


def test_a_run_records_how_it_ends(tmp_path):
    endings = {
        "finished": None,
        "pruned": Pruned("enough"),
        "failed": ValueError("one\ntwo"),
        "interrupted": KeyboardInterrupt(),
    }
    reasons = {"finished": None, "pruned": "enough", "failed": "ValueError: one two", "interrupted": None}
    for state, error in endings.items():
        folder = tmp_path / state
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/last.ckpt").touch()
        try:
            with recorded(folder, seed=3) as results:
                begin(folder, results)
                assert read_results(folder)["state"] == "running"
                results["val/top1_best"] = 0.5
                if error:
                    raise error
        except (ValueError, KeyboardInterrupt):
            assert state in ("failed", "interrupted")
        found = read_results(folder)
        assert (found["state"], found["reason"], found["seed"], found["val/top1_best"]) == (state, reasons[state], 3, 0.5)
        assert is_interrupted(folder) == (state in ("failed", "interrupted"))


def test_the_table_fits_eighty_columns():
    results = {"val/top1_best": 0.5, "test/top1": 0.5, "minutes": 1.0}
    jobs = [
        {"job": str(n), "overrides": {"seed": str(n)}, "swapped": f"all=residual_expanded{n}", "state": "finished", **results}
        | {"parameters": n * 1e6, "multiply_adds": n * 1e6, "train/images_per_second": float(n)}
        for n in (1, 2)
    ]
    for width, has_costs in ((80, False), (120, True)):
        text = printed(jobs, width)
        assert "all=residual_expanded2" in text and "test top-1" in text and "…" not in text
        assert ("images/s" in text) == has_costs


def printed(jobs, width):
    out = console(width=width)
    with out.capture() as capture:
        out.print(sweep_table(jobs, width))
    return capture.get()


def test_the_name_of_a_run_stands_for_what_all_its_runs_have_in_common():
    results = {"val/top1_best": 0.5, "test/top1": 0.5, "minutes": 1.0, "state": "finished"}
    jobs = [
        {"job": name, "overrides": {"seed": seed, "run_name": name, "model.width": width, "optimizer.lr": rate}} | results
        for name, seed, width, rate in [("narrow", "1", "0.25", "1"), ("narrow", "2", "0.25", "2"), ("wide", "1", "1.0", "1")]
    ]
    columns = printed(jobs, 120).splitlines()[1].split()
    assert "run_name" in columns and "seed" in columns and "lr" in columns and "width" not in columns
    unnamed = [{**job, "overrides": {k: v for k, v in job["overrides"].items() if k != "run_name"}} for job in jobs]
    assert "width" in printed(unnamed, 120)
    assert "width" in printed(jobs[1:], 120)  # each run has a name of its own, which says nothing about its overrides


def test_long_overrides_share_a_column_with_whole_figures():
    results = {"val/top1_best": 0.7123, "test/top1": 0.7011, "minutes": 12.3, "parameters": 1e6, "state": "finished"}
    root = "/home/me/[x]/" + "pictures/" * 7
    reason = "trainer.max_epochs=0 must be a whole number of at least 1; leave it out for the default of the recipe"
    jobs = [
        {"job": str(n), "overrides": {"optimizer.lr": "0.001234567", "data.root": f"{root}{n}", "seed": str(n)}} | results
        for n in range(2)
    ]
    failed = {"job": "2", "overrides": {"optimizer.lr": "9", "seed": "2"}, "state": "failed", "reason": reason}
    for width in (80, 100):
        text = printed([*jobs, failed], width)
        assert "…" not in text and text.count("0.7123") == 2 and text.count("0.7011") == 2 and text.count("12.3") == 2
        assert max(map(len, text.splitlines())) <= width
        together = re.sub(r"\s", "", text)
        assert f"root:{root}1" in together and "lr:0.001235" in together and "seed:2" in together
        assert f"failed:{reason}".replace(" ", "") in together
    table = printed(jobs, 160)  # there is room for a column of each
    assert "root" in table.splitlines()[1] and "overrides" not in table


@pytest.mark.parametrize("jobs", [["0", "1", "2", "3"], 4], ids=["folders", "older version"])
def test_where_a_sweep_is(jobs, tmp_path):
    assert progress(tmp_path / "run") is None
    (tmp_path / "sweep.json").write_text(json.dumps({"argv": [], "cwd": str(tmp_path), "jobs": jobs}))
    assert str(progress(tmp_path / "0")) == "job 1/4"
    for number, (state, best) in enumerate([("finished", 0.25), ("failed", 0.75)]):
        (tmp_path / str(number)).mkdir()
        record = {"state": state, "val/top1_best": best}
        (tmp_path / str(number) / "results.json").write_text(json.dumps(record))
    os.utime(tmp_path / "sweep.json", (time.time() - 600, time.time() - 600))  # one job finished in ten minutes
    assert str(progress(tmp_path / "2")) == "job 3/4, best val 0.2500, 30 min left"
    os.utime(tmp_path / "0/results.json", (0, 0))  # older than the resumed sweep
    assert str(progress(tmp_path / "2")) == "job 3/4, best val 0.2500"
