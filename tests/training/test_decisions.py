"""Metrics for decisions are scikit-learn's; intervals, temperatures and thresholds keep what they promise."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from tools.examples import examples
from torch.nn import functional as F

from inception_zoo.architecture.decision import Decision
from inception_zoo.serving.predict import Prediction
from inception_zoo.training.decisions import OF_ALL, OF_CLASSES, Scored, curve, intervals, mean_of, means, metrics
from inception_zoo.training.metrics import Evaluation, SeveralLabels
from inception_zoo.training.operating_points import choose, fit_temperature, threshold


def drawn(seed, count, classes, several, digits=2):
    """Return probabilities with ties, labels, of which a class may have none, and weights, of which some are 0."""
    draw = np.random.default_rng(seed)
    scores = draw.random((count, classes)).round(digits)
    labels = draw.integers(0, 2, (count, classes)) if several else draw.integers(0, classes, count)
    probabilities = scores if several else (scores + 0.01) / (scores + 0.01).sum(1, keepdims=True)
    return probabilities, labels, draw.random(count) * (draw.random(count) > 0.2) + 1e-3


def quiet(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


@examples(60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 5), st.booleans(), st.booleans())
def test_every_metric_is_scikit_learns(seed, count, classes, several, weighted):
    probabilities, labels, weights = drawn(seed, count, classes, several)
    scored = Scored.of(probabilities, labels)
    found = metrics(scored, weights[None] if weighted else None)
    options = {"sample_weight": weights} if weighted else {}
    for label in range(classes):
        positive, predicted = scored.labels[:, label], scored.predicted[:, label]
        both = positive.any() and not positive.all()
        expected = {"sensitivity": quiet(sk.recall_score, positive, predicted, zero_division=np.nan, **options)}
        expected["specificity"] = quiet(sk.recall_score, ~positive, ~predicted, zero_division=np.nan, **options)
        expected["precision"] = quiet(sk.precision_score, positive, predicted, zero_division=np.nan, **options)
        expected["f1"] = quiet(sk.f1_score, positive, predicted, zero_division=np.nan, **options)
        expected["auroc"] = sk.roc_auc_score(positive, probabilities[:, label], **options) if both else np.nan
        ap = sk.average_precision_score(positive, probabilities[:, label], **options) if positive.any() else np.nan
        expected["ap"] = ap
        assert {key: found[key][0, label] for key in OF_CLASSES} == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)
    if not several:
        best = probabilities.argmax(1)
        expected = {"accuracy": sk.accuracy_score(labels, best, **options)}
        expected["balanced_accuracy"] = quiet(sk.balanced_accuracy_score, labels, best, **options)
        expected["kappa"] = quiet(sk.cohen_kappa_score, labels, best, **options)
        squares = ((probabilities - scored.labels) ** 2).sum(1) / (2 if classes == 2 else 1)
        expected["brier"] = np.average(squares, weights=weights if weighted else None)
        known = {key: found[key][0] for key in expected}
        assert known == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


@examples(60)
@given(st.integers(0, 10**6), st.integers(2, 3000), st.sampled_from([1, 2, 12]))
def test_points_of_a_curve_are_scikit_learns(seed, count, digits):
    draw = np.random.default_rng(seed)
    scores, positive = draw.random(count).round(digits), draw.random(count) < 0.3
    points = curve(scores, positive)
    if positive.all() or not positive.any():
        assert points.shape == (0, 4)
        return
    false, true, thresholds = sk.roc_curve(positive, scores, drop_intermediate=False)
    known = dict(zip(thresholds, zip(true, 1 - false, strict=True), strict=True))
    for least, sensitivity, specificity, precision in points:
        assert (sensitivity, specificity) == pytest.approx(known[least], abs=1e-12)
        assert precision == pytest.approx(positive[scores >= least].mean())
    area = sk.auc(np.append(0, 1 - points[:, 2]), np.append(0, points[:, 1]))
    assert len(points) <= 202 and area == pytest.approx(sk.roc_auc_score(positive, scores), abs=0.011)


def test_brier_score_is_scikit_learns_for_two_classes_and_more():
    for classes in (2, 4):
        probabilities, labels, weights = drawn(0, 50, classes, several=False)
        expected = sk.brier_score_loss(labels, probabilities if classes > 2 else probabilities[:, 1], sample_weight=weights)
        assert metrics(Scored.of(probabilities, labels), weights[None])["brier"][0] == pytest.approx(expected, rel=1e-12)


def test_a_bootstrap_sample_is_a_repetition_of_images():
    probabilities, labels, _ = drawn(3, 30, 3, several=False)
    repeats = np.random.default_rng(0).integers(0, 3, 30)
    weighted = metrics(Scored.of(probabilities, labels), repeats[None])
    repeated = metrics(Scored.of(probabilities.repeat(repeats, 0), labels.repeat(repeats)))
    for key in (*OF_ALL, *OF_CLASSES):
        np.testing.assert_allclose(weighted[key], repeated[key], rtol=1e-12, atol=1e-15)


def test_classes_that_cannot_be_ranked_are_left_out_of_means():
    probabilities, labels = np.array([[0.8, 0.2, 0.0], [0.3, 0.7, 0.0]]), np.array([0, 1])
    found = metrics(Scored.of(probabilities, labels))
    assert np.isnan(found["auroc"][0, 2]) and mean_of(found["auroc"])[0] == 1
    one = means(Scored.of(probabilities[:1], labels[:1]), ("auroc", "kappa", "f1"))
    assert one == {"f1": 1.0}  # one image: nothing to rank, and no chance agreement


@pytest.mark.parametrize("several", [False, True])
def test_evaluation_is_the_same_for_any_division_among_processes(several):
    probabilities, labels, _ = drawn(5, 41, 4, several, digits=8)
    logits, targets = torch.from_numpy(probabilities).logit(eps=1e-6).float(), torch.from_numpy(labels)
    targets = targets.float() if several else targets

    def evaluated(parts):
        evaluation = (SeveralLabels if several else Evaluation)(4, tables=False)
        for rows in parts:
            evaluation.update(logits[rows], targets[rows], torch.zeros(len(rows), 1, 2, 2), rows.start)
        return evaluation.figures(Decision(several))

    batches = [range(start, min(start + 8, 41)) for start in range(0, 41, 8)]
    one = evaluated(batches)
    assert one == evaluated([*batches[::2], *batches[1::2]])
    assert {"auroc", "ap", "kappa", "brier"} <= one.keys()


def test_intervals_contain_the_truth_about_as_often_as_they_say():
    hits = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        labels = draw.integers(0, 2, 80)
        right = draw.random(80) < 0.8
        probabilities = np.eye(2)[np.where(right, labels, 1 - labels)] * 0.8 + 0.1
        (row,) = [row for row in intervals(Scored.of(probabilities, labels)) if (row.metric, row.label) == ("accuracy", None)]
        hits += row.low <= 0.8 <= row.high
    assert 50 <= hits <= 60  # expected 57; 49 or less has a probability of 1e-4


def test_whole_groups_are_drawn_so_that_equal_images_add_nothing():
    probabilities, labels, _ = drawn(7, 40, 2, several=False)
    repeated = Scored.of(probabilities.repeat(5, 0), labels.repeat(5))
    groups = np.array([f"patient {number}" for number in range(40)]).repeat(5)
    width = {
        name: rows[0].high - rows[0].low
        for name, rows in {
            "images": intervals(Scored.of(probabilities, labels)),
            "groups": intervals(repeated, groups),
            "repeated": intervals(repeated),
        }.items()
    }
    assert width["groups"] == pytest.approx(width["images"], rel=0.1) and width["repeated"] < 0.6 * width["groups"]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_temperature_has_the_lowest_loss(several, factor):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 3, generator=draw, dtype=torch.float64) * 2
    if several:
        labels = torch.bernoulli(logits.sigmoid(), generator=draw)
        loss = lambda t: F.binary_cross_entropy_with_logits(logits * factor / t, labels).item()  # noqa: E731
    else:
        labels = torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]
        loss = lambda t: F.cross_entropy(logits * factor / t, labels).item()  # noqa: E731
    found = fit_temperature((logits * factor).numpy(), labels.numpy())
    assert found == pytest.approx(factor, rel=0.15)  # the labels were drawn from a temperature of `factor`
    assert loss(found) < min(loss(found * 1.02), loss(found / 1.02))
    probabilities = (logits * factor).sigmoid() if several else (logits * factor).softmax(1)
    assert choose(probabilities.numpy(), labels.numpy(), True, None).temperature == pytest.approx(found, rel=1e-6)


@examples(60)
@given(st.integers(0, 10**6), st.integers(2, 40))
def test_thresholds_keep_their_promise(seed, count):
    draw = np.random.default_rng(seed)
    scores, positive = (draw.random(count) * 0.9).round(1) + 0.05, draw.random(count) < 0.4
    if positive.all() or not positive.any():
        assert threshold(scores, positive, "youden") == 0.5
        return
    every = np.unique(np.concatenate([scores, scores + 0.01]))  # all different decisions

    def figures(at):
        predicted = scores >= at
        sensitivity, specificity = predicted[positive].mean(), 1 - predicted[~positive].mean()
        return sensitivity, specificity, sk.f1_score(positive, predicted, zero_division=0)

    possible = [figures(at) for at in every]
    found = {
        rule: figures(threshold(scores, positive, rule)) for rule in ("youden", "f1", "sensitivity@0.9", "specificity@0.9")
    }
    assert sum(found["youden"][:2]) == pytest.approx(max(sens + spec for sens, spec, _ in possible))
    assert found["f1"][2] == pytest.approx(max(f1 for _, _, f1 in possible))
    best = max(spec for sens, spec, _ in possible if sens >= 0.9)
    assert found["sensitivity@0.9"][0] >= 0.9 and found["sensitivity@0.9"][1] == pytest.approx(best)
    best = max(sens for sens, spec, _ in possible if spec >= 0.9)
    assert found["specificity@0.9"][1] >= 0.9 and found["specificity@0.9"][0] == pytest.approx(best)


def test_one_saturated_mistake_does_not_decide_the_temperature():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 1, generator=draw, dtype=torch.float64) * 2
    labels = torch.bernoulli(logits.sigmoid(), generator=draw)
    logits[0], labels[0] = 200.0, 0.0
    found = choose(logits.sigmoid().numpy(), labels.numpy(), True, None).temperature
    expected = fit_temperature(logits.clip(-37, 37).numpy(), labels.numpy())
    assert found == pytest.approx(expected, rel=0.01) and found < 2


def test_probabilities_of_a_diverged_network_decide_nothing():
    broken = np.array([[np.nan, np.nan], [0.5, 0.5]])
    assert choose(broken, np.array([0, 1]), True, "youden", 1) == Decision()


def test_a_specificity_that_no_score_reaches_needs_a_higher_threshold():
    scores, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([False, True, True, False])
    assert threshold(scores, positive, "specificity@0.95") == pytest.approx(0.95)


def test_thresholds_of_two_classes_belong_to_the_positive_one():
    draw = np.random.default_rng(0)
    first = draw.random(200)
    probabilities, labels = np.stack([first, 1 - first], 1), (draw.random(200) > first**2).astype(int)
    for positive in (0, 1):
        decision = choose(probabilities, labels, False, "sensitivity@0.95", positive)
        assert sum(decision.thresholds) == pytest.approx(1)
        scored = Scored.of(probabilities, labels, decision.thresholds)
        assert (scored.predicted[:, positive] == (probabilities[:, positive] >= decision.thresholds[positive])).all()
        assert scored.predicted[labels == positive, positive].mean() >= 0.95


@pytest.mark.parametrize("several", [False, True])
def test_predictions_and_metrics_decide_in_the_same_way(several):
    draw = np.random.default_rng(1)
    probabilities = draw.random((200, 2 if not several else 4)).astype(np.float32).round(1)
    thresholds = [0.4, 0.6] if not several else [0.3, 0.5, 0.7, 0.2]
    for chosen in (None, thresholds):
        decision = Decision(several, 1.0, chosen)
        scored = Scored.of(probabilities, np.zeros((200, 4) if several else 200, int), chosen)
        for row, predicted in zip(torch.from_numpy(probabilities), scored.predicted, strict=True):
            found = Prediction(Path("x.png"), row, decision=decision)
            labels = found.labels() if several else [found.top(1)[0][0]]
            assert labels == np.flatnonzero(predicted).tolist()
