"""`inception-zoo predict`: classify images."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.cli.option_types import EMA, MEAN, SIZE, STD, TRANSFORM, TRUST, stated
from inception_zoo.errors import ZooError


def predict_images(
    network: Annotated[
        str, typer.Argument(metavar="CKPT", help="Checkpoint, run folder, .safetensors, .pth, .h5 or .onnx; or a sweep.")
    ],
    images: Annotated[list[str], typer.Argument(help="Files, folders, patterns or tables; - reads paths from standard input.")],
    layout: Annotated[str, typer.Option("--format", help="Output format: table, csv or jsonl.")] = "table",
    output: Annotated[Path | None, typer.Option(help="File to write. Default: standard output.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of classes to print per image.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass; with --crops, views.")] = 32,
    crops: Annotated[int, typer.Option(help="Views per image to average, as in the papers: 1, 2, 10 or 144.")] = 1,
    flip: Annotated[bool, typer.Option("--flip", help="Average over the image and its mirror image.")] = False,
    average: Annotated[list[str] | None, typer.Option("--with", help="Another network to average with; repeat it.")] = None,
    abstain_below: Annotated[
        float | None, typer.Option(min=0, max=1, help="Mark images whose best class has a lower probability.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Column of a table to copy, such as the patient. Default: group.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the images.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")] = False,
    explain: Annotated[Path | None, typer.Option(help="Folder for Grad-CAM pictures of each branch. Default: none.")] = None,
    layer: Annotated[str | None, typer.Option(help="Endpoint for --explain. Default: the last one with branches.")] = None,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    ema: EMA = None,
    transform_input: TRANSFORM = None,
    trust: TRUST = False,
) -> None:
    """Classify images. The exit status is 1 if an image could not be read (2 with --strict)."""
    from inception_zoo.data.crops import check_crops
    from inception_zoo.interpret.gradcam import check_explain
    from inception_zoo.serving.classifier import networks_in, open_ensemble
    from inception_zoo.serving.images import find_grouped
    from inception_zoo.serving.predict import Listing, check_format, predict_in_processes, report
    from inception_zoo.system.atomic_files import check_file

    check_format(layout)
    check_crops(crops)
    if output:
        check_file(f"--output {output}", output)
    networks = [path for each in (network, *(average or ())) for path in networks_in(each)]
    check_explain(network, explain, layer)
    if explain and len(networks) > 1:
        raise ZooError(f"--explain {explain}: it needs one network, but {len(networks)} are given; give one run folder")
    preprocessing = stated(mean, std, image_size, ema, transform_input)
    paths, groups = zip(*find_grouped(images, group), strict=True)
    open_network = partial(open_ensemble, networks, trust, preprocessing)
    classifier = open_network()
    if abstain_below is not None and classifier.decision.several:
        raise ZooError("--abstain-below is for images with one label each; leave it out")
    if not classifier.classes:
        raise ZooError(f"{network} has no classifier; use `inception-zoo features`")
    seen = predict_in_processes(classifier, paths, processes, open_network, batch_size, crops, flip)
    predictions = (replace(each, group=name) for each, name in zip(seen, groups, strict=True))
    listing = Listing(layout, top, abstain_below, any(name is not None for name in groups))
    if report(classifier, paths, predictions, listing, output, strict, explain, layer):
        raise typer.Exit(1)
