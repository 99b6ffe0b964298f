"""Each job and each sweep has a folder of its own; a start that fails leaves none behind."""

import json
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, lines
from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from tools import commands

from inception_zoo import ZooError
from inception_zoo.runs import folders
from inception_zoo.runs.folders import quoted
from inception_zoo.runs.results import check_free, read_results, recorded


@pytest.fixture(autouse=True)
def forget():
    yield
    for folder in list(folders._claimed):
        folders.release(folder)
    folders.keep()


@pytest.mark.parametrize("folder", ["/tmp/a-b_1.2/3", "/1", "sweep", "null", "12", "/it's here", "/a=b,c", "/ü"])
def test_a_folder_is_read_back_from_an_override(folder):
    word = quoted(Path(folder))
    assert OverridesParser.create().parse_override(f"key={word}").value() == folder
    assert (word == folder) == (folder in ("/tmp/a-b_1.2/3", "/1"))


def test_commands_of_one_second_get_folders_of_their_own(tmp_path):
    for name in ("run", "run_2", "run_3"):
        assert folders.claim_new(tmp_path / "day/run", "hydra.run.dir") == tmp_path / "day" / name
        folders.keep()


def test_a_folder_is_discarded_with_its_parents_unless_it_was_there_or_is_kept(tmp_path):
    folders.claim_first(tmp_path / "a/b/run", "hydra.run.dir")
    (tmp_path / "a/b/run/inception_zoo.log").touch()
    folders.discard()
    assert not (tmp_path / "a").exists()
    (tmp_path / "there").mkdir()
    folders.claim_first(tmp_path / "there", "hydra.run.dir")
    folders.claim_first(tmp_path / "kept", "hydra.run.dir")
    folders.keep()
    folders.discard()
    assert (tmp_path / "there").is_dir() and (tmp_path / "kept").is_dir()


def test_jobs_that_start_together_by_default_do_not_meet(tmp_path):
    words = [ROOT / "run.py", *SMALL, "logger=csv", "trainer.limit_train_batches=1"]
    with commands.started(words, tmp_path, tmp_path / "a.log") as a, commands.started(words, tmp_path, tmp_path / "b.log") as b:
        pass
    assert (a.exitcode, b.exitcode) == (0, 0), (tmp_path / "a.log").read_text() + (tmp_path / "b.log").read_text()
    found = list(tmp_path.glob("outputs/*/*/results.json"))
    assert len(found) == 2 and all(json.loads(path.read_text())["state"] == "finished" for path in found)


def test_every_spelling_of_a_folder_is_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    folders.claim(Path("run"))
    for spelling in ("./run", f"../{tmp_path.name}/run", str(tmp_path / "run"), "link/run"):
        with recorded(Path(spelling)):
            folders.claim(Path("run"))  # `recorded` released it at its end
        folders.claim(Path(spelling))
    with pytest.raises(Timeout), FileLock(tmp_path / "run/.lock", timeout=0):
        pass


def test_a_start_that_fails_leaves_no_folder(zoo, mistake, tmp_path):
    failed = zoo(*SMALL, "data=imagefolder", "data.root=nowhere", "data.num_classes=3", "hydra.run.dir=a/b/run")
    assert failed.returncode == 2 and not (tmp_path / "a").exists(), failed.stderr
    failed = zoo(*SMALL, "optimizer.eps=-1", "hydra.run.dir=run")  # found by the library, after the folder was claimed
    assert failed.returncode == 2 and not (tmp_path / "run").exists(), failed.stderr
    failed = mistake("-m", "seed=1,2", "model.width=x", *SMALL, "hydra.sweep.dir=sweep", "+hydra.sweeper.y=1")
    assert failed.returncode == 2 and not (tmp_path / "sweep").exists(), failed.stderr


