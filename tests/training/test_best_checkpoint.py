"""The best checkpoint of a run stays the best one when the run folder is moved, copied, or resumed in another folder."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL

from inception_zoo.runs.results import best_of, evaluated_checkpoint, read_results
from inception_zoo.training.best_checkpoint import BestCheckpoint

BEST = 0.99  # no later epoch of the test reaches it
OF_A_RUN = {"hyper_parameters": {"model": {}, "data": {}, "trainer": {}}}  # the least that a checkpoint of a run has


@pytest.fixture
def run(zoo, tmp_path):
    """A finished run of one epoch whose best validation accuracy is set to `BEST`, moved to the folder `moved`."""
    done = zoo(*SMALL, "logger=csv", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "run/checkpoints" / name for name in ("best.ckpt", "last.ckpt")):
        checkpoint = torch.load(path, weights_only=True)
        (state,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
        assert (state["best_model_path"], list(state["best_k_models"])) == ("best.ckpt", ["best.ckpt"])
        score = torch.tensor(BEST)
        state |= {"best_model_score": score, "current_score": score, "kth_value": score, "best_k_models": {"best.ckpt": score}}
        torch.save(checkpoint, path)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    return tmp_path / "moved"


def test_a_moved_run_keeps_its_best_checkpoint(run, zoo):
    best = (run / "checkpoints/best.ckpt").read_bytes()
    first = read_results(run)["minutes"]
    more = zoo(*SMALL, "trainer.max_epochs=2", "ckpt=last", "hydra.run.dir=moved")
    assert more.returncode == 0, more.stderr
    results = read_results(run)
    assert results["val/top1_best"] == pytest.approx(BEST) and results["val/top1"] < BEST
    assert results["tested"] == "checkpoints/best.ckpt" and (run / "checkpoints/best.ckpt").read_bytes() == best
    assert {"train/loss", "val/loss"} <= set(results)
    assert results["minutes"] - results["earlier_minutes"] > 0 and results["earlier_minutes"] > first / 2


@pytest.mark.parametrize("epochs", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["no more epochs", "one more epoch"])
def test_a_run_resumed_in_another_folder_brings_its_best_checkpoint(run, epochs, zoo, tmp_path):
    done = zoo(*SMALL, f"trainer.max_epochs={epochs}", "ckpt=moved", "hydra.run.dir=new")
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "new")
    assert best_of(results) == pytest.approx(BEST) and results["tested"] == "checkpoints/best.ckpt"
    assert {"train/loss", "val/loss"} <= set(results)  # of the earlier part, if there was no other
    assert (tmp_path / "new/checkpoints/best.ckpt").read_bytes() == (run / "checkpoints/best.ckpt").read_bytes()
    finished = "nothing left to train: moved/checkpoints/last.ckpt has finished trainer.max_epochs=1 epochs; set a larger"
    assert (finished in done.stdout) == (epochs == 1)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PK")], ids=["missing", "damaged"])
def test_a_missing_or_damaged_best_checkpoint_is_reported(damage, run, zoo, tmp_path):
    damage(run / "checkpoints/best.ckpt")
    done = zoo(*SMALL, "trainer.max_epochs=2", "ckpt=moved", "hydra.run.dir=new")
    assert done.returncode == 0, done.stderr
    assert "best.ckpt is missing or damaged, the best checkpoint so far" in done.stdout + done.stderr
    assert best_of(read_results(tmp_path / "new")) < BEST


def test_a_state_of_an_older_version_names_absolute_paths(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    for name in ("epoch=0.ckpt", "epoch=1.ckpt"):
        torch.save(OF_A_RUN, old / name)
    score = {str(old / "epoch=0.ckpt"): torch.tensor(0.5), str(old / "epoch=1.ckpt"): torch.tensor(0.75)}
    paths = {"best_model_path": str(old / "epoch=1.ckpt"), "kth_best_model_path": str(old / "epoch=0.ckpt")}
    state = {"monitor": "val/top1", "dirpath": str(old), "last_model_path": "", **paths, "best_k_models": score}
    state |= {"best_model_score": torch.tensor(0.75), "kth_value": torch.tensor(0.5), "current_score": torch.tensor(0.75)}
    best = BestCheckpoint(dirpath=str(new), filename="{step}", monitor="val/top1", mode="max", save_top_k=2)
    best._resumed = old / "last.ckpt"
    best.load_state_dict(state)
    assert best.best_model_path == str(new / "epoch=1.ckpt") and best.best_model_score == 0.75
    assert best.kth_best_model_path == str(new / "epoch=0.ckpt") and best.kth_value == 0.5
    assert sorted(path.name for path in new.iterdir()) == ["epoch=0.ckpt", "epoch=1.ckpt"]


def test_the_resumed_file_may_be_named_without_a_folder(tmp_path, monkeypatch):
    (tmp_path / "old/checkpoints").mkdir(parents=True)
    (tmp_path / "new").mkdir()
    torch.save(OF_A_RUN, tmp_path / "old/checkpoints/best.ckpt")
    monkeypatch.chdir(tmp_path / "old/checkpoints")
    best = BestCheckpoint(dirpath=str(tmp_path / "new"), filename="best", monitor="val/top1", mode="max")
    best.on_load_checkpoint(SimpleNamespace(ckpt_path="last.ckpt"), None, {})
    score = torch.tensor(0.75)
    scores = {"best_model_score": score, "kth_value": score, "current_score": score, "best_k_models": {"best.ckpt": score}}
    paths = dict.fromkeys(("best_model_path", "kth_best_model_path"), "best.ckpt") | {"last_model_path": ""}
    best.load_state_dict({"monitor": "val/top1", "dirpath": "checkpoints", **paths, **scores})
    assert best.best_model_path == str(tmp_path / "new/best.ckpt") and Path(best.best_model_path).exists()


def test_the_record_names_what_was_monitored_and_tested(zoo, cli, tmp_path):
    words = ["callbacks.best.monitor=val/loss", "callbacks.best.mode=min", "callbacks.best.filename='{epoch}'"]
    done = zoo(*SMALL, *words, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert (results["monitor"], results["mode"], results["tested"]) == ("val/loss", "min", "checkpoints/epoch=0.ckpt")
    assert best_of(results) == results["val/loss_best"] == pytest.approx(results["val/loss"])
    assert "val/top1_best" not in results and "val/loss_best" in done.stdout
    assert evaluated_checkpoint(tmp_path / "run") == tmp_path / "run/checkpoints/epoch=0.ckpt"
    again = zoo(*SMALL, "task=test", "ckpt=run", "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again/results.json").read_text())["test/loss"] == results["test/loss"]


@pytest.mark.parametrize("options", [{"save_top_k": 3}, {"save_top_k": -1}])
def test_checkpoints_that_would_share_a_file_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match=r"save_top_k=-?\d needs \{step\} in filename=best"):
        BestCheckpoint(dirpath=tmp_path, filename="best", monitor="val/top1", enable_version_counter=False, **options)
    BestCheckpoint(dirpath=tmp_path, filename="{step}", monitor="val/top1", enable_version_counter=False, **options)


def test_a_best_checkpoint_newer_than_the_resumed_state_counts_with_its_own_score(tmp_path):
    """The process was killed after a validation, before it saved last.ckpt."""
    best = BestCheckpoint(dirpath=tmp_path, filename="best", monitor="val/top1", mode="max", enable_version_counter=False)
    state = {"callbacks": {best.state_key: {"current_score": torch.tensor(0.75)}}}
    torch.save(OF_A_RUN | state, tmp_path / "best.ckpt")
    score = torch.tensor(0.5)
    paths = {"best_model_path": "best.ckpt", "kth_best_model_path": "best.ckpt", "last_model_path": ""}
    state = {"dirpath": ".", "best_k_models": {"best.ckpt": score}, "best_model_score": score, "kth_value": score, **paths}
    best._resumed = tmp_path / "checkpoints/last.ckpt"
    best.load_state_dict(state)
    assert best.best_model_score == best.kth_value == 0.75


def test_another_metric_is_not_resumed(run, zoo):
    other = zoo(*SMALL, "trainer.max_epochs=2", "ckpt=last", "callbacks.best.monitor=val/macro", "hydra.run.dir=moved")
    assert other.returncode == 2 and "was trained with callbacks.best.monitor=val/top1; leave it out" in other.stderr


@pytest.mark.slow
def test_a_folder_of_its_own_for_the_best_checkpoint(zoo, tmp_path):
    words = [*SMALL, "logger=none", "callbacks.best.dirpath='${hydra:runtime.output_dir}/best'"]
    first = zoo(*words, "hydra.run.dir=first")
    assert first.returncode == 0, first.stderr
    more = zoo(*words, "ckpt=first", "hydra.run.dir=second")
    assert more.returncode == 0, more.stderr
    results = read_results(tmp_path / "second")
    assert results["tested"] == "best/best.ckpt" and best_of(results) == best_of(read_results(tmp_path / "first"))
    (tmp_path / "second/best/best.ckpt").unlink()
    gone = zoo(*words, "task=test", "ckpt=second")
    assert gone.returncode == 2 and "best.ckpt is missing, the checkpoint that the run tested" in gone.stderr


def test_the_last_weights_are_named_as_such(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").touch()
    assert evaluated_checkpoint(tmp_path) == tmp_path / "checkpoints/best.ckpt"  # not tested yet, or an older version
    (tmp_path / "results.json").write_text('{"tested": null}')
    assert evaluated_checkpoint(tmp_path) is None
