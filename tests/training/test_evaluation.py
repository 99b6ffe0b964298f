"""Evaluation metrics: equal to scikit-learn's, and equal on one and two processes."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.training.metrics import ROW, Evaluation, Mean, WeightedMean, Worst, keep_exact
from inception_zoo.training.tables import write_tables


@pytest.fixture(scope="module")
def drawn():
    torch.manual_seed(0)
    labels = torch.randint(0, 7, (301,))
    return torch.randn(301, 7) + 2 * torch.nn.functional.one_hot(labels, 7), labels


def numbered(count, side=4):
    """Return images (count, 1, side, side); image n has the constant value n / count."""
    return torch.arange(count).div(count).view(-1, 1, 1, 1).expand(-1, 1, side, side)


def fed(evaluation, logits, labels, size):
    """Update an evaluation in batches of `size`; return its metrics."""
    parts = logits.split(size), labels.split(size), numbered(len(labels)).split(size)
    for number, batch in enumerate(zip(*parts, strict=True)):
        evaluation.update(*batch, number * size)
    return {key: metric.compute().item() for key, metric in evaluation.metrics.items()}


def measured(logits, labels, size):
    evaluation = Evaluation(7, tables=True)
    return fed(evaluation, logits, labels, size), evaluation.tables.compute()


def test_the_figures_are_scikit_learns(drawn):
    logits, labels = drawn
    found, tables = measured(logits, labels, 32)
    probabilities, predicted = logits.double().softmax(1).numpy(), logits.argmax(1).numpy()
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
    found, tables = measured(views, labels, 64)
    assert found["top1"] == pytest.approx((mean.argmax(1) == labels).float().mean().item())
    assert found["loss"] == pytest.approx(torch.nn.functional.nll_loss(mean.log(), labels).item(), rel=1e-5)
    rows, pictures = tables["worst"]
    evaluation, first = Evaluation(7, tables=True), numbered(301)
    evaluation.update(views, labels, torch.stack([first, first * 0, first * 0], 1), 0)
    again, shown = evaluation.tables.compute()["worst"]
    assert (again[:, 0] == rows[:, 0]).all() and (shown == pictures).all()  # pictures show the first view


def test_the_order_of_the_batches_does_not_show(drawn):
    logits, labels = drawn
    evaluations = [Evaluation(7, tables=False) for _ in range(2)]
    batches = list(range(0, len(labels), 32))
    for evaluation, order in zip(evaluations, (batches, batches[::-1]), strict=True):
        for start in order:
            here = slice(start, start + 32)
            evaluation.update(logits[here], labels[here], numbered(301)[here], start)
        evaluation.found = {key: metric.compute().item() for key, metric in evaluation.metrics.items()}
    assert evaluations[0].found == evaluations[1].found


def test_sums_stay_exact_in_half_precision(drawn):
    logits, labels = drawn
    evaluation = torch.nn.ModuleDict({"val": Evaluation(7, tables=True)}).to(dtype=torch.bfloat16)
    keep_exact(evaluation)
    assert fed(evaluation["val"], logits, labels, 32) == measured(logits, labels, 32)[0]


def test_calibration_has_the_error_and_the_table_from_one_sum(drawn):
    logits, labels = drawn
    found, tables = measured(logits, labels, 50)
    images, hits, confidence = tables["calibration"]
    assert found["ece"] == ((hits - confidence).abs().sum() / images.sum()).float().item()
    assert hits.sum() / images.sum() == pytest.approx(found["top1"]) and images.sum() == 301


def test_the_worst_are_those_with_the_highest_loss(drawn):
    logits, labels = drawn
    rows, pictures = measured(logits, labels, 32)[1]["worst"]
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double()
    best = losses.sort(descending=True, stable=True).indices[:24]
    assert rows[:, 0].tolist() == losses[best].tolist() and (pictures == numbered(301)[best]).all()
    columns = dict(zip(ROW, rows.T, strict=True))
    assert (columns["label"] == labels[best]).all() and (columns["predicted"] == logits[best].argmax(1)).all()
    assert columns["probability_of_label"].tolist() == pytest.approx(torch.exp(-losses[best]).tolist())


def test_the_worst_of_two_processes_are_those_of_one_even_where_every_loss_is_equal():
    """60 images with equal loss, in batches of four, alternating between two processes: the first 24 are expected."""
    images, labels, flat = numbered(60, side=128), torch.zeros(60, dtype=torch.long), torch.full((60, 5), 0.2).double()
    losses = -flat[:, 0].log()
    losses[50] = 9.0
    together, *shares = (Worst() for _ in range(3))
    for number in range(15):
        here = slice(4 * number, 4 * number + 4)
        for part in (together, shares[number % 2]):
            part.update(flat[here], labels[here], losses=losses[here], images=images[here], first=4 * number)
    for state in ("rows", "pictures"):  # as torchmetrics gathers states
        getattr(shares[0], state).extend(getattr(shares[1], state))
    rows, pictures = shares[0].compute()
    assert rows[:, ROW.index("image")].tolist() == [50, *range(23)]
    assert pictures.shape == (24, 1, 96, 96)  # reduced from 128 px
    assert (pictures == together.compute()[1]).all()
    assert (pictures[:, 0, 0, 0] * 60).round().tolist() == [50, *range(23)]


def test_the_tables_of_a_run(drawn, tmp_path):
    logits, labels = drawn
    labels = labels.clone()
    labels[labels == 3] = 2  # class 3 has no images
    names = [f"class {i}, of seven" for i in range(7)]
    (tmp_path / "worst").mkdir()
    (tmp_path / "worst/30.png").touch()  # left by an earlier test with more images
    white = Preprocessing(4, mean=(0.5,), std=(0.5,), resize=4)  # values 0 to 1 are pixels 128 to 255
    found, tables = measured(logits, labels, 100)
    write_tables(tmp_path, names, **tables, sources=[f"photos/ä{row}.jpg" for row in range(24)], preprocessing=white)
    rows = list(csv.DictReader((tmp_path / "per_class.csv").read_text().splitlines()))
    precision, recall, f1, images = precision_recall_fscore_support(labels, logits.argmax(1), labels=range(7), zero_division=0)
    assert [row["class"] for row in rows] == names and [int(row["images"]) for row in rows] == images.tolist()
    assert rows[3]["top1"] == rows[3]["top5"] == ""
    assert [float(row["precision"]) for row in rows] == pytest.approx(precision.tolist())
    assert [float(row["f1"]) for row in rows] == pytest.approx(f1.tolist())
    assert [float(row["top1"] or 0) for row in rows] == pytest.approx(recall.tolist())
    best = logits.topk(5).indices
    top5 = [(best == labels[:, None]).any(1)[labels == label].float().mean().item() for label in range(7)]
    assert [float(row["top5"] or "nan") for row in rows] == pytest.approx(top5, nan_ok=True)
    matrix = list(csv.reader((tmp_path / "confusion.csv").read_text().splitlines()))
    assert (
        matrix[0] == ["class", *names]
        and [int(n) for n in matrix[1][1:]] == confusion_matrix(labels, logits.argmax(1))[0].tolist()
    )
    bins = list(csv.DictReader((tmp_path / "calibration.csv").read_text().splitlines()))
    full = [(int(b["images"]), float(b["accuracy"]), float(b["confidence"])) for b in bins if b["accuracy"]]
    assert len(bins) == 15 and sum(n for n, *_ in full) == 301
    assert sum(n * abs(accuracy - sure) for n, accuracy, sure in full) / 301 == pytest.approx(found["ece"])
    worst = list(csv.DictReader((tmp_path / "worst.csv").read_text().splitlines()))
    assert sorted(tmp_path.glob("worst/*")) == sorted(tmp_path / row["picture"] for row in worst) and len(worst) == 24
    image = int(torch.nn.functional.cross_entropy(logits, labels, reduction="none").argmax())
    first = worst[0]
    assert first["image"] == "photos/ä0.jpg"
    assert tables["worst"][0][0, ROW.index("image")] == image
    assert (first["label"], first["predicted"]) == (names[labels[image]], names[logits[image].argmax()])
    assert np.asarray(Image.open(tmp_path / first["picture"])).tolist() == [[round(255 * (image / 301 + 1) / 2)] * 4] * 4


@pytest.mark.parametrize("kind", [WeightedMean, Mean])
def test_means_use_weights_and_do_not_leave_out_nan(kind):
    mean = kind()
    mean.update(torch.tensor(1.0), weight=3)
    mean.update(torch.tensor(4.0), weight=1)
    assert mean.compute().item() == 1.75
    mean.update(torch.tensor(torch.nan), weight=1)
    assert mean.compute().isnan()
