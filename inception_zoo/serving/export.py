"""Export of a network as one file for serving, ONNX or torch.export, with its card inside; the outputs are verified."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn

from inception_zoo.errors import ZooError, check_installed
from inception_zoo.network.inception import Inception
from inception_zoo.serving import folding
from inception_zoo.system.atomic_files import check_file, whole_file
from inception_zoo.weights.files import METADATA
from inception_zoo.weights.kinds import SUFFIXES
from inception_zoo.weights.saving import card_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INPUT, OUTPUT = "images", "logits"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # torch.onnx needs onnxscript
OPSET = 20  # needs onnxruntime 1.17 or later
TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit
EXTRA_FILE = f"{METADATA}.json"  # name of the card in a .pt2 file


def check_out(path: Path, int8: bool = False) -> None:
    """Check that a network can be exported to `path`.

    Args:
        path: name that ends in .onnx or .pt2.
        int8: True for an int8 export, which needs .onnx.

    Raises:
        ZooError: the suffix or the folder is wrong, or a package for the format is not installed.
    """
    if path.suffix not in (".onnx", ".pt2"):
        hint = "; for weights use `inception-zoo convert`" if path.suffix in SUFFIXES else ""
        raise ZooError(f"{path}: the name must end in .onnx or .pt2{hint}")
    if int8 and path.suffix != ".onnx":
        raise ZooError(f"{path}: --int8 writes ONNX only; the name must end in .onnx")
    check_file(str(path), path)
    if path.suffix == ".onnx":
        for package in PACKAGES:
            check_installed(package, "export", f"{path}: ONNX")


def export_onnx(model: Inception, path: str | Path, fold: bool = True) -> float:
    """Write `model` as ONNX, from normalized `images` (N, C, S, S) to `logits` (N, classes).

    N is dynamic, and S is the image size of the model's preprocessing. The metadata hold the card under the key
    `inception_zoo`. Auxiliary heads are left out.

    Args:
        model: network whose `preprocessing` is set.
        path: name that ends in .onnx.
        fold: fold BatchNorm into the convolutions and simplify the network further, see `folding.fold`.

    Returns:
        The largest difference between the logits of onnxruntime and of the network, divided by the largest logit.

    Raises:
        ZooError: the preprocessing is unknown, a package is missing, or the difference is above 1e-4; no file is written.
    """
    path = Path(path)
    check_out(path)
    import onnx

    served, sample = _served(model, path, fold)
    with whole_file(path) as temporary:
        with silence():
            program = torch.onnx.export(
                served,
                (sample,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                optimize=fold,  # without `fold`, torch.onnx must not fold BatchNorm either
                verbose=False,
            )
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # they hold stack traces with paths of this machine
        program.model.metadata_props[METADATA] = card_of(served).text()
        program.save(temporary, external_data=False)
        onnx.checker.check_model(temporary, full_check=True)
        session = open_onnx(temporary)
        return _checked(served, lambda images: run_onnx(session, images), path)


def export_program(model: Inception, path: str | Path, fold: bool = True) -> float:
    """Write `model` as a program for `torch.export.load`, from normalized images (N, C, S, S) to logits (N, classes).

    The card is stored in the extra file `inception_zoo.json`.

    Args:
        model: see `export_onnx`.
        path: name that ends in .pt2.
        fold: see `export_onnx`.

    Returns:
        The largest difference between the logits of the program and of the network, divided by the largest logit.

    Raises:
        ZooError: see `export_onnx`.
    """
    path = Path(path)
    check_out(path)
    served, sample = _served(model, path, fold)
    with whole_file(path) as temporary, silence():
        program = torch.export.export(served, (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, temporary, extra_files={EXTRA_FILE: card_of(served).text()})
        return _checked(served, torch.export.load(temporary).module(), path)


def _served(model: Inception, path: Path, fold: bool) -> tuple[Inception, Tensor]:
    """Return a copy without auxiliary heads, its temperature folded into the classifier, and two sample images.

    torch would make a batch of one a constant.
    """
    if model.preprocessing is None:
        raise ZooError(f"{path}: the network's preprocessing is unknown; set mean, std and image size")
    served = folding.fold(model) if fold else deepcopy(model).eval()
    served.to(memory_format=torch.contiguous_format)
    served.aux = nn.ModuleDict()
    if (temperature := model.decision.temperature) != 1:  # other programs than ours read the logits, too
        served.fc.load_state_dict({key: value / temperature for key, value in served.fc.state_dict().items()})
        served.decision = replace(model.decision, temperature=1.0)
    served.requires_grad_(False)
    size = model.preprocessing.image_size
    served.plan.shapes(size)
    return served, torch.randn(2, model.plan.in_channels, size, size)


@torch.no_grad()
def _checked(model: Inception, exported: Callable[[Tensor], Tensor], path: Path) -> float:
    """Return the largest relative difference of the logits on random images; raise ZooError above `TOLERANCE`."""
    assert model.preprocessing
    size, worst = model.preprocessing.image_size, 0.0
    for n in (1, 3):
        images = torch.randn(n, model.plan.in_channels, size, size, generator=torch.Generator().manual_seed(n))
        ours, theirs = model(images), exported(images)
        difference = float((ours - theirs).abs().max() / ours.abs().max())
        if not difference <= TOLERANCE:  # NaN too
            raise ZooError(f"{path}: the logits differ from the network's by {difference:.1e} of the largest; not written")
        worst = max(worst, difference)
    return worst


def open_onnx(path: Path) -> "InferenceSession":
    """Open an ONNX file in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()  # fewer where several processes share the cores
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_onnx(session: "InferenceSession", images: Tensor) -> Tensor:
    """Return the logits (N, classes) of normalized images (N, C, S, S)."""
    return torch.from_numpy(session.run([OUTPUT], {INPUT: images.contiguous().numpy()})[0])


@contextmanager
def silence() -> Iterator[None]:
    """Suppress the exporters' warnings and log lines about their progress and future versions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def file_table(model: Inception, path: Path, difference: float) -> Table:
    """Return the table that describes an exported file.

    Args:
        model: the exported network.
        path: the file.
        difference: result of `export_onnx` or `export_program`.
    """
    assert model.preprocessing
    look, classes = model.preprocessing, model.classes
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("file", f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    table.add_row("network", model.plan.net.name + (f", {model.plan.swapped}" if model.plan.swapped else ""))
    if path.suffix == ".onnx":
        table.add_row("opset", str(OPSET))
    table.add_row("input", f"{INPUT}: N x {model.plan.in_channels} x {look.image_size} x {look.image_size}, any N")
    how = f"shorter side {look.resize} px ({look.interpolation}), centre crop {look.image_size} px"
    numbers = (", ".join(f"{value:.4g}" for value in values) for values in (look.mean, look.std))
    table.add_row("preprocessing", "{}; mean {}; std {}".format(how, *numbers))
    names = f": {', '.join(classes[:10])}{', …' if len(classes) > 10 else ''}" if classes else ", without names"
    table.add_row("classes", f"{model.plan.num_classes}{names}")
    outputs = "logits" if model.plan.num_classes else "features"
    table.add_row("difference", f"{outputs} differ from the network's by up to {difference:.1e} of the largest one")
    return table
