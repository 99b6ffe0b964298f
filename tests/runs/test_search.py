"""Searches with Optuna: their trials, their results, and several sweeps that work on one study."""

import multiprocessing
import random
import signal
import time
from collections import Counter

import optuna
import pytest
from conftest import SMALL, lines, processes_of
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from inception_zoo import ZooError
from inception_zoo.runs import sweeps
from inception_zoo.runs.results import read_results
from inception_zoo.runs.study import Objective, Search, objective, open_study
from inception_zoo.runs.sweepers import _distribution
from inception_zoo.system.records import write_json

SPACE = {"lr": FloatDistribution(1e-4, 1e-1, log=True), "depth": IntDistribution(1, 8), "net": CategoricalDistribution("abc")}
NODE = {"sampler": "TPESampler", "sampler_options": {"seed": 1, "n_startup_trials": 4}, "pruner": "NopPruner"}
NODE |= {"pruner_options": {}, "storage": None, "study_name": None, "n_trials": 12}
GOAL = Objective("val/top1", "max")


@pytest.mark.parametrize(
    ("values", "distribution"),
    [
        ("interval(0.1,0.5)", FloatDistribution(0.1, 0.5)),
        ("tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("range(2,7,step=2)", IntDistribution(2, 6, step=2)),
        ("range(0.0,0.5,step=0.1)", FloatDistribution(0.0, 0.4, step=0.1)),
        ("a,'b c',3", CategoricalDistribution(["a", "'b c'", "3"])),
    ],
)
def test_values_become_what_optuna_draws_from(values, distribution):
    assert _distribution(OverridesParser.create().parse_override(f"key={values}")) == distribution


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "hydra/sweeper=optuna has no search space"),
        (["seed=1,2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0 must be a whole number of at least 1"),
        (["optimizer.lr=tag(log,interval(0,1))"], "optimizer.lr=tag(log,interval(0,1)): "),
        (["seed=1,2", "hydra.sweeper.storage=sqlite:///nowhere/x.db"], "hydra.sweeper.storage=sqlite:///nowhere/x.db: "),
        (["seed=1,2", "hydra.sweeper.sampler=TPESample"], "sampler=TPESample is unknown; did you mean 'TPESampler'?"),
        (["seed=1,2", "+hydra.sweeper.pruner_options.x=1"], "hydra.sweeper.pruner_options={'x': 1}: MedianPruner"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(zoo, words, message):
    done = zoo("-m", "hydra/sweeper=optuna", *words, *SMALL)
    assert done.returncode == 2 and len(lines(done.stderr)) == 1 and message in done.stderr


@pytest.mark.slow
def test_optuna_searches_on_two_processes_prunes_and_goes_on(zoo, tmp_path):
    study = ["sweep=optuna", "trainer.devices=2", "logger=csv", "trainer.max_epochs=2", *SMALL, "hydra.sweep.dir=sweep"]
    hopeless = ["hydra.sweeper.pruner=ThresholdPruner", "+hydra.sweeper.pruner_options.lower=1.1"]
    done = zoo("-m", "hydra.sweeper.n_trials=1", *hopeless, *study)
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "sweep"
    pruned = read_results(sweep / "0")
    assert pruned["reason"].startswith("pruned after epoch 1 with val/top1 ") and "test/top1" not in pruned

    done = zoo("-m", "hydra.sweeper.n_trials=2", *study)
    assert done.returncode == 0, done.stderr
    assert read_results(sweep / "0") == pruned  # the earlier trial is unchanged
    results = [read_results(sweep / str(number)) for number in range(2)]
    assert [(r["state"], r["world_size"]) for r in results] == [("pruned", 2), ("finished", 2)]
    journal = JournalStorage(JournalFileBackend(str(sweep / "optuna.journal")))
    trials = optuna.load_study(study_name="sweep", storage=journal).trials
    assert [trial.state for trial in trials] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert [trial.value for trial in trials[1:]] == [r["val/top1_best"] for r in results[1:]]
    assert [list(trial.intermediate_values) for trial in trials] == [[0], [0, 1]]
    assert len({trial.params["optimizer.lr"] for trial in trials}) == 2
    for trial, folder in zip(trials, ("0", "1"), strict=True):
        words = (sweep / folder / ".hydra/overrides.yaml").read_text()
        assert set(trial.params) == {"optimizer.lr", "label_smoothing", "model.dropout"}
        assert all(f"{key}={value}" in words for key, value in trial.params.items())
    assert processes_of(tmp_path) == []


def test_a_search_optimizes_what_selects_the_best_checkpoint(tmp_path):
    best = {"dirpath": "checkpoints", "monitor": "val/loss", "mode": "min"}
    stop = {"monitor": "val/top1", "mode": "max"}  # not a checkpoint
    goal = objective({"stop": stop, "best": best})
    assert goal == ("val/loss", "min")
    assert open_study(NODE, tmp_path, goal).direction == StudyDirection.MINIMIZE
    assert Search(NODE, tmp_path, goal, SPACE).study.direction == StudyDirection.MINIMIZE
    for other in (Objective("val/top1", "max"), Objective("val/ece", "min")):
        with pytest.raises(ZooError, match="has to minimize val/loss; start another sweep"):
            open_study(NODE, tmp_path, other)
    with pytest.raises(
        ZooError, match=r"callbacks\.best\.monitor=train/loss with mode=min: a search needs a validation metric"
    ):
        objective({"best": {**best, "monitor": "train/loss"}})


def value_of(params):
    return 1 / (1 + abs(params.get("lr", 0) - 0.01) + params["depth"])


def run(folder, trial):
    """Write the results of a trial, as a job does."""
    (folder / str(trial.number)).mkdir(exist_ok=True)
    write_json(folder / str(trial.number) / "results.json", {"state": "finished", "val/top1_best": value_of(trial.params)})


def test_a_search_draws_what_optuna_itself_draws(tmp_path):
    search = Search(NODE, tmp_path, GOAL, SPACE)
    for batch in search.batches(1):
        run(tmp_path, *batch)
    plain = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(**NODE["sampler_options"]))
    for _ in range(NODE["n_trials"]):
        trial = plain.ask(SPACE)
        plain.tell(trial, value_of(trial.params))
    assert [trial.params for trial in search.study.trials] == [trial.params for trial in plain.trials]
    assert [trial.value for trial in search.study.trials] == [trial.value for trial in plain.trials]


def test_a_trial_that_was_interrupted_before_it_had_all_values_gets_them(tmp_path, monkeypatch):
    monkeypatch.setattr("inception_zoo.runs.study._suggest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        next(Search(NODE, tmp_path, GOAL, SPACE).batches(1))
    monkeypatch.undo()
    search = Search(NODE, tmp_path, GOAL, SPACE)
    assert [(trial.state, trial.params) for trial in search.study.trials] == [(TrialState.RUNNING, {})]
    batches = search.batches(1)
    (trial,) = next(batches)
    assert trial.number == 0 and trial.params.keys() == SPACE.keys()
    run(tmp_path, trial)
    (other,) = next(batches)
    assert other.number == 1 and other.params["lr"] != trial.params["lr"]


def test_a_trial_too_many_neither_runs_nor_counts(tmp_path):
    node = {**NODE, "storage": f"sqlite:///{tmp_path}/study.db", "study_name": "one", "n_trials": 1}
    search = Search(node, tmp_path, GOAL, SPACE)
    for batch in search.batches(1):
        run(tmp_path, *batch)
    born = {"state": TrialState.RUNNING, "user_attrs": {"worker": search.worker}}
    search.study.add_trial(optuna.trial.create_trial(**born))  # as in a sweep that was killed before it gave the trial up
    again = Search(node, tmp_path, GOAL, SPACE)
    assert [*again.batches(1)] == [] and again.jobs() == ["0"]
    assert [trial.state for trial in again.study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    more = Search({**node, "n_trials": 2}, tmp_path, GOAL, SPACE)
    assert more.jobs() == ["0", "2"]
    batches = more.batches(1)
    (trial,) = next(batches)
    run(tmp_path, trial)
    assert trial.number == 2 and [*batches] == [] and more.jobs() == ["0", "2"]


def test_a_grid_ends_with_its_last_point(tmp_path):
    options = {"seed": 1, "search_space": {"depth": [1, 2, 3]}}
    node = {**NODE, "sampler": "GridSampler", "sampler_options": options, "n_trials": 5}
    search = Search(node, tmp_path, GOAL, {"depth": SPACE["depth"]})
    for batch in search.batches(1):
        run(tmp_path, *batch)
    assert sorted(trial.params["depth"] for trial in search.study.trials) == [1, 2, 3]
    assert [trial.state for trial in search.study.trials] == [TrialState.COMPLETE] * 3 and search.jobs() == ["0", "1", "2"]


def test_a_trial_whose_job_has_not_ended_is_not_a_failure(tmp_path):
    for state in (None, "running", "interrupted"):
        batches = Search({**NODE, "n_trials": 1}, tmp_path, GOAL, SPACE).batches(1)
        (trial,) = next(batches)
        if state:
            (tmp_path / "0").mkdir(exist_ok=True)
            write_json(tmp_path / "0/results.json", {"state": state})
        assert [*batches] == [] and trial.number == 0
    assert [trial.state for trial in open_study(NODE, tmp_path, GOAL).trials] == [TrialState.RUNNING]


def test_a_sweep_does_not_repeat_the_points_of_another_one(tmp_path):
    node = {**NODE, "sampler": "RandomSampler", "sampler_options": {"seed": 1}, "study_name": "one"}
    node["storage"] = f"sqlite:///{tmp_path}/study.db"
    for name in "ab":
        (tmp_path / name).mkdir()
    searches = [Search(node, tmp_path / name, GOAL, SPACE) for name in "ab"]  # both see an empty study
    trials = [trial for search in searches for trial in next(search.batches(2))]
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert len({trial.params["lr"] for trial in trials}) == 4
    assert [search.jobs() for search in searches] == [
        ["0", "1", *map(str, range(4, 12))],
        ["2", "3", *map(str, range(4, 12))],
    ]


def test_a_sweep_without_a_trial_says_so(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweeps.begin(tmp_path / "sweep", [])
    assert sweeps.finish(str) == 0 and "nothing is left for this one" in capfd.readouterr().err


def work(node, folder, log):
    """Work on a study as a sweep does, and note each job that ends."""
    for batch in Search(node, folder, GOAL, SPACE).batches(2):
        for trial in batch:
            time.sleep(0.03)
            run(folder, trial)
            with log.open("a") as file:
                file.write(f"{trial.number}\n")


def test_no_trial_is_lost_or_doubled_by_sweeps_that_are_killed(tmp_path):
    node = {**NODE, "storage": f"sqlite:///{tmp_path}/study.db", "study_name": "one", "n_trials": 40}
    folders, log, chance = [tmp_path / name for name in "abc"], tmp_path / "log", random.Random(0)
    for folder in folders:
        folder.mkdir()
    open_study(node, tmp_path, GOAL)
    # the import takes seconds, and is made once
    processes, kills, until = multiprocessing.get_context("forkserver"), 0, time.monotonic() + 120
    processes.set_forkserver_preload([__name__])
    left = dict.fromkeys(folders)
    try:
        while left:
            assert time.monotonic() < until
            for folder, worker in [*left.items()]:
                if worker is not None and worker.exitcode == 0:
                    del left[folder]
                elif worker is None or worker.exitcode is not None:
                    assert worker is None or worker.exitcode == -signal.SIGKILL, worker.exitcode
                    left[folder] = processes.Process(target=work, args=(node, folder, log))
                    left[folder].start()
            time.sleep(chance.uniform(0.05, 0.3))
            if kills < 15 and left and (worker := chance.choice([*left.values()])) and worker.is_alive():
                worker.kill()
                worker.join()
                kills += 1
    finally:
        for worker in filter(None, left.values()):
            worker.kill()
    trials = optuna.load_study(study_name="one", storage=node["storage"]).trials
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert [trial.number for trial in finished] == [*range(40)]
    # two sweeps may have created the last one at the same time
    assert all(trial.state == TrialState.FAIL and not trial.params for trial in trials[40:])
    assert all(trial.value == value_of(trial.params) for trial in finished)
    places = [[folder.name for folder in folders if (folder / str(number)).exists()] for number in range(40)]
    assert all(len(names) == 1 for names in places) and len({*map(tuple, places)}) > 1
    # a job that has written its results never runs again (one that is killed before its note is not in the log)
    assert kills and max(Counter(log.read_text().split()).values()) == 1
