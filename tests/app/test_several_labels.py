"""A table with several labels and groups: train, resume, test, predict, export and report."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from tools import commands

from inception_zoo import load_model
from inception_zoo.architecture.decision import Decision
from inception_zoo.runs.results import read_results
from inception_zoo.serving.classifier import open_classifier

NAMES = ("vertical", "horizontal", "bright")
FAST = ("model=googlenet", "model.norm=batch", "model.width=0.25", "model.stem=small", "data.image_size=32", "data.crop_pct=1")
FAST += ("data.batch_size=32", "optimizer.lr=0.01", "logger=csv", "trainer.precision=32-true", "augmentation=none")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Return a table of 180 images of 60 patients: stripes in two directions, and brightness."""
    folder, draw = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    rows = []
    for number in range(180):
        flags = draw.random(3) < (0.5, 0.3, 0.3)
        pixels = draw.integers(0, 60, (32, 32))
        pixels[:, ::4] += 90 * flags[0]
        pixels[::4] += 90 * flags[1]
        Image.fromarray((pixels + 70 * flags[2]).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append([f"{number}.png", f"p{number // 3}", ("east", "west", "")[number // 3 % 3], *map(int, flags)])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "patient", "site", *NAMES], *rows])
    return folder / "labels.csv"


def words(labels):
    columns = f"data.source.label=[{','.join(NAMES)}]", "data.source.group=patient", "data.source.subgroups=[site]"
    return "data=table", f"data.root={labels}", *columns


@pytest.fixture(scope="module")
def run(labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several_run") / "run"
    chosen = ("loss=bce", "class_weight=balanced", "data.sampler=balanced", "label_smoothing=0.05")
    decided = ("decision.calibrate=true", "decision.threshold=f1", "trainer.max_epochs=4")
    done = commands.run([ROOT / "run.py", *words(labels), *FAST, *chosen, *decided, "hydra.run.dir=run"], folder.parent)
    assert done.returncode == 0, done.stderr
    assert "class weights: " in done.stdout
    return folder


def test_a_training_learns_and_records_its_decision(run):
    results = read_results(run)
    assert results["monitor"] == "val/ap" and results["test/auroc"] > 0.8 and "test/top1" not in results
    decision = results["decision"]
    assert decision["several"] and len(decision["thresholds"]) == 3 and decision["temperature"] != 1
    assert load_model(run).decision == load_model(run / "model.safetensors").decision == Decision(**decision)
    with (run / "decisions.csv").open() as file:
        rows = {(row["metric"], row["class"]): row for row in csv.DictReader(file)}
    assert float(rows["auroc", ""]["value"]) == pytest.approx(results["test/auroc"], rel=1e-5)
    row = rows["ap", "horizontal"]
    assert 0 < float(row["value"]) <= 1 and row["low"] == row["high"] == ""  # of six patients
    assert float(rows["threshold", "bright"]["value"]) == pytest.approx(decision["thresholds"][2], rel=1e-5)
    with (run / "split.csv").open() as file:
        split_of = {}
        for row in csv.DictReader(file):
            assert split_of.setdefault(row["group"], row["split"]) == row["split"]
    with (run / "worst.csv").open() as file:
        assert all({*row["label"].split("; ")} <= {*NAMES, ""} for row in csv.DictReader(file))


def test_subgroups_are_parts_of_the_test(run):
    with (run / "subgroups.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "accuracy"]
    assert {row["column"] for row in rows} == {"site"} and {row["subgroup"] for row in rows} <= {"east", "west", "not stated"}
    results, images = read_results(run), [int(row["images"]) for row in rows]
    assert sum(images) == results["images"]["test"] == 180 - results["images"]["train"] - results["images"]["val"]
    mean = np.average([float(row["value"]) for row in rows], weights=images)
    assert mean == pytest.approx(results["test/accuracy"], abs=1e-5)


def test_a_test_of_the_run_obeys_its_decision(zoo, run, tmp_path):
    done = zoo("task=test", f"ckpt={run}", "hydra.run.dir=again", "logger=none")
    assert done.returncode == 0, done.stderr
    before, after = read_results(run), read_results(tmp_path / "again")
    keys = [key for key in before if key.startswith("test/")]
    assert {key: after[key] for key in keys} == {key: before[key] for key in keys}
    assert (tmp_path / "again/decisions.csv").read_text() == (run / "decisions.csv").read_text()


def test_two_processes_give_the_same_metrics(zoo, run, tmp_path):
    done = zoo("task=test", f"ckpt={run}", "hydra.run.dir=two", "logger=none", "trainer.devices=2", "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    before, after = read_results(run), read_results(tmp_path / "two")
    assert {key: after[key] for key in before if key.startswith("test/")} == {
        key: value for key, value in before.items() if key.startswith("test/")
    }


def test_a_table_of_another_hospital_can_only_be_tested(zoo, run, labels, tmp_path):
    rows = list(csv.reader(labels.read_text().splitlines()))
    with (labels.parent / "other.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*rows[0], "split"], *([*row, "test"] for row in rows[1:41])])
    done = zoo("task=test", f"ckpt={run}", f"data.root={labels.parent / 'other.csv'}", "logger=none", "hydra.run.dir=other")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "other/decisions.csv").open() as file:
        assert {row["images"] for row in csv.DictReader(file) if not row["class"]} == {"40"}
    refused = zoo(*words(labels), *FAST, "loss=bce", f"data.root={labels.parent / 'other.csv'}")
    assert refused.returncode == 2 and "has no training images; add some, or evaluate" in refused.stderr


def test_predictions_obey_thresholds_and_temperature(cli, run, labels):
    classifier = open_classifier(run)
    done = cli("predict", run, labels.parent / "0.png", labels.parent / "5.png", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    for line in map(json.loads, done.stdout.splitlines()):
        probabilities = {each["class"]: each["probability"] for each in line["top"]}
        reached = [n for n, t in zip(NAMES, classifier.decision.thresholds, strict=True) if probabilities[n] >= t]
        assert line["labels"] == reached and sum(probabilities.values()) != pytest.approx(1, abs=1e-3)
    images = torch.randn(3, 3, 32, 32)
    expected = (classifier.logits(images) / classifier.decision.temperature).sigmoid()
    assert torch.equal(classifier.probabilities(images), expected)
    table = cli("predict", run, labels.parent / "0.png")
    assert "labels" in table.stdout and "probabilities" in table.stdout
    done = cli("predict", run, labels, "--group", "patient", "--format", "csv", "--top", "1")
    rows = list(csv.reader(done.stdout.splitlines()))
    assert rows[0] == ["file", "group", "labels", "class", "label", "probability"] and len(rows) == 181, done.stderr
    assert rows[7][:2] == [str(labels.parent / "6.png"), "p2"]
    wrong = cli("predict", run, labels, "--group", "sex")
    assert wrong.returncode == 2 and wrong.stderr.startswith(f"error: {labels} has no column 'sex'; its columns: 'path', 'pa")


@pytest.mark.parametrize("int8", [False, True])
def test_exported_logits_are_calibrated(cli, run, labels, tmp_path, int8):
    done = cli("export", run, tmp_path / "net.onnx", *(["--int8"] if int8 else []))
    assert done.returncode == 0, done.stderr
    ours, theirs = open_classifier(run), open_classifier(tmp_path / "net.onnx")
    assert theirs.decision == Decision(True, 1.0, ours.decision.thresholds)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    close = 0.2 if int8 else 1e-4
    assert torch.allclose(ours.probabilities(images), theirs.probabilities(images), atol=close)


def test_the_report_shows_the_intervals(cli, run, tmp_path):
    done = cli("report", run, "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert (
        '"decisions":' in page
        and '"horizontal"' in page
        and '"subgroups":[["site",' in page
        and '"curves":{"classes":3,' in page
    )
    assert '["groups","patient, never divided between splits"]' in page and '["data","table, labels.csv"]' in page
    ap = read_results(run)["test/ap"]
    assert f'"ap":{float(f"{ap:.6g}")}' in page and '"val/ap":[[0,1,2,3]' in page


def test_half_precision_and_several_views(zoo, labels, tmp_path):
    words_ = (*words(labels), *(word for word in FAST if "precision" not in word), "loss=bce", "decision.calibrate=true")
    more = ("trainer.precision=bf16-true", "data.crops=2", "model.num_classes=5", "trainer.max_epochs=1", "hydra.run.dir=half")
    done = zoo(*words_, *more)
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "half")
    assert np.isfinite(results["test/loss"]) and results["decision"]["temperature"] > 0
    assert load_model(tmp_path / "half").plan.num_classes == 5


STOP = """
import os, lightning

class Stop(lightning.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 5 and "STOP" in os.environ:
            os._exit(7)
"""


def test_a_fold_that_is_killed_on_two_processes_ends_as_if_it_had_not_been(zoo, labels, tmp_path):
    (tmp_path / "my_stop.py").write_text(STOP)
    chosen = (*words(labels), *FAST, "loss=asl", "data.sampler=balanced", "decision.calibrate=true", "trainer.max_epochs=2")
    chosen += ("data.split.folds=3", "data.split.fold=1", "trainer.devices=2", "trainer.accelerator=cpu")
    chosen += ("+callbacks.stop._target_=my_stop.Stop", "callbacks.last.every_n_steps=1", "hydra.run.dir=half")
    mine = {"INCEPTION_ZOO_TARGETS": "my_stop.Stop"}
    assert zoo(*chosen, "hydra.run.dir=whole", env=mine).returncode == 0
    assert zoo(*chosen, env={**mine, "STOP": "1"}).returncode not in (0, 2)
    last = [tmp_path / name / "checkpoints/last.ckpt" for name in ("half", "whole")]
    states = [torch.load(path, weights_only=True) for path in last]
    assert [state["global_step"] for state in states] == [4, 6]  # 4 is within the second epoch of 3 steps
    done = zoo("ckpt=last", "hydra.run.dir=half", env=mine)
    assert done.returncode == 0, done.stderr
    ended, whole = torch.load(last[0], weights_only=True), states[1]
    assert all(torch.equal(weights, ended["state_dict"][key]) for key, weights in whole["state_dict"].items())
    results = [read_results(tmp_path / name) for name in ("half", "whole")]
    assert results[0]["decision"] == results[1]["decision"] and results[0]["test/ap"] == results[1]["test/ap"]
    assert (tmp_path / "half/decisions.csv").read_text() == (tmp_path / "whole/decisions.csv").read_text()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["loss=focal"], "loss: the data has several labels for each image; set loss=bce"),
        (["loss=bce", "data.source.label=vertical"], "loss: the data has one label for each image; set loss=cross_entropy"),
        (
            ["loss=bce", "callbacks.best.monitor=val/top1"],
            "val/top1 is not logged with several labels for each image; use val/ap",
        ),
        (
            ["loss=bce", "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "+scheduler.mode=max"],
            "val/top1 is not",
        ),
        (
            ["loss=bce", "model.num_classes=200", "callbacks.best.monitor=null", "data.split.folds=3"],
            "data.split.folds=3, fold=None",
        ),
        (["loss=focal", "data.source.label=vertical", "model.num_classes=3", "decision.threshold=f1"], "is for two classes"),
        (["loss=bce", "data.per_class=3"], "data.per_class=3: images have several labels"),
        (["loss=bce", "decision.threshold=f1", "decision.positive=bright"], "decision.positive=bright: each of several labels"),
        (["loss=bce", "decision.threshold=best"], "decision.threshold=best must be youden, f1"),
        (
            ["loss=focal", "data.source.label=vertical", "decision.positive=0"],
            "decision.threshold=None, decision.positive=0: set both",
        ),
        (["loss=bce", "class_weight=[1,2]"], "the data has 3 classes; give one weight for each"),
        (["loss=bce", "class_weight=some"], "class_weight=some must be one of balanced, effective"),
        (["loss=bce", "data.source.label=[vertical]"], "list two columns or more"),
        (
            ["loss=bce", "callbacks.best.monitor=val/brier", "callbacks.best.mode=max"],
            "callbacks.best.mode=max: a lower val/brier is better",
        ),
    ],
)
def test_mistakes(zoo, labels, extra, message):
    done = zoo(*words(labels), *FAST, *extra)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_cross_validation_predicts_each_image_once(zoo, labels, tmp_path):
    chosen = ("loss=bce", "trainer.max_epochs=1", "data.split.folds=2", "hydra.sweep.dir=folds", "seed=1,2")
    done = zoo("-m", "sweep=kfold", *words(labels), *(word for word in FAST if word != "logger=csv"), "logger=none", *chosen)
    assert done.returncode == 0, done.stderr
    assert "2 finished folds of seed=2: test/auroc" in done.stdout
    with (tmp_path / "folds/out_of_fold.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 180
    seen = {}
    for row in rows:
        seen.setdefault((row["job"], row["fold"]), []).append(row)
        assert 0 <= float(row["probability horizontal"]) <= 1 and row["group"].startswith("p")
    assert len(seen) == 4
    for job, rows in seen.items():
        results = read_results(tmp_path / "folds" / job[0])
        assert len(rows) > 30 and "test/brier" in results
    with (tmp_path / "folds/folds.csv").open() as file:
        means = {(row["run"], row["metric"]): float(row["mean"]) for row in csv.DictReader(file)}
    briers = [read_results(tmp_path / "folds" / str(job))["test/brier"] for job in range(4)]
    assert sum(means["seed=1", "test/brier"] + means["seed=2", "test/brier"] for _ in range(2)) == pytest.approx(
        sum(briers), rel=1e-5
    )
