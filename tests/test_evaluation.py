"""The figures of an evaluation, against scikit-learn's, and the same on one and on two processes."""

import csv

import pytest
import torch
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from inception_zoo.evaluation import Evaluation, keep_exact, write_tables


@pytest.fixture(scope="module")
def drawn():
    torch.manual_seed(0)
    labels = torch.randint(0, 7, (301,))
    return torch.randn(301, 7) + 2 * torch.nn.functional.one_hot(labels, 7), labels


def measured(logits, labels, size):
    evaluation = Evaluation(7, tables=True)
    for start in range(0, len(labels), size):
        metrics = evaluation.update(logits[start : start + size], labels[start : start + size])
    return {key: metric.compute().item() for key, metric in metrics.items()}, evaluation.tables.compute()


def test_the_figures_are_scikit_learns(drawn):
    logits, labels = drawn
    found, tables = measured(logits, labels, 32)
    probabilities, predicted = logits.softmax(1).double().numpy(), logits.argmax(1).numpy()
    assert found["top1"] == pytest.approx((predicted == labels.numpy()).mean())
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5))
    assert found["macro"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert (tables["confusion"].numpy() == confusion_matrix(labels, predicted)).all()


def test_the_calibration_error_by_hand(drawn):
    logits, labels = drawn
    confidence, predicted = logits.softmax(1).max(1)
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            accuracy = (predicted == labels)[inside].float().mean()
            error += inside.float().mean() * (accuracy - confidence[inside].mean()).abs()
    assert measured(logits, labels, 50)[0]["ece"] == pytest.approx(float(error), abs=1e-6)


def test_probabilities_of_several_views_are_averaged(drawn):
    logits, labels = drawn
    views = torch.stack([logits, logits.roll(1, 0), logits * 2], 1)
    mean = views.softmax(-1).mean(1)
    found, _ = measured(views, labels, 64)
    assert found["top1"] == pytest.approx((mean.argmax(1) == labels).float().mean().item())
    assert found["loss"] == pytest.approx(torch.nn.functional.nll_loss(mean.log(), labels).item(), rel=1e-5)


def test_the_order_of_the_batches_does_not_show(drawn):
    logits, labels = drawn
    evaluations = [Evaluation(7, tables=False) for _ in range(2)]
    batches = list(range(0, len(labels), 32))
    for evaluation, order in zip(evaluations, (batches, batches[::-1]), strict=True):
        for start in order:
            metrics = evaluation.update(logits[start : start + 32], labels[start : start + 32])
        evaluation.found = {key: metric.compute().item() for key, metric in metrics.items()}
    assert evaluations[0].found == evaluations[1].found


def test_sums_stay_exact_in_half_precision(drawn):
    logits, labels = drawn
    evaluation = torch.nn.ModuleDict({"val": Evaluation(7, tables=True)}).to(dtype=torch.bfloat16)
    keep_exact(evaluation)
    for start in range(0, len(labels), 32):
        metrics = evaluation["val"].update(logits[start : start + 32], labels[start : start + 32])
    assert {key: metric.compute().item() for key, metric in metrics.items()} == measured(logits, labels, 32)[0]


def test_the_tables_of_a_run(drawn, tmp_path):
    logits, labels = drawn
    labels = labels.clone()
    labels[labels == 3] = 2  # a class without images
    names = [f"class {i}, of seven" for i in range(7)]
    write_tables(tmp_path, names, **measured(logits, labels, 100)[1])
    rows = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    precision, recall, f1, images = precision_recall_fscore_support(labels, logits.argmax(1), labels=range(7), zero_division=0)
    assert [row["class"] for row in rows] == names and [int(row["images"]) for row in rows] == images.tolist()
    assert rows[3]["top1"] == rows[3]["top5"] == ""
    assert [float(row["precision"]) for row in rows] == pytest.approx(precision.tolist())
    assert [float(row["f1"]) for row in rows] == pytest.approx(f1.tolist())
    assert [float(row["top1"] or 0) for row in rows] == pytest.approx(recall.tolist())
    best = logits.topk(5).indices
    top5 = [(best == labels[:, None]).any(1)[labels == label].float().mean().item() for label in range(7)]
    assert [float(row["top5"] or "nan") for row in rows] == pytest.approx(top5, nan_ok=True)
    matrix = list(csv.reader((tmp_path / "confusion.csv").open()))
    assert (
        matrix[0] == ["class", *names]
        and [int(n) for n in matrix[1][1:]] == confusion_matrix(labels, logits.argmax(1))[0].tolist()
    )
