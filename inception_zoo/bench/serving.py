"""Speed of our networks as they are served (folded, int8) and of their peers, and the accuracy that int8 costs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional as F

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.bench.contenders import CASES, OURS, Case, contenders, device, fast_precision
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Figure, Measured, contested
from inception_zoo.data.fashion_mnist import fashion_mnist
from inception_zoo.data.source import Images
from inception_zoo.models import create_model
from inception_zoo.network.inception import Inception
from inception_zoo.serving import export, quantize
from inception_zoo.serving.folding import fuse

INT8 = ("inception_v3",)
SIDE, MEAN, STD = 28, 0.286, 0.353  # Fashion-MNIST's


def measure(options: Options) -> Measured:
    """Measure ``folded/NETWORK`` for the published networks, ``int8/NETWORK`` in onnxruntime, and the accuracy lost in int8."""
    ways = {f"folded/{name}": (_folded, case) for name, case in CASES.items() if name == case.net.name}
    ways |= {f"int8/{name}": (_int8, CASES[name]) for name in INT8}
    contests = {name: {OURS: way(case), **_peers(case)} for name, (way, case) in ways.items()}
    for name, contest in contests.items():
        yield from contested(f"evaluation/{name}", contest, options.rounds)
    yield "evaluation/int8/points lost", Figure("points", [_points_lost(options.data_root)])


def _points_lost(data_root: Path) -> float:
    """Train a small network on Fashion-MNIST for a minute; return the percentage points of accuracy that it loses in int8."""
    data = fashion_mnist(str(data_root))
    train, test = data.train, data.test
    assert isinstance(train, Images) and isinstance(test, Images)
    model = _trained(train)
    with TemporaryDirectory() as folder:
        fp32, int8 = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        export.export_onnx(model, fp32)
        quantize.quantize(fp32, int8, _batches(train, torch.arange(512)))
        before, after = (quantize.measure_accuracy(path, _batches(test, torch.arange(len(test)))) for path in (fp32, int8))
    return 100 * (before - after)


def _peers(case: Case) -> dict[str, Callable[[], float]]:
    return {each.label: each.evaluates(case) for each in contenders(case) if each.library != OURS}


def _folded(case: Case) -> Callable[[], float]:
    model, precision = fuse(Inception(case.plan).to(device()), fast_precision()), fast_precision()
    images = case.images().to(device(), memory_format=torch.channels_last)

    @torch.inference_mode()
    def turn() -> float:
        model(images.to(precision))
        return len(images)

    return turn


def _int8(case: Case) -> Callable[[], float]:
    """Return a turn of the int8 network; it is calibrated on the timed images, since ranges do not change the speed."""
    model, images = Inception(case.plan).eval(), case.images()
    model.preprocessing = Preprocessing(case.image_size, (0.5,) * case.in_channels, (0.5,) * case.in_channels, case.image_size)
    with TemporaryDirectory() as folder:
        fp32, int8 = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        export.export_onnx(model, fp32)
        quantize.quantize(fp32, int8, iter([(images, case.labels())]))
        session = export.open_onnx(int8)

    def turn() -> float:
        export.run_onnx(session, images)
        return len(images)

    return turn


def _trained(train: Images, steps: int = 200, batch: int = 128) -> Inception:
    """Train Inception-v3 with a quarter of its width on small images."""
    torch.manual_seed(0)
    model = create_model("inception_v3", 10, 1, width=0.25, stem="small", aux=False)
    model.to(memory_format=torch.channels_last)
    model.preprocessing = Preprocessing(SIDE, (MEAN,), (STD,), SIDE)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    rows = torch.randperm(len(train.labels))[: steps * batch]
    for images, labels in _batches(train, rows, batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_precision() == torch.bfloat16):
            loss = F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.to(memory_format=torch.contiguous_format).eval()


def _batches(images: Images, rows: Tensor, batch: int = 128) -> Iterator[tuple[Tensor, Tensor]]:
    for part in rows.split(batch):
        yield images.images[part].float().div(255).sub(MEAN).div(STD), images.labels[part]
