"""Every record of this package x every damage x every command that reads it; every write is atomic."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tools.damaged_records import DAMAGES, RECORDS, any_record_is_read_or_an_error_of_ours, commands, outcome, write_sweep

import inception_zoo
from inception_zoo import ZooError
from inception_zoo.report.collect import read_curves
from inception_zoo.runs.results import begin, is_interrupted, read_results, recorded
from inception_zoo.runs.sweepers import _is_done
from inception_zoo.runs.sweeps import resumed
from inception_zoo.system.atomic_files import sweep_up, write_whole
from inception_zoo.tracking.csv_logger import CSVLogger

PACKAGE = Path(inception_zoo.__file__).parent
JOB = {"-m sweep.resume", "the table of a sweep", "progress", "ckpt=RUN", "hydra.run.dir=RUN"}  # not refused for one bad job


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_a_result_or_one_line(name, damage, tmp_path):
    sweep = write_sweep(tmp_path / "sweep", name, DAMAGES[damage])
    for command, call in commands(sweep, name).items():
        said = outcome(call)
        if said is not None:
            assert "\n" not in said and str(tmp_path) in said, (command, said)
            differs = "another sweep" in said and damage == "half"  # half of a YAML file may be YAML
            assert differs or not (command in JOB and name.startswith("0/")), (command, said)


def test_random_damage():
    any_record_is_read_or_an_error_of_ours()


UNREADABLE = [damage for damage in DAMAGES if damage not in ("missing", "cut by a byte", "another version: {}")]


@pytest.mark.parametrize("damage", UNREADABLE)
def test_a_job_with_unreadable_results_counts_as_interrupted(damage, tmp_path, caplog):
    job = write_sweep(tmp_path, "0/results.json", DAMAGES[damage]) / "0"
    assert not _is_done(job, ["seed=1"]) and is_interrupted(job) and read_results(job)["state"] == "interrupted"
    assert f"{job}/results.json" in caplog.text and "counts as interrupted" in caplog.text


@pytest.mark.parametrize("left", ["no .hydra", "an empty .hydra", "empty", "half"])
def test_a_job_that_was_killed_at_its_start_is_run(left, tmp_path):
    job = write_sweep(tmp_path, "0/results.json", lambda content: None) / "0"
    words = job / ".hydra" / "overrides.yaml"
    words.write_text({"empty": "", "half": "- ['se"}.get(left, "x"))
    if left.endswith(".hydra"):
        for path in (job / ".hydra").iterdir():
            path.unlink()
    if left == "no .hydra":
        words.parent.rmdir()
    assert not _is_done(job, ["seed=1"])
    words.parent.mkdir(exist_ok=True)
    words.write_text("[]\n")  # another sweep, whose job has no overrides
    (job / "results.json").write_text('{"state": "finished"}')
    with pytest.raises(ZooError, match="holds another sweep"):
        _is_done(job, ["seed=1"])


def test_half_a_row_of_metrics_is_left_out(tmp_path):
    job = write_sweep(tmp_path, "0/csv/version_0/metrics.csv", lambda content: content + b"2,3,0.98765"[:-3]) / "0"
    assert read_curves(job)["val/top1"] == ([0, 1], [0.25, 0.5])  # 0.98 is not the value
    CSVLogger(str(job), "csv").go_on(9)
    assert (job / "csv/version_0/metrics.csv").read_text("utf-8") == "epoch,step,val/top1\n0,1,0.25\n1,2,0.5\n"


def test_half_a_line_of_a_study_is_removed(tmp_path):
    pytest.importorskip("optuna")
    from inception_zoo.runs.study import Objective, Search, open_study

    node = {"storage": None, "study_name": None, "pruner": "NopPruner", "pruner_options": {}, "sampler": "RandomSampler"}
    node |= {"sampler_options": {"seed": 1}, "n_trials": 2}
    goal, journal = Objective("val/top1", "max"), tmp_path / "optuna.journal"
    next(Search(node, tmp_path, goal, {}).batches(1))
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    next(Search(node, tmp_path, goal, {}).batches(2))
    assert len(open_study(node, tmp_path, goal).trials) == 2
    for damage in (bytes(range(256)), b"7\n", b'{"op_code": 77}\n', b'{"op_code": 0}\n'):
        journal.write_bytes(damage + b"\n")
        with pytest.raises(ZooError, match=f"{tmp_path} has a damaged study"):
            open_study(node, tmp_path, goal)


def test_a_run_folder_that_was_deleted_is_one_line(tmp_path):
    run = tmp_path / "run"
    with (
        pytest.raises(ZooError, match=r"^hydra.run.dir=\S+/run: the run folder was deleted during the run"),
        recorded(run) as results,
    ):
        begin(run, results)
        for path in run.iterdir():
            path.unlink()
        run.rmdir()
        raise FileNotFoundError(run / "csv")
    assert not run.exists()


# Writing

WRITES = {"write_text", "write_bytes", "savefig", "tofile", "save_file", "savetxt", "to_csv", "touch", "mkstemp"}
ALLOWED = {
    ("training/callbacks.py", "write_text"),  # /proc
    ("tracking/callback.py", "savefig"),  # in memory
    ("report/details.py", "savefig"),  # in memory
    ("bench/framework.py", "touch"),  # a mark in a temporary folder
    ("data/copies.py", "write_bytes"),  # renamed there; `whole_file` would search the folder for each image
    ("weights/files.py", "open r+b"),  # inside the block of `whole_file`
}


def writes(path):
    """Yield the name of each call that writes a file outside of the block of `whole_file`."""
    tree = ast.parse(path.read_text())
    inside = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and any("whole_file(" in ast.unparse(item) for item in block.items)
        for node in ast.walk(block)
    }
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node not in inside):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        whole = ast.unparse(node)
        modes = [word.value for word in [*node.args, *(each.value for each in node.keywords)] if isinstance(word, ast.Constant)]
        if name == "open" and (
            mode := next((m for m in modes if isinstance(m, str) and re.fullmatch("[rbt]*[wax+][wbt+]*", m)), None)
        ):
            yield f"open {mode}"
        elif name in WRITES or whole.startswith(("OmegaConf.save", "torch.save", "np.save", "shutil.copy", "os.replace")):
            yield name


def test_every_write_is_whole():
    found = {(str(path.relative_to(PACKAGE)), name) for path in PACKAGE.rglob("*.py") for name in writes(path)}
    assert found == ALLOWED


def test_a_file_is_whole_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "a.json"
    before = os.umask(0o027)
    try:
        write_whole(path, "é\udcff\r\n")
        assert path.read_bytes() == b"\xc3\xa9\xff\r\n" and path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o600)
        write_whole(path, "new")
        assert path.stat().st_mode & 0o777 == 0o600 and [path] == list(tmp_path.iterdir())
    finally:
        os.umask(before)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ZooError, match="is not a regular file"):
        write_whole(tmp_path / "pipe", "x")
    with pytest.raises(ZooError, match="cannot be written: No such file or directory"):
        write_whole(tmp_path / "gone" / "a", "x")


WAIT = """
import sys, time
from pathlib import Path
from inception_zoo.system.atomic_files import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("before")
    foreign = tmp_path / ".report.html.partial-12345678"  # a file, not a folder of ours
    foreign.write_text("mine")
    others = [tmp_path / ".report.html.backup", tmp_path / ".other.html.partial-12345678"]
    for other in others:
        other.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", WAIT, path]
    killed, living = (subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(2))
    assert killed.stdout.readline() and living.stdout.readline()
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.glob(".report.html.partial-*/report.html"))) == 2 and path.read_text() == "before"
    write_whole(path, "after")
    assert len(list(tmp_path.glob(".report.html.partial-*/report.html"))) == 1  # of the process that still writes
    living.kill()
    living.communicate()
    sweep_up(tmp_path, "report.html")
    assert sorted(tmp_path.iterdir()) == sorted([path, foreign, *others]) and path.read_text() == "after"


