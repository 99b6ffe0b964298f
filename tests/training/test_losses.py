"""Losses of logits: their formulas in float64, and weights for rare classes."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from inception_zoo import ZooError
from inception_zoo.training.losses import Asymmetric, BinaryCrossEntropy, BinaryFocal, CrossEntropy, Focal, class_weights

WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0])


@pytest.fixture
def logits():
    return torch.randn(32, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)


def labels(several):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(2, (32, 4), generator=draw).double() if several else torch.randint(4, (32,), generator=draw)


def made(loss, smoothing=0.0, weight=None):
    loss.label_smoothing, loss.weight = smoothing, weight
    return loss


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHTS])
@pytest.mark.parametrize("mixed", [False, True])
def test_focal_without_focus_is_the_cross_entropy(logits, smoothing, weight, mixed):
    targets = torch.rand(32, 4, dtype=torch.float64).softmax(1) if mixed else labels(several=False)
    expected = made(CrossEntropy(), smoothing, weight)(logits, targets)
    assert made(Focal(0.0), smoothing, weight)(logits, targets).item() == pytest.approx(expected.item(), rel=1e-12)
    plain = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    assert weight is not None or expected.item() == plain.item()


def test_focal_weighs_each_image_by_what_is_left_of_its_probability(logits):
    targets = labels(several=False)
    losses = F.cross_entropy(logits, targets, reduction="none")
    expected = ((1 - (-losses).exp()) ** 2 * losses).mean()
    assert Focal()(logits, targets).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_without_focus_the_losses_of_several_labels_are_the_binary_cross_entropy(logits, smoothing, weight):
    targets = labels(several=True)
    smooth = targets * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    expected = (each if weight is None else each * (targets * weight + 1 - targets)).mean().item()
    for loss in (BinaryCrossEntropy(), BinaryFocal(0.0), Asymmetric(0.0, 0.0, 0.0)):
        assert made(loss, smoothing, weight)(logits, targets).item() == pytest.approx(expected, rel=1e-9)


def test_binary_focal_and_asymmetric_by_their_formulas(logits):
    targets, p = labels(several=True), logits.sigmoid()
    focal = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2.0, reduction="mean")
    assert BinaryFocal()(logits, targets).item() == pytest.approx(focal.item(), rel=1e-12)
    shifted = (p - 0.05).clamp(min=0)
    asymmetric = -(targets * (1 - p) * p.log() + (1 - targets) * shifted**4 * (1 - shifted).log()).mean()
    assert Asymmetric(gamma_positive=1.0)(logits, targets).item() == pytest.approx(asymmetric.item(), rel=1e-9)


@pytest.mark.parametrize("loss", [BinaryFocal(), Asymmetric(), BinaryCrossEntropy()])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extreme_logits_have_finite_gradients(loss, dtype):
    logits = torch.tensor([[-200.0, 200.0, 0.0, 200.0, -200.0]], dtype=dtype, requires_grad=True)
    value = loss(logits, torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]]))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [Focal(0.5), BinaryFocal(0.5), Asymmetric(0.5, 0.5), Asymmetric(0.0, 0.5, 0.2)])
def test_gradients_are_finite_where_a_probability_is_rounded_to_one(loss):
    logits = torch.tensor([[60.0, -60.0, -60.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, 0.0]]) if loss.several else torch.tensor([0])
    loss(logits, targets).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(), BinaryCrossEntropy(), Asymmetric()])
def test_a_weighted_batch_is_the_mean_of_its_halves(loss, logits):
    made(loss, 0.1, WEIGHTS)
    targets = labels(loss.several)
    halves = [loss(logits[rows], targets[rows]).item() for rows in (slice(16), slice(16, 32))]
    assert loss(logits, targets).item() == pytest.approx(np.mean(halves), rel=1e-12)
    loss.weight, loss.label_smoothing = None, 0.0


def test_balanced_weights_are_scikit_learns():
    seen = np.repeat(np.arange(4), [1, 10, 100, 1000])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=seen)
    counts = torch.from_numpy(np.bincount(seen))
    assert class_weights("balanced", counts, None).tolist() == pytest.approx(expected.tolist())
    effective = class_weights("effective", counts, None)
    assert effective.mean().item() == pytest.approx(1) and effective.diff().lt(0).all()
    assert (effective[0] / effective[3]).item() == pytest.approx((1 - 0.999**1000) / (1 - 0.999), rel=1e-5)


def test_weights_of_several_labels_are_ratios_of_negatives_to_positives():
    counts = torch.tensor([10, 50])
    assert class_weights("balanced", counts, 100).tolist() == [9.0, 1.0]
    assert class_weights([1.0, 3.0], counts, 100).tolist() == [1.0, 3.0]
    with pytest.raises(ZooError, match="every training image has label 1"):
        class_weights("balanced", counts, 50)


def test_what_has_no_weights_is_refused():
    with pytest.raises(ZooError, match="class 1 has no training images"):
        class_weights("effective", torch.tensor([5, 0]), None)
    with pytest.raises(ZooError, match=r"the data has 2 classes; give one weight for each"):
        class_weights([1.0, 1.0, 1.0], torch.tensor([5, 5]), None)


@pytest.mark.parametrize("loss", [CrossEntropy, Focal, BinaryCrossEntropy, BinaryFocal, Asymmetric])
@pytest.mark.parametrize("weight", [None, WEIGHTS])
@pytest.mark.parametrize("soft", [False, True])
def test_weights_of_images_multiply_their_losses(logits, loss, weight, soft):
    targets = torch.rand(32, 4, dtype=torch.float64).softmax(1) if soft else labels(loss.several)
    weights = torch.rand(32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    criterion = made(loss(), 0.1, weight)
    each = torch.stack([criterion(logits[row : row + 1], targets[row : row + 1]) for row in range(32)])
    assert criterion(logits, targets, weights).item() == pytest.approx((each * weights).mean().item(), rel=1e-12)
    assert criterion(logits, targets, torch.ones(32)).item() == pytest.approx(criterion(logits, targets).item(), rel=1e-12)
