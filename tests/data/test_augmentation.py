"""Each image gets its own random parameters, and the batched transform equals torchvision's transform of single images."""

from functools import partial

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as T

from inception_zoo import ZooError
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data import Augmentation
from inception_zoo.data.batched import FORMS, apply_to_batch
from inception_zoo.data.reading import part_of
from inception_zoo.training.metrics import soft_accuracy

SQUARE = Preprocessing(24, (0.5,) * 3, (0.5,) * 3, 28)


def images(n=64, channels=3, height=24, width=24):
    noise = torch.rand(n, channels, height // 4, width // 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear").mul(255).to(torch.uint8)


BATCHED = {
    "flip": v2.RandomHorizontalFlip(0.5),
    "crop": v2.RandomResizedCrop(24, scale=(0.08, 1.0), ratio=(0.75, 4 / 3), antialias=True),
    "shift": v2.RandomAffine(0, translate=[0.2, 0.1]),
    "jitter": v2.ColorJitter(0.4, 0.4, 0.4),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BATCHED)
def test_a_batch_is_changed_as_each_image_would_be(name, channels, monkeypatch):
    """Record the random parameters and let torchvision apply them to one image at a time."""
    transform, batch = BATCHED[name], images(channels=channels)
    assert type(transform) in FORMS
    draws = []
    draw = transform.make_params

    def recorded(flat):
        draws.append(draw(flat))
        if name == "jitter":
            draws[-1]["fn_idx"] = torch.tensor([2, 0, 1, 3])  # a batch has one order for all images
        return draws[-1]

    monkeypatch.setattr(transform, "make_params", recorded)
    torch.manual_seed(1)
    found = apply_to_batch(transform, batch)
    assert found.dtype == torch.uint8 and found.shape == batch.shape
    if name == "flip":
        torch.manual_seed(1)
        chosen = torch.rand(len(batch), 1, 1, 1).flatten() < 0.5
        assert 16 < chosen.sum() < 48
        expected = [image.flip(-1) if flipped else image for image, flipped in zip(batch, chosen, strict=True)]
    else:
        assert len(draws) == len(batch)
        expected = [transform.transform(image, params) for image, params in zip(batch, draws, strict=True)]
    difference = (found.int() - torch.stack(expected).int()).abs()
    assert difference.max() <= (5 if name == "jitter" else 1)  # torchvision rounds to integers after each of three steps
    assert difference.float().mean() < 1.5
    assert len({image.numpy().tobytes() for image in found}) > len(batch) / 2


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_erasing_draws_a_rectangle_for_each_image(p):
    torch.manual_seed(0)
    batch = images(200).clamp(min=1)
    found = apply_to_batch(v2.RandomErasing(p), batch)
    assert torch.equal(found[found > 0], batch[found > 0])
    share = (found == 0).float().mean((1, 2, 3))
    assert (share > 0).float().mean() == pytest.approx(p, abs=0.1)
    assert share.max() < 0.4
    for image in found[share > 0]:
        rows, columns = (image[0] == 0).any(1).sum(), (image[0] == 0).any(0).sum()
        assert rows * columns == (image[0] == 0).sum()  # one rectangle, through all channels


@pytest.mark.parametrize(
    "transform", [v2.RandAugment(), v2.TrivialAugmentWide(), v2.RandomErasing(1.0, value="random"), v2.ColorJitter(hue=0.3)]
)
def test_other_transforms_draw_for_each_image_too(transform):
    same = images(1).expand(32, -1, -1, -1)
    found = apply_to_batch(transform, same)
    assert found.shape == same.shape and len({image.numpy().tobytes() for image in found}) > 4


def test_of_a_picture_what_evaluation_sees_unless_a_crop_is_drawn():
    picture = images(1, height=40, width=60)[0]
    centre = T.center_crop(T.resize(picture, [28], antialias=True), [24, 24])
    assert torch.equal(Augmentation().of_picture(partial(part_of, picture), SQUARE), centre)
    cropped = Augmentation(crop=v2.RandomResizedCrop(24, antialias=True), transforms={"off": None})
    assert cropped.of_picture(partial(part_of, picture), SQUARE).shape == (3, 24, 24) and cropped.transforms == []


@pytest.mark.parametrize("how", ["bicubic", "nearest"])
def test_a_crop_is_resized_as_evaluation_is(how, monkeypatch):
    crop = v2.RandomResizedCrop(24, antialias=True)
    augmentation = Augmentation(crop=crop)
    augmentation.interpolate(how)
    draw, draws = crop.make_params, []
    monkeypatch.setattr(crop, "make_params", lambda flat: draws.append(draw(flat)) or draws[-1])
    batch = images(8)
    found = augmentation.of_batch(batch)
    interpolation = InterpolationMode(how)
    expected = [
        T.resized_crop(i, *d.values(), [24, 24], interpolation, antialias=True) for i, d in zip(batch, draws, strict=True)
    ]
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_mixed_labels_are_the_shares_of_the_images(mixup, cutmix):
    labels = torch.tensor([0, 1, 2, 3])
    flat = labels.float().view(4, 1, 1, 1).expand(4, 3, 16, 16).contiguous()  # a pixel value identifies the image
    torch.manual_seed(2)
    for _ in range(8):
        mixed, soft = Augmentation(mixup=mixup, cutmix=cutmix).mix(flat, labels, 4)
        assert soft.shape == (4, 4)
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(4.0), rtol=1e-4, atol=1e-4)


def test_nothing_is_mixed_unasked():
    batch, labels = images(4).float(), torch.arange(4)
    assert Augmentation().mix(batch, labels, 4) == (batch, labels)


def test_accuracy_of_mixed_labels_is_the_share_that_was_hit():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    soft = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.6, 0.0, 0.4, 0.0]])
    assert soft_accuracy(logits, soft, 1).item() == pytest.approx((0.7 + 0.0) / 2)
    assert soft_accuracy(logits, soft, 2).item() == pytest.approx((1.0 + 0.4) / 2)
    labels = torch.tensor([1, 3])
    one_hot = torch.nn.functional.one_hot(labels, 4).float()
    for k in (1, 2, 5):
        assert soft_accuracy(logits, labels, k) == soft_accuracy(logits, one_hot, k)
    assert soft_accuracy(logits, labels, 1).item() == 0.5


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (
            Augmentation(mixup=0.2),
            "augmentation.mixup mixes the images of a batch, but each process has one; raise data.batch_size",
        ),
        (Augmentation(cutmix=1.0), "augmentation.cutmix mixes the images of a batch, but each process has one"),
        (Augmentation(transforms={"crop": v2.RandomCrop(30)}), "larger than"),
        (Augmentation(crop=v2.RandomCrop(100)), "(for an image of 60x40 px)"),
        (Augmentation(transforms={"crop": v2.RandomCrop(20)}), "makes 20x20 px from 60x40 px; must be data.image_size=24"),
        (Augmentation(transforms={"grey": v2.RandomErasing(1.0, value=[1, 2])}), "augmentation: If value is a sequence"),
    ],
)
def test_what_cannot_be_is_said_before_training(augmentation, message):
    with pytest.raises(ZooError) as error:
        augmentation.check(images(1, height=40, width=60)[0], SQUARE, batch_size=1)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("mixup", -1), ("cutmix", "much"), ("erasing", 2)])
def test_shares_that_cannot_be(key, value):
    with pytest.raises(ZooError, match=f"augmentation.{key}={value} must be a number"):
        Augmentation(**{key: value})