def test_writers_of_one_name_do_not_disturb_each_other(tmp_path):
    path, texts = tmp_path / "a", [str(number) * 10_000 for number in range(4)]
    threads = [threading.Thread(target=lambda text=text: [write_whole(path, text) for _ in range(20)]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts and list(tmp_path.iterdir()) == [path]


SAVE = """
import sys
from pathlib import Path
import torch
from inception_zoo import create_model
from inception_zoo.weights.files import with_transform, write_weights
from inception_zoo.weights.saving import save_model

torch.manual_seed(0)
model = create_model("googlenet_bn", 3, width=0.07, aux=False)
save_model(model, Path(sys.argv[1]) / "a.safetensors")
for name in ("b.safetensors", "c.pth", "d.weights.h5"):
    write_weights(Path(sys.argv[1]) / name, with_transform(model.state_dict(), True), card='{"é": 1}')
"""


def test_equal_weights_are_equal_files(tmp_path, monkeypatch):
    from safetensors import safe_open

    found = []
    for number in "12":
        (folder := tmp_path / number).mkdir()
        if number == "1":
            environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(PACKAGE.parent)}
            subprocess.run([sys.executable, "-c", SAVE, folder], env=environment, check=True, timeout=300)
        else:
            monkeypatch.setattr(sys, "argv", ["", str(folder)])
            exec(compile(SAVE, "save", "exec"), {})
        found.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    assert found[0] == found[1] and len(found[0]) == 4
    with safe_open(tmp_path / "1" / "b.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata == {"format": "pt", "inception_zoo": '{"é": 1}', "transform_input": "true"}


def test_a_sweep_without_a_whole_record_is_an_error_that_says_what_to_do(tmp_path):
    sweep = write_sweep(tmp_path, "sweep.json", lambda content: json.dumps({"jobs": 10**12}).encode())
    with pytest.raises(ZooError, match=f"repeat the whole command with hydra.sweep.dir={tmp_path}"):
        resumed(["-m", f"sweep.resume={sweep}"])