def test_a_used_folder_is_kept_when_a_start_fails(zoo, tmp_path):
    done = zoo(*SMALL, "logger=csv", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    record = (tmp_path / "run/results.json").read_bytes()
    again = zoo(*SMALL, "logger=csv", "seed=9", "ckpt=last", "hydra.run.dir=run")  # another recipe
    assert again.returncode == 2 and "was trained with seed=" in lines(again.stderr)[-1]
    assert (tmp_path / "run/results.json").read_bytes() == record
    test = zoo(*SMALL, "logger=csv", "task=test", "ckpt=run", "hydra.run.dir=run")
    assert test.returncode == 2 and "already holds a run; set another folder" in lines(test.stderr)[-1]
    sweep = zoo("-m", "seed=1,2", *SMALL, "hydra.sweep.dir=run")
    assert sweep.returncode == 2 and "hydra.sweep.dir=run already holds a run" in lines(sweep.stderr)[-1]
    assert (tmp_path / "run/results.json").read_bytes() == record


@pytest.mark.parametrize(
    ("task", "ckpt", "message"),
    [
        ("fit", None, "resume it with ckpt=last"),
        ("fit", "last", None),
        ("fit", "run/checkpoints/last.ckpt", None),
        ("fit", "other/checkpoints/last.ckpt", "resume it with ckpt=last"),  # it would overwrite best.ckpt
        ("test", "run", "already holds a run; set another folder"),
    ],
)
def test_a_used_folder_is_for_resuming_only(task, ckpt, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/last.ckpt").touch()
    if message is None:
        check_free(Path("run"), task, ckpt)
        return
    with pytest.raises(ZooError, match=message):
        check_free(Path("run"), task, ckpt)


def test_two_sweeps_in_one_folder_are_refused(zoo, mistake, tmp_path):
    (tmp_path / "sweep").mkdir()
    with FileLock(tmp_path / "sweep/.lock"):
        second = mistake("-m", "seed=1,2", *SMALL, "hydra.sweep.dir=sweep")
    assert second.returncode == 2
    assert lines(second.stderr)[-1].endswith("sweep: another job is running in this folder; wait for it, or set another")
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [".lock"]
    (tmp_path / "sweep/sweep.json").write_text("{}")
    single = mistake(*SMALL, "hydra.run.dir=sweep")
    assert single.returncode == 2 and "hydra.run.dir=sweep already holds a sweep" in lines(single.stderr)[-1]


def test_the_folder_of_a_job_is_named_as_the_experiment_says(zoo, tmp_path):
    """`finetune seed=S` loads the weights of `outputs/pretrain/S`."""
    words = ["seed=2,3", "hydra.sweep.dir=sweep", "hydra.sweep.subdir='${seed}'"]
    done = zoo("-m", *words, *SMALL, "logger=csv")
    assert done.returncode == 0, done.stderr
    assert {name: read_results(tmp_path / "sweep" / name)["seed"] for name in ("2", "3")} == {"2": 2, "3": 3}
    again = zoo("-m", "sweep.resume=sweep")
    assert again.returncode == 0 and "job 2/2" not in again.stdout + again.stderr
    shared = zoo("-m", *words, "label_smoothing=0,0.1", *SMALL)
    assert shared.returncode == 2 and "must give each job a folder of its own, but gives '2'" in shared.stderr


@pytest.mark.slow
def test_a_default_sweep_folder_is_unique_for_its_jobs_too(zoo, tmp_path):
    words = ["-m", "seed=1,2", *SMALL, "logger=none", "hydra/sweeper=grid"]
    script = "import inception_zoo.config.hydra_patches as p, datetime; p._start = lambda: datetime.datetime(2030, 1, 1); "
    script += f"import sys; sys.argv = ['run.py', *{words!r}]; from inception_zoo.app import main; main()"
    for _ in range(2):
        done = zoo(script=("-c", script), fresh=True)
        assert done.returncode == 0, done.stderr
    found = {path.parent.name: path for path in tmp_path.glob("multirun/2030-01-01/*/sweep.json")}
    assert sorted(found) == ["00-00-00", "00-00-00_2"]
    for path in found.values():
        assert [read_results(path.parent / job)["state"] for job in ("0", "1")] == ["finished", "finished"]


@pytest.mark.slow
def test_folders_named_by_the_job_itself(zoo, tmp_path):
    done = zoo(
        "-m", "seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir='${hydra:job.num}_${seed}'", *SMALL, "logger=none"
    )
    assert done.returncode == 0, done.stderr
    assert [read_results(tmp_path / "sweep" / name)["seed"] for name in ("0_1", "1_2")] == [1, 2]
