"""A resumed run equals an uninterrupted run after kill -9, signals and corrupt files.

`make test-faults` injects many more faults.
"""

import csv
import errno
import json
import math
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, lines
from filelock import FileLock
from tools import commands

from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import sweep_up, whole_file
from inception_zoo.training.atomic_checkpoints import AtomicCheckpointIO
from inception_zoo.training.checkpoints import find_checkpoint, newest_whole

SCRATCH = [word for word in SMALL if word != "trainer=smoke"]
EXACT = [  # everything random, and everything with a state
    *(word for word in SCRATCH if not word.startswith("model.")),
    *("model=inception_resnet_v1", "model.width=0.125", "model.stem=small", "model.drop_path=0.1", "model.dropout=0.2"),
    *("augmentation.mixup=0.2", "callbacks=ema", "callbacks.ema.decay=0.9", "trainer.accumulate_grad_batches=2"),
    *("trainer.max_epochs=2", "trainer.limit_train_batches=10", "trainer.limit_test_batches=1", "trainer.log_every_n_steps=1"),
    *("logger=csv", "logger.csv.flush_logs_every_n_steps=1", "callbacks.last.every_n_steps=2"),
]
TIMES = ("train/images_per_second", "train/peak_memory_gib")


def begun(folder, *words):
    own = [] if "ckpt=last" in words else EXACT  # the checkpoint brings them
    command = [ROOT / "run.py", *own, *words, f"hydra.run.dir={folder}"]
    return commands.started(command, folder.parent, Path(f"{folder}.log"))


def trained(folder, *words):
    with begun(folder, *words) as process:
        pass
    assert process.exitcode == 0, Path(f"{folder}.log").read_text()


def rows(folder):
    try:
        with (folder / "csv/version_0/metrics.csv").open(newline="") as file:
            return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def wait_for(ready, process):
    until = time.monotonic() + 120
    while not ready() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.02)


def weights(path):
    checkpoint = torch.load(path, weights_only=True)
    return {**checkpoint["state_dict"], **{f"raw.{k}": v for k, v in checkpoint["current_model_state"].items()}}


def assert_same(folder, reference):
    assert rows(folder) == rows(reference)
    for name in ("last", "best"):
        ours, theirs = (weights(each / f"checkpoints/{name}.ckpt") for each in (folder, reference))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def killed(folder, *words):
    """Start a training and kill all its processes in mid-epoch, after a checkpoint."""
    with begun(folder, *words) as process:
        wait_for(lambda: len(rows(folder)) >= 14, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.exitcode == -signal.SIGKILL
    assert json.loads((folder / "results.json").read_text())["state"] == "running"
    assert 0 < torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] < 10


