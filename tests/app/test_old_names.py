"""Runs of versions before the package was split into folders can be resumed, tested, used for prediction and reported.

Commit 7f5b39c wrote tests/fixtures/before_rooms: a run with an average of the weights and Unfreeze, and a sweep of two jobs,
without the second. Its files name classes by import paths that have changed since.
"""

import csv
import json
import shutil

import numpy as np
import pytest
from conftest import ROOT
from hydra.types import RunMode
from PIL import Image

from inception_zoo.config import hydra_patches
from inception_zoo.config.allowed import TARGETS
from inception_zoo.runs import sweepers
from inception_zoo.system.renamed import MOVED, with_new_names

FIXTURE = ROOT / "tests" / "fixtures" / "before_rooms"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_fixture_names_what_has_moved():
    text = "".join(path.read_text() for path in FIXTURE.rglob("*.yaml")) + (FIXTURE / "sweep/sweep.json").read_text()
    assert {old for old in MOVED if old in text} >= {
        "inception_zoo.finetune.Unfreeze",
        "inception_zoo.callbacks.EMA",
        "inception_zoo.safekeeping.Safekeeping",
        "inception_zoo.muon.Muon",
        "inception_zoo.schedules.constant",
        "inception_zoo.metrics_file.CSVLogger",
    }


def test_every_old_name_leads_to_what_is_allowed():
    assert set(MOVED.values()) <= set(TARGETS)
    assert with_new_names([{"a": {"_target_": old}} for old in MOVED]) == [{"a": {"_target_": new}} for new in MOVED.values()]


@pytest.mark.parametrize(
    ("words", "val"),
    [
        (["data=digits", "data.val_size=30"], 30),
        (["data=digits", "experiment=old"], 50),
        (["data=digits", "experiment=old", "data.split.val=0.2"], 0.2),
        (["data=digits", "experiment=old", "data.val_size=8"], 8),
        (["data=mine"], 60),
        (["data=mine", "experiment=old"], 50),
    ],
)
def test_val_size_is_the_number_of_data_split(words, val, tmp_path):
    hydra_patches.install()
    for path, text in {
        "experiment/old.yaml": "# @package _global_\ndata:\n  val_size: 50\n",
        "data/mine.yaml": "defaults:\n  - digits\nval_size: 60\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    data = hydra_patches.loader(str(tmp_path)).load_configuration("config", words, RunMode.RUN).data
    assert (data.split.val, data.split.test) == (val, None) and "val_size" not in data


def test_a_resumed_sweep_knows_the_jobs_that_varied_val_size(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("- data.val_size=20\n- seed=1\n")
    (tmp_path / "results.json").write_text('{"state": "finished"}')
    assert sweepers._is_done(tmp_path, ["data.split.val=20", "seed=1"])


def test_val_size_in_a_checkpoint():
    old = {"data": {"_target_": "inception_zoo.data.ImageData", "val_size": 200}, "other": {"val_size": 3}}
    assert with_new_names(old) == {
        "data": {"_target_": "inception_zoo.data.ImageData", "split": {"val": 200}},
        "other": {"val_size": 3},
    }


def test_a_run_is_resumed_tested_and_predicted_with(zoo, cli, folder):
    again = zoo("trainer.max_epochs=3", "ckpt=last", "hydra.run.dir=run")
    assert again.returncode == 0, again.stderr
    with (folder / "run/csv/version_0/metrics.csv").open(newline="") as file:
        epochs = {row["epoch"] for row in csv.DictReader(file)}
    assert {"0", "1", "2"} <= epochs and json.loads((folder / "run/results.json").read_text())["state"] == "finished"
    shutil.copytree(FIXTURE / "run", folder / "kept")
    tested = zoo("task=test", "ckpt=kept", "trainer.limit_test_batches=1")
    assert tested.returncode == 0, tested.stderr
    assert "kept/checkpoints/best.ckpt" in "".join(tested.stdout.split())
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "black.png")
    predicted = cli("predict", folder / "kept/checkpoints/best.ckpt", folder / "black.png", "--format", "csv")
    assert predicted.returncode == 0 and "black.png" in predicted.stdout, predicted.stderr


def test_a_sweep_is_resumed_and_reported(zoo, cli, folder):
    sweep = folder / "sweep/sweep.json"
    sweep.write_text(json.dumps({**json.loads(sweep.read_text()), "cwd": str(folder)}))
    before = (folder / "sweep/0/results.json").read_text()
    again = zoo("-m", "sweep.resume=sweep")
    assert again.returncode == 0, again.stderr
    assert (folder / "sweep/0/results.json").read_text() == before
    assert json.loads((folder / "sweep/1/results.json").read_text())["state"] == "finished"
    reported = cli("report", folder / "run", folder / "sweep", "--out", folder / "report.html")
    assert reported.returncode == 0 and "3 runs" in reported.stderr, reported.stderr


def test_a_config_of_ones_own_may_have_old_names(zoo, tmp_path):
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/old.yaml").write_text(
        "# @package _global_\nscheduler:\n  _target_: inception_zoo.schedules.constant\n  warmup_epochs: null\n"
    )
    done = zoo("--config-dir", "mine", "experiment=old")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "scheduler.warmup_epochs is not an option of constant" in line
