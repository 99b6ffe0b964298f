"""Feature visualization of a file's network, with the images of a folder that excite it most."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from inception_zoo.architecture.plan import Plan
from inception_zoo.architecture.preprocessing import NOTHING_STATED, Preprocessing, Stated
from inception_zoo.data.pixels import denormalize, prepare
from inception_zoo.data.reading import read_image
from inception_zoo.errors import ZooError
from inception_zoo.interpret.circuits import Target, branches, one_channel, read_target
from inception_zoo.interpret.visualization import Ascent, Tile, draw_sheet, most_exciting, visualize
from inception_zoo.network.inception import Inception
from inception_zoo.serving.classifier import open_classifier
from inception_zoo.serving.images import find_images, read_ahead
from inception_zoo.system.atomic_files import check_file
from inception_zoo.system.terminal import console

SUFFIXES = ".png", ".jpg", ".svg", ".pdf"


def visualize_file(
    source: str | Path,
    text: str,
    output: Path,
    ascent: Ascent,
    dataset: str | None = None,
    top: int | None = None,
    channels: int | None = None,
    trust: bool = False,
    stated: Stated = NOTHING_STATED,
) -> list[str]:
    """Draw images that excite a target most, or a sheet of an endpoint's channels by branch.

    Args:
        source: Weights, see `open_classifier`.
        text: The target, see `read_target`; an endpoint alone is a sheet.
        output: File to write.
        ascent: Options of the gradient ascent.
        dataset: Folder of images; those that excite each target most are drawn beside it.
        top: Number of these; None: 5.
        channels: Channels of each branch on a sheet; None: 12.
        trust: Allow a block function of the user's own, see `load_model`.
        stated: Facts about the file.

    Returns:
        A line for each target with its activation, and one with the picture.

    Raises:
        ZooError: The target or a file is wrong; before anything slow starts.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise ZooError(f"--output {output}: must end in one of {', '.join(SUFFIXES)}")
    check_file(f"--output {output}", output)
    classifier = open_classifier(source, trust, stated)
    model, known = classifier.network(), classifier.preprocessing
    if model.plan.in_channels not in (1, 3):
        raise ZooError(f"{source} reads {model.plan.in_channels} image channels; pictures have 1 or 3")
    if dataset is None and top is not None:
        raise ZooError("--top is the number of images of --dataset, which is not given; leave it out")
    targets = targets_of(model.plan, text, channels)
    every = [target for group in targets.values() for target in group]
    beside = _beside(model, known, every, find_images([dataset]), top or 5) if dataset else {}
    bar = console(stderr=True)
    with Progress(console=bar, transient=True, disable=not bar.is_terminal) as progress:
        task = progress.add_task("images", total=len(every))
        images, values = visualize(model, known, every, ascent, lambda done: progress.advance(task, done))
    found = dict(zip(every, zip(images, values.tolist(), strict=True), strict=True))
    groups = {
        heading: [Tile(found[target][0], f"{target.label.partition(':')[2]}   {found[target][1]:.3g}") for target in group]
        for heading, group in targets.items()
    }
    if beside:
        groups = {target.label: [Tile(found[target][0], f"{found[target][1]:.3g}"), *beside[target]] for target in every}
    draw_sheet(groups, f"{model.plan.net.name}   ·   {text}", output)
    return [*(f"{target.label}: activation {found[target][1]:.4g}" for target in every), f"picture: {output}"]


def targets_of(plan: Plan, text: str, channels: int | None) -> Mapping[str, Sequence[Target]]:
    """Return the target, or the first channels of each branch of an endpoint, by heading."""
    target = read_target(plan, text)
    if target is not None:
        if channels is not None:
            raise ZooError(f"--channels is for the sheet of an endpoint; {text} is one target: leave it out")
        return {text: [target]}
    size = sum(map(len, branches(plan, text).values()))
    return {
        heading: [Target(f"{text}:{channel}", text, one_channel(size, channel)) for channel in span[: channels or 12]]
        for heading, span in branches(plan, text).items()
    }


def _beside(
    model: Inception, known: Preprocessing, targets: Sequence[Target], paths: Sequence[Path], top: int
) -> dict[Target, list[Tile]]:
    """Return the images of a folder that excite each target most, as the network sees them."""

    def read(path: Path) -> Tensor:
        return prepare(read_image(path, model.plan.in_channels), known)

    batches = (torch.stack(images) for _, images in read_ahead(paths, read, 32))
    best = most_exciting(model, targets, batches, top)
    return {
        target: [Tile(denormalize(read(paths[row]), known), f"{value:.3g}  {paths[row].name}"[:22]) for value, row in rows]
        for target, rows in zip(targets, best, strict=True)
    }