def test_what_was_killed_goes_on_to_the_same_weights_and_metrics(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = ["trainer.precision=bf16-mixed"]
    trained(whole, *words)
    killed(cut, *words)
    last = cut / "checkpoints/last.ckpt"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    last.write_bytes(damaged)
    trained(cut, "ckpt=last")
    assert f"{last} is damaged; trying an earlier checkpoint" in Path(f"{cut}.log").read_text()
    assert_same(cut, whole)


@pytest.mark.slow
def test_two_processes_that_were_killed_and_terminated_go_on_as_well(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = ["trainer.devices=2", "trainer.precision=32-true", "+scheduler.threshold=2", "+scheduler.patience=0"]
    words.append("scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau")  # lower after each epoch, also a resumed one
    trained(whole, *words)
    killed(cut, *words)
    with begun(cut, "ckpt=last") as process:
        wait_for(lambda: len(rows(cut)) >= 24, process)
        os.kill(process.pid, signal.SIGTERM)  # to rank 0 only
    assert process.exitcode == 143
    assert f"resume with: python run.py ckpt=last hydra.run.dir={cut}\n" in Path(f"{cut}.log").read_text()
    assert json.loads((cut / "results.json").read_text())["state"] == "interrupted"
    trained(cut, "ckpt=last")
    assert_same(cut, whole)


POISON = """
import os, lightning.pytorch.callbacks
class Poison(lightning.pytorch.callbacks.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index == 3 and trainer.global_rank == 1:
            raise ZeroDivisionError("in the second process")
class Nan(lightning.pytorch.callbacks.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if index == 3:
            next(module.parameters()).data.fill_(float("nan"))
"""


@pytest.fixture
def poison(tmp_path):
    (tmp_path / "poison.py").write_text(POISON)
    return {"INCEPTION_ZOO_TARGETS": "poison.Poison,poison.Nan"}.items()


LONGER = [*SCRATCH, "logger=csv", "trainer.max_epochs=1", "trainer.limit_train_batches=6", "trainer.limit_val_batches=1"]


def test_a_process_that_fails_ends_its_job_with_its_error(zoo, poison, tmp_path):
    begun = time.monotonic()
    done = zoo(*LONGER, "trainer.devices=2", "+callbacks.poison._target_=poison.Poison", "hydra.run.dir=r", env=poison)
    assert done.returncode == 2 and time.monotonic() - begun < 120
    reason = "rank 1 of this job failed: ZeroDivisionError: in the second process"
    assert lines(done.stderr)[-1] == f"error: {reason}"
    results = json.loads((tmp_path / "r/results.json").read_text())
    assert (results["state"], results["reason"]) == ("failed", reason)


def test_a_loss_that_is_nan_stops_the_run_and_names_the_batch(zoo, poison, tmp_path):
    words = [*LONGER, "+callbacks.nan._target_=poison.Nan", "callbacks.last.every_n_steps=2"]
    stopped = zoo(*words, "hydra.run.dir=stop", env=poison)
    assert stopped.returncode == 2
    last = lines(stopped.stderr)[-1]
    assert last.startswith("error: the loss is nan in epoch 0, batch 3, at learning rate ")
    assert f"last good checkpoint: {tmp_path}/stop/checkpoints/last.ckpt" in last and "training images" in last
    saved = torch.load(tmp_path / "stop/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 and all(w.isfinite().all() for w in saved["state_dict"].values())
    back = zoo(*words, "callbacks.last.on_nan=rollback", "hydra.run.dir=back", env=poison)
    assert back.returncode == 0, back.stderr
    assert "lowered to 0.5 of the schedule (rollback 1 of 3)" in back.stdout + back.stderr
    assert math.isfinite(json.loads((tmp_path / "back/results.json").read_text())["train/loss"])  # of the batches since then
    after = torch.load(tmp_path / "back/checkpoints/last.ckpt", weights_only=True)
    assert all(w.isfinite().all() for w in after["state_dict"].values())
    assert after["lr_schedulers"][0]["base_lrs"] == [saved["lr_schedulers"][0]["base_lrs"][0] / 2]


def test_a_folder_has_one_job_at_a_time(mistake, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"):  # as `runs.claim` does
        second = mistake(*SMALL, "hydra.run.dir=run")
    assert second.returncode == 2
    assert lines(second.stderr)[-1].endswith("another job is running in this folder; wait for it, or set another")
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_training_does_not_begin_over_another(mistake, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/best.ckpt").write_text("dear")
    over = mistake(*SMALL, "hydra.run.dir=run")
    assert over.returncode == 2 and "already holds a run; resume it with ckpt=last" in lines(over.stderr)[-1]
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"checkpoints", ".lock"}
    assert (tmp_path / "run/checkpoints/best.ckpt").read_text() == "dear"


def saved(folder, name, step):
    path = folder / "checkpoints" / name
    config = {"model": {}, "data": {}, "trainer": {}}
    content = {"hyper_parameters": config, "global_step": step, "weights": torch.randn(50)}
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


def test_the_newest_whole_checkpoint_is_taken(tmp_path, caplog):
    last, previous, best = (saved(tmp_path, f"{name}.ckpt", step) for name, step in (("last", 3), ("previous", 2), ("best", 1)))
    os.utime(previous, (2e9, 2e9))  # as after a clock jump
    assert newest_whole(tmp_path) == last
    for content in (b"", b"garbage", last.read_bytes()[:-40], last.read_bytes()[:300] + b"\1" + last.read_bytes()[301:]):
        last.write_bytes(content)
        assert newest_whole(tmp_path) == previous
    assert f"{last} is damaged" in caplog.text
    previous.write_bytes(b"")
    assert newest_whole(tmp_path) == best
    best.unlink()
    assert newest_whole(tmp_path) is None
    assert find_checkpoint("last", "fit", tmp_path, interrupted=True, runs=tmp_path / "none") is None
    with pytest.raises(ZooError, match="there is no intact checkpoint"):
        find_checkpoint("last", "fit", tmp_path, runs=tmp_path / "none")


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_disk_that_is_full_leaves_the_checkpoint_before(size, mistake, tmp_path):
    path = saved(tmp_path, "last.ckpt", 1)

    def save():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        try:
            AtomicCheckpointIO().save_checkpoint({"a": torch.randn(100_000)}, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # so that the traceback can be written to a file

    done = mistake(main=save)
    assert f"ZooError: {path} cannot be written: {os.strerror(errno.EFBIG)}" in done.stderr
    assert newest_whole(tmp_path) == path and [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_what_a_killed_writer_left_is_swept_up(tmp_path):
    (tmp_path / "last.ckpt").write_text("whole")
    left = tmp_path / ".last.ckpt.partial-x8f3a_12"
    left.mkdir()
    (left / "last.ckpt").write_text("half")
    sweep_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "last.ckpt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "last.ckpt").read_text() == "whole" and len(list(tmp_path.iterdir())) == 1
