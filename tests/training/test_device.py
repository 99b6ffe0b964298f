"""Every tensor of a step is on the training's device, and no step waits for it.

The device is `meta`, whose tensors have no values: an operation with a CPU tensor, a copy to the CPU, a number read from a
tensor, or a branch on one is an error there. On a GPU they would work, and most of them would wait for it.
"""

import warnings
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torchvision.transforms import v2

from inception_zoo import create_model
from inception_zoo.data import ImageData, Images, Source
from inception_zoo.data.augmentation import Augmentation
from inception_zoo.training.callbacks import EMA, GradientNorm, ImagesPerSecond
from inception_zoo.training.losses import Asymmetric, BinaryCrossEntropy, BinaryFocal, CrossEntropy, Focal
from inception_zoo.training.module import Classifier

SIZE, CLASSES = 64, 4
STEPS = 2


class Meta(Accelerator):
    def setup_device(self, device):
        pass

    def get_device_stats(self, device):
        return {}

    def teardown(self):
        pass

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):
        return [torch.device("meta")]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return "meta"


class OneDevice(SingleDeviceStrategy):
    def reduce(self, tensor, *args, **kwargs):
        return torch.ones(())  # Lightning asks for the lengths of the loaders


class EnoughError(Exception):
    pass


class Stop(L.Callback):
    """Stop after some batches: the end of an epoch reads its metrics, once."""

    seen = 0

    def _count(self, *args):
        self.seen += 1
        if self.seen == STEPS:
            raise EnoughError

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = _count


def source(several):
    images = torch.randint(256, (64, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.randint(2, (64, CLASSES)).float() if several else torch.arange(64) % CLASSES
    split = Images(images, labels)
    return Source("random", split, split, [str(label) for label in range(CLASSES)], split)


def steps(how, model, several=False, mixup=0.0, **options):
    """Return the number of batches that were completed on the meta device, and the error that ended them."""
    shift = v2.RandomAffine(0, translate=(0.07, 0.07))
    transforms = {"shift": shift, "flip": v2.RandomHorizontalFlip(), "colour": v2.ColorJitter(0.2, 0.2, 0.2)}
    augmentation = Augmentation(v2.RandomResizedCrop(SIZE), transforms, erasing=0.2, mixup=mixup, cutmix=mixup)
    sizes = {"val": None, "test": None}
    data = ImageData(partial(source, several), CLASSES, 3, SIZE, 8, sizes, [0.5] * 3, [0.5] * 3, augmentation=augmentation)
    rates = partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    module = Classifier(model, partial(torch.optim.SGD, lr=0.1, momentum=0.9), rates, 0.1, {}, **options)
    stop = Stop()
    strategy = OneDevice(device=torch.device("meta"), accelerator=Meta())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    own = [EMA(decay=0.9), GradientNorm(), ImagesPerSecond(), stop] if how == "fit" else [stop]
    limits = {"max_epochs": 2, "num_sanity_val_steps": 0, "log_every_n_steps": 100, "gradient_clip_val": 1.0}
    trainer = L.Trainer(strategy=strategy, callbacks=own, **quiet, **limits)
    with pytest.raises((EnoughError, NotImplementedError, RuntimeError)) as found:
        getattr(trainer, how)(module, data)
    error = found.value
    while error.__context__ is not None:  # the teardown copies the metrics to the CPU, which fails, too
        error = error.__context__
    return stop.seen, error


def completed(*args, **kwargs):
    seen, error = steps(*args, **kwargs)
    return seen == STEPS or str(error)


@pytest.fixture(autouse=True)
def expected_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


MODES = [("googlenet", mode) for mode in ("plain", "lean", "minimal")]
MODES += [("inception_v3", mode) for mode in ("plain", "lean", "minimal")]
MODES += [("inception_v2", "plain"), ("inception_v4", "lean"), ("inception_resnet_v1", "minimal")]


@pytest.mark.parametrize(("name", "memory"), MODES)
def test_a_training_step_stays_on_its_device(name, memory):
    swapped = {"mixed_6b": "residual"} if name == "inception_v3" else {}
    model = create_model(name, num_classes=CLASSES, width=0.125, memory=memory, stem="small", dropout=0.2, blocks=swapped)
    assert completed("fit", model, mixup=0.2) is True


@pytest.mark.parametrize("loss", [CrossEntropy, Focal, BinaryCrossEntropy, BinaryFocal, Asymmetric])
def test_losses_with_weights_stay_on_the_device(loss):
    model = create_model("googlenet_bn", num_classes=CLASSES, width=0.125, stem="small")
    assert completed("fit", model, several=loss.several, loss=loss(), class_weight="balanced") is True


@pytest.mark.parametrize("how", ["validate", "test"])
@pytest.mark.parametrize("loss", [CrossEntropy, BinaryCrossEntropy])
def test_evaluation_stays_on_the_device(how, loss, monkeypatch):
    # torchmetrics counts with `bincount`, which has no meta kernel; on a GPU it waits for the device once a batch
    monkeypatch.setattr("torchmetrics.utilities.data.torch.bincount", lambda x, minlength: x.new_zeros(minlength))
    model = create_model("googlenet_bn", num_classes=CLASSES, width=0.125, stem="small")
    assert completed(how, model, several=loss.several, loss=loss()) is True


def test_a_number_that_is_read_from_the_device_is_found(monkeypatch):
    """This test can fail: a step that reads its loss does not pass."""
    model = create_model("googlenet_bn", num_classes=CLASSES, width=0.125, stem="small")
    original, one = Classifier.training_step, torch.ones((), device="meta")
    monkeypatch.setattr(Classifier, "training_step", lambda self, *args: original(self, *args) * float(one))
    assert "item" in completed("fit", model)
