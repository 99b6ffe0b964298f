"""The best checkpoint of a run stays the best one when the run folder is moved, copied, or resumed in another folder."""

import json
import shutil

import pytest
import torch
from conftest import SMALL

from inception_zoo import ZooError
from inception_zoo.runs.results import best_of, evaluated_checkpoint, read_results
from inception_zoo.training.best_checkpoint import BestCheckpoint

BEST = 0.99  # no later epoch of the test reaches it


@pytest.fixture
def run(zoo, tmp_path):
    """A finished run of one epoch whose best validation accuracy is set to `BEST`, moved to the folder `moved`."""
    done = zoo(*SMALL, "hydra.run.dir=run")
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
    assert results["minutes"] - results["earlier_minutes"] > 0 and results["earlier_minutes"] > first / 2


@pytest.mark.parametrize("epochs", [1, 2], ids=["no more epochs", "one more epoch"])
def test_a_run_resumed_in_another_folder_brings_its_best_checkpoint(run, epochs, zoo, tmp_path):
    done = zoo(*SMALL, f"trainer.max_epochs={epochs}", "ckpt=moved", "hydra.run.dir=new")
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "new")
    assert best_of(results) == pytest.approx(BEST) and results["tested"] == "checkpoints/best.ckpt"
    assert (tmp_path / "new/checkpoints/best.ckpt").read_bytes() == (run / "checkpoints/best.ckpt").read_bytes()


def test_a_missing_best_checkpoint_is_reported(run, zoo, tmp_path):
    (run / "checkpoints/best.ckpt").unlink()
    done = zoo(*SMALL, "trainer.max_epochs=2", "ckpt=moved", "hydra.run.dir=new")
    assert done.returncode == 0, done.stderr
    assert "best.ckpt is missing, the best checkpoint so far" in done.stdout + done.stderr
    assert best_of(read_results(tmp_path / "new")) < BEST


def test_a_state_of_an_older_version_names_absolute_paths(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    for name in ("epoch=0.ckpt", "epoch=1.ckpt"):
        torch.save({}, old / name)
    score = {str(old / "epoch=0.ckpt"): torch.tensor(0.5), str(old / "epoch=1.ckpt"): torch.tensor(0.75)}
    paths = {"best_model_path": str(old / "epoch=1.ckpt"), "kth_best_model_path": str(old / "epoch=0.ckpt")}
    state = {"monitor": "val/top1", "dirpath": str(old), "last_model_path": "", **paths, "best_k_models": score}
    state |= {"best_model_score": torch.tensor(0.75), "kth_value": torch.tensor(0.5), "current_score": torch.tensor(0.75)}
    best = BestCheckpoint(dirpath=str(new), filename="{epoch}", monitor="val/top1", mode="max", save_top_k=2)
    best._resumed = old
    best.load_state_dict(state)
    assert best.best_model_path == str(new / "epoch=1.ckpt") and best.best_model_score == 0.75
    assert best.kth_best_model_path == str(new / "epoch=0.ckpt") and best.kth_value == 0.5
    assert sorted(path.name for path in new.iterdir()) == ["epoch=0.ckpt", "epoch=1.ckpt"]


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
    with pytest.raises(ZooError, match=r"save_top_k=-?\d needs \{epoch\} or \{step\} in filename=best"):
        BestCheckpoint(dirpath=tmp_path, filename="best", monitor="val/top1", enable_version_counter=False, **options)
    BestCheckpoint(dirpath=tmp_path, filename="{epoch}", monitor="val/top1", enable_version_counter=False, **options)
