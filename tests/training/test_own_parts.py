"""Parts of one's own: schedulers of torch, metrics, options that a preset leaves behind; early stopping."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, run_folder
from torch.optim import lr_scheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassF1Score

from inception_zoo.architecture.decision import Decision
from inception_zoo.errors import ZooError
from inception_zoo.training import components
from inception_zoo.training.callbacks import EarlyStopping
from inception_zoo.training.components import build_metrics, leave_out_others
from inception_zoo.training.metrics import Evaluation
from inception_zoo.training.schedules import cosine, scheduled

PLATEAU = lr_scheduler.ReduceLROnPlateau


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (cosine, {"interval": "step"}),
        (partial(cosine, warmup_epochs=2), {"interval": "step"}),
        (partial(lr_scheduler.StepLR, step_size=1), {"interval": "epoch"}),
        (partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=1, interval="step"), {"interval": "step"}),
        (partial(PLATEAU), {"interval": "epoch", "monitor": "val/loss"}),
        (partial(PLATEAU, mode="max"), {"interval": "epoch", "monitor": "val/top1"}),
        (partial(PLATEAU, mode="max", monitor="val/mine"), {"interval": "epoch", "monitor": "val/mine"}),
    ],
)
def test_when_a_scheduler_is_stepped(call, expected):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    found = scheduled(call, optimizer, steps=10, epoch_steps=5)
    assert found.pop("scheduler").optimizer is optimizer and found == expected


@pytest.fixture
def typed(monkeypatch):
    """Set the overrides of the command line."""

    def these(*words):
        hydra = SimpleNamespace(overrides=SimpleNamespace(task=words))
        monkeypatch.setattr(components.HydraConfig, "get", lambda: hydra)

    return these


def test_options_of_the_preset_are_left_out_if_another_class_is_typed(typed, caplog):
    caplog.set_level("INFO")
    target = "torch.optim.lr_scheduler.StepLR"
    node = {"_target_": target, "_partial_": True, "warmup_epochs": 1.0, "step_size": 3, "interval": "epoch", "typo": 1}
    config = {"scheduler": dict(node), "optimizer": {"_target_": "torch.optim.SGD", "betas": [0.9, 0.99]}}
    typed(f"scheduler._target_={target}", "+scheduler.step_size=3", "+scheduler.typo=1")
    leave_out_others(config)
    assert config["scheduler"] == {key: value for key, value in node.items() if key != "warmup_epochs"}  # `typo` is an error
    assert config["optimizer"]["betas"] == [0.9, 0.99]  # its class was not typed: a mistake of a file stays one
    said = "scheduler.warmup_epochs=1.0 left out: it is an option of the preset, not of torch.optim.lr_scheduler.StepLR"
    assert [record.getMessage() for record in caplog.records] == [said]


class Sure(MeanMetric):
    """Mean probability of the predicted class."""

    def update(self, probabilities, labels):
        super().update(probabilities.max(1).values)


def test_metrics_of_ones_own_are_evaluated_beside_ours():
    scores = {"f1": MulticlassF1Score(3, average="macro"), "sure": Sure()}
    evaluation = Evaluation(3, tables=False, more=scores)
    logits, labels = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 3], [1, 0, 0]]), torch.tensor([0, 1, 2, 2])
    for part in (slice(0, 2), slice(2, 4)):
        evaluation.update(logits[part], labels[part], torch.zeros(2, 1, 4, 4), 0)
    found = {name: float(metric.compute()) for name, metric in evaluation.metrics.items()}
    assert found["f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert found["sure"] == pytest.approx(logits.softmax(1).max(1).values.mean().item())
    figures = evaluation.figures(Decision())
    assert "f1" not in figures and figures["balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["top1"] == 0.75 and scores["sure"].update_count == 0  # the given ones are copied


@pytest.mark.parametrize(
    ("name", "node", "message"),
    [
        ("top1", {"_target_": "torchmetrics.MeanMetric"}, "metrics.top1: the evaluation already has top1"),
        ("mine", {"_target_": "torchmetrics.classification.MulticlassF1Score", "num_classes": 7}, "metrics.mine: "),
        ("mine", {"_target_": "torch.nn.Identity"}, "it must be a torchmetrics Metric with a number"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_before_training(name, node, message):
    with pytest.raises(ZooError) as error:
        build_metrics({"metrics": {name: node}}, 10)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_stopped_run_that_is_resumed_trains_no_further_unless_it_may_wait_longer():
    stopper = EarlyStopping("val/top1", mode="max", patience=2)
    for value in (0.5, 0.4, 0.4):
        stop, stopper.stopping_reason_message = stopper._evaluate_stopping_criteria(torch.tensor(value))
    assert stop
    for patience, stops in ((2, True), (5, False)):
        resumed = EarlyStopping("val/top1", mode="max", patience=patience)
        resumed.load_state_dict(stopper.state_dict())
        trainer = SimpleNamespace(should_stop=False)
        for each in (resumed, EarlyStopping("val/loss")):  # the other one has not stopped the run
            each.on_train_start(trainer, None)
        assert (resumed.patience, resumed.wait_count, trainer.should_stop) == (patience, 2, stops)


def test_a_run_that_stops_early_says_so_and_is_tested(zoo, tmp_path):
    words = ["trainer.max_epochs=9", "optimizer.lr=0", "logger=csv", "callbacks=[early_stopping,ema]"]
    done = zoo(*SMALL, *words, "callbacks.early_stopping.patience=1")
    assert done.returncode == 0, done.stderr
    results = json.loads((run_folder(tmp_path) / "results.json").read_text())
    assert (results["state"], results["stopped_epoch"]) == ("finished", 1)
    assert results["stopped_reason"].startswith("Monitored metric val/top1 did not improve in the last 1 records. Best score")
    assert not results["stopped_reason"].endswith("stop.")
    assert results["tested"] == "checkpoints/best.ckpt" and "test/top1" in results
    assert done.stdout.count("stopped early in epoch 1: Monitored") == 1  # in the log
    assert "│ stopped early" in done.stdout  # in the table
