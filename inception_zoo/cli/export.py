"""`inception-zoo export`: export a network as one file for serving."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.cli.option_types import EMA, MEAN, SIZE, STD, TRANSFORM, TRUST, stated
from inception_zoo.errors import ZooError
from inception_zoo.system.terminal import console, tell


def export_network(
    network: Annotated[str, typer.Argument(metavar="CKPT", help="Checkpoint, run folder, .safetensors, .pth or .h5.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .onnx, or .pt2 for torch.export.load.")],
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to 8 bits and compare with fp32.")] = False,
    images: Annotated[Path | None, typer.Option(help="For --int8: a subfolder per class. Default: the run's data.")] = None,
    calibration_images: Annotated[int, typer.Option(min=1, help="For --int8: number of images.")] = 512,
    data_root: Annotated[Path | None, typer.Option(help="For --int8: folder of the run's data. Default: the run's.")] = None,
    no_fold: Annotated[bool, typer.Option("--no-fold", help="Do not fold BatchNorm into convolutions.")] = False,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    ema: EMA = None,
    transform_input: TRANSFORM = None,
    trust: TRUST = False,
) -> None:
    """Export a network as one file, with its classes and preprocessing inside, and verify the file's outputs."""
    from inception_zoo.serving import export
    from inception_zoo.serving.classifier import open_classifier

    export.check_out(out, int8)
    for option, given in {"--images": images, "--data-root": data_root}.items():
        if given and not int8:
            raise ZooError(f"{option} {given} needs --int8; add it, or leave {option} out")
    if images and data_root:
        raise ZooError("--images and --data-root cannot be combined; leave one of them out")
    if int8 and no_fold:
        raise ZooError("--int8 and --no-fold cannot be combined, since int8 needs folded BatchNorms; leave --no-fold out")
    classifier = open_classifier(network, trust, stated(mean, std, image_size, ema, transform_input))
    model = classifier.model
    if model is None:
        raise ZooError(f"{network} is already an exported network; give its checkpoint or weights")
    model.preprocessing = classifier.preprocessing
    if int8:
        from inception_zoo.serving import quantize

        if images:
            samples = quantize.folder_samples(images, model, calibration_images)
        else:
            samples = quantize.run_samples(network, model, calibration_images, data_root)
        result = quantize.export_int8(model, out, samples)
        console().print(export.file_table(model, out, result.difference))
        console().print(quantize.comparison(result, samples))
        if warning := quantize.warning(result):
            tell(f"warning: {warning}")
    else:
        write = export.export_onnx if out.suffix == ".onnx" else export.export_program
        difference = write(model, out, fold=not no_fold)
        console().print(export.file_table(model, out, difference))
