"""int8 ONNX export, calibrated on real images, and its accuracy, size and speed compared with fp32."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException
from rich import box
from rich.table import Table
from torch import Tensor

from inception_zoo.config.allowed import DATA
from inception_zoo.config.targets import refused_targets
from inception_zoo.data import ImageData
from inception_zoo.data.division import TABLE
from inception_zoo.data.layout import class_name
from inception_zoo.data.pixels import prepare
from inception_zoo.data.reading import read_image
from inception_zoo.data.source import Batch
from inception_zoo.errors import ZooError, raise_all
from inception_zoo.network.inception import Inception
from inception_zoo.serving.export import INPUT, check_out, export_onnx, open_onnx, run_onnx, silence
from inception_zoo.serving.images import find_images
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.places import is_place
from inception_zoo.system.renamed import with_new_names
from inception_zoo.weights.files import METADATA, load_pickle, resolve

BATCH = 32
# Mul and Pow, which norm=lrn and residual scales use, stay in fp32.
OPS = ("Conv", "Gemm", "Concat", "MaxPool", "AveragePool", "Add", "Relu")


@dataclass(frozen=True)
class Samples:
    """Batches of normalized images (N, C, S, S) with labels (N,).

    Each call reads the images again, since at 299 px they would fill the memory.
    """

    calibration: Callable[[], Iterator[Batch]]
    test: Callable[[], Iterator[Batch]]
    calibrated_on: str  # description of the calibration images, for the table
    tested_on: str  # description of the test images, for the table


@dataclass(frozen=True)
class Quantized:
    """Comparison of int8 with fp32. The keys of each dictionary are `fp32` and `int8`."""

    difference: float  # largest relative difference of the fp32 ONNX from the network, see `export_onnx`
    accuracy: dict[str, float]  # from 0 to 1
    size: dict[str, int]  # bytes
    rate: dict[str, float]  # images per second at batch 32


def run_samples(ckpt: str | Path, model: Inception, count: int, root: Path | None = None) -> Samples:
    """Return samples of the data that a checkpoint was trained on.

    The network is calibrated on training images without augmentation and tested on the test split.

    Args:
        ckpt: Lightning checkpoint or run folder; its hyper-parameters describe the data.
        model: network of the checkpoint, with `preprocessing` set.
        count: number of calibration images, chosen with a fixed seed.
        root: folder of the data; None: the folder that the checkpoint names.

    Raises:
        ZooError: the file has no record of its data, names a data set that is not ours, or the data are not found.
    """
    path = resolve(ckpt)
    config = _data_config(path)
    preprocessing = model.preprocessing
    assert preprocessing
    config["image_size"] = preprocessing.image_size
    if chosen := [value for value in config.get("source", {}).values() if is_place("data.root", value)]:
        raise ZooError(f"{path}: its data are at {chosen[0]}, which a checkpoint must not choose; give --images FOLDER")
    if root is not None:
        if config.get("root") is None:
            raise ZooError(f"--data-root {root}: the data of {path} do not need a folder; leave it out")
        if not root.exists():
            raise ZooError(f"--data-root {root} does not exist; give the folder or the table of the data")
        config["root"] = str(root)
    elif is_place("data.root", config.get("root")) or _is_on_hub(config):
        raise ZooError(f"{path}: its data are at {config['root']}, which a checkpoint must not choose; give --images FOLDER")
    config |= {"crops": 1, "workers": None}
    try:
        data: ImageData = instantiate(config)
        data.preprocessing = preprocessing
        run = path.absolute().parent.parent
        data.before = run if (run / TABLE).is_file() else None  # its test images must not have been trained on
        data.setup()
    except (InstantiationException, OmegaConfBaseException, TypeError) as error:
        raise ZooError(f"{path}: its data cannot be built ({str(error).splitlines()[0]}); give --images FOLDER") from None
    except ZooError as error:
        raise ZooError(f"{path}: {error}; or give the folder of its data with --data-root") from None
    if not data.trains:
        raise ZooError(f"--data-root {root}: has no training images to calibrate on; give the table of the run")
    train, test = len(data.splits["train"]), len(data.splits["test"])
    rows = torch.randperm(train, generator=torch.Generator().manual_seed(0))[:count]

    def batches(name: str, which: Tensor) -> Iterator[Batch]:
        for batch in data.batches(name, [part.tolist() for part in which.split(BATCH)]):
            yield data.on_after_batch_transfer(batch, 0)

    calibrated_on, tested_on = f"{len(rows)} training images", f"{test:,} test images"
    return Samples(lambda: batches("train", rows), lambda: batches("test", torch.arange(test)), calibrated_on, tested_on)


def _is_on_hub(config: Mapping[str, Any]) -> bool:
    """Return True for a data set that would be downloaded from the Hugging Face Hub."""
    return str(config["source"].get("_target_")).endswith(".hf.hf") and not Path(str(config.get("root"))).is_dir()


def _data_config(path: Path) -> dict[str, Any]:
    """Return the `data` section of a checkpoint's config; raise ZooError unless it is safe to instantiate."""
    found: Any = None
    if path.suffix == ".ckpt":
        parameters = load_pickle(path, mmap=True).get("hyper_parameters")
        found = with_new_names(parameters.get("data")) if isinstance(parameters, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(found.get("source"), Mapping):
        raise ZooError(f"{path} has no record of the data that it was trained on; give --images FOLDER to calibrate int8 on")
    raise_all(f"{path}: {message}" for message in refused_targets({"data": found}, valid=DATA))
    if "${" in str(found):  # would be resolved here, for example from an environment variable
        raise ZooError(f"{path}: its data contain '${{', which is not allowed in a checkpoint; give --images FOLDER")
    return dict(found)


def folder_samples(folder: Path, model: Inception, count: int) -> Samples:
    """Return samples from a folder with one subfolder per class.

    The network is calibrated on `count` of the images and tested on all of them.

    Args:
        folder: subfolders named after the classes; if the network has no class names, after the labels: 0, 1, …
        model: network with `preprocessing` set.
        count: number of calibration images, chosen with a fixed seed.

    Raises:
        ZooError: the folder does not exist or has no image, or a subfolder is not named after a class.
    """
    if model.decision.several:
        raise ZooError(f"--images {folder}: a folder gives one label per image, but the network has several; leave it out")
    classes = [class_name(name) for name in model.classes or map(str, range(model.plan.num_classes))]
    paths = find_images([str(folder)])
    names = [class_name(path.relative_to(folder).parts[0]) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if name not in classes:
            some = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
            raise ZooError(f"--images {folder}: {path} is not in the subfolder of a class; subfolders must be named {some}")
    labels = torch.tensor([classes.index(name) for name in names])
    assert model.preprocessing
    channels, preprocessing = model.plan.in_channels, model.preprocessing

    def batches(rows: list[int]) -> Iterator[Batch]:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            yield torch.stack([prepare(read_image(paths[i], channels), preprocessing) for i in part]), labels[part]

    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
    chosen, every = order[:count], list(range(len(paths)))
    tested_on = f"{len(every):,} images, including those of the calibration"
    return Samples(lambda: batches(chosen), lambda: batches(every), f"{len(chosen)} images", tested_on)


def export_int8(model: Inception, path: str | Path, samples: Samples) -> Quantized:
    """Write `model` as int8 ONNX and compare it with fp32.

    Inputs, outputs and the card are those of `export_onnx`. BatchNorms are folded first. Convolutions, pools,
    concatenations and the classifier then use 8 bits.

    Args:
        model: network with `preprocessing` set.
        path: name that ends in .onnx.
        samples: images for calibration and test.

    Raises:
        ZooError: see `export_onnx`; or an image cannot be read. No file is written then.
    """
    path = Path(path)
    check_out(path, int8=True)
    if not model.plan.num_classes:
        raise ZooError(
            f"--int8 compares accuracies, but {model.plan.net.name} has no classifier here; export it without --int8"
        )
    with TemporaryDirectory() as folder, whole_file(path) as temporary:
        fp32 = Path(folder) / "fp32.onnx"
        difference = export_onnx(model, fp32)
        quantize(fp32, temporary, samples.calibration())
        _set_card(temporary, str(open_onnx(fp32).get_modelmeta().custom_metadata_map[METADATA]))
        files = {"fp32": fp32, "int8": temporary}
        accuracy = {name: measure_accuracy(file, samples.test()) for name, file in files.items()}
        images = next(samples.test())[0]
        rate = measure_rates(files, images.repeat(BATCH // len(images) + 1, 1, 1, 1)[:BATCH])
        return Quantized(difference, accuracy, {name: file.stat().st_size for name, file in files.items()}, rate)


def quantize(fp32: Path, int8: Path, batches: Iterator[Batch]) -> None:
    """Quantize an ONNX file, with the value ranges of its activations measured on `batches`.

    Weights are signed, with a scale per channel. Activations are unsigned with a zero point, so that a ReLU is part of its
    convolution. Only with this combination is onnxruntime faster than in fp32 on x86.

    Args:
        fp32: file to read.
        int8: file to write.
        batches: normalized images (N, C, S, S) with labels (N,), which are not used.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch[0].contiguous().numpy()}

    with silence():
        quantize_static(
            fp32,
            int8,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPS),
            per_channel=True,
            # Without VNNI, the sum of two 8-bit products can saturate; 7-bit weights are exact on every CPU.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def _set_card(path: Path, card: str) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: card})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def measure_accuracy(path: Path, batches: Iterator[Batch]) -> float:
    """Return the accuracy of an ONNX file, from 0 to 1; with several labels, the share of correct answers per label.

    Args:
        path: the file.
        batches: normalized images (N, C, S, S) with labels (N,), or (N, classes) of 0 and 1.
    """
    session, right, count = open_onnx(path), 0, 0
    for images, labels in batches:
        logits = run_onnx(session, images)
        right += int(
            (logits.argmax(1) == labels if labels.dim() == 1 else (logits[:, : labels.shape[1]] > 0) == (labels > 0)).sum()
        )
        count += labels.numel()
    return right / count


def measure_rates(files: Mapping[str, Path], images: Tensor, rounds: int = 7) -> dict[str, float]:
    """Return the images per second of ONNX files, as medians of interleaved rounds.

    Args:
        files: files by name.
        images: normalized batch (N, C, S, S).
        rounds: timed rounds.
    """
    sessions = {name: open_onnx(file) for name, file in files.items()}
    rates: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(rounds + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            run_onnx(session, images)
            if turn:  # the first turn warms up
                rates[name].append(len(images) / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def comparison(result: Quantized, samples: Samples) -> Table:
    """Return the table that compares fp32 with int8."""
    caption = f"calibrated on {samples.calibrated_on}; accuracy on {samples.tested_on}; images/s at batch {BATCH} here"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    for column in ("ONNX", "accuracy", "size, MB", "images/s"):
        table.add_column(column, justify="left" if column == "ONNX" else "right", no_wrap=True)
    for name in result.accuracy:
        rate, size = result.rate[name], result.size[name]
        table.add_row(name, f"{result.accuracy[name]:.4f}", f"{size / 1e6:.2f}", f"{rate:,.0f}")
    return table


def warning(result: Quantized) -> str | None:
    """Return a warning if int8 costs more than half a percentage point of accuracy, else None."""
    drop = (result.accuracy["fp32"] - result.accuracy["int8"]) * 100
    return f"int8 costs {drop:.2f} points of accuracy; try more --calibration-images" if drop > 0.5 else None
