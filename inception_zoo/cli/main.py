"""The `inception-zoo` command."""

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from inception_zoo.architecture.choices import VALID
from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.nets import ALIASES, ZOO
from inception_zoo.architecture.nets.table import Net
from inception_zoo.architecture.plan import make_plan
from inception_zoo.architecture.preprocessing import Stated
from inception_zoo.architecture.reductions import REDUCTIONS
from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.config.overrides import Named, networks_of
from inception_zoo.describe.drawing import check_picture, draw_network
from inception_zoo.describe.table import describe, diff_table, network_table, weights_table
from inception_zoo.errors import ZooError, fail, messages_of

MEAN = Annotated[str | None, typer.Option(help="of the pixels from 0 to 1, as 0.5,0.5,0.5, where the file does not say it")]
STD = Annotated[str | None, typer.Option(help="likewise")]
SIZE = Annotated[int | None, typer.Option(min=1, help="pixels; the file's, or the network's usual input, when left out")]
TRUST = Annotated[bool, typer.Option("--trust", help="import the block function of your own that the file names: it runs code")]
JSON = Annotated[bool, typer.Option("--json", help="machine-readable, every figure exact")]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, compare and recombine the Inception family.")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train, test or sweep: what `python run.py` does in a checkout; `run --help` shows the keys.",
)
def run(context: typer.Context) -> None:
    from inception_zoo.app import main

    sys.argv = [sys.argv[0], *context.args]
    main()


@app.command("list")
def list_networks(as_json: JSON = False) -> None:
    """The zoo: what each network costs at its usual input, the smallest input of its stems; and the blocks to swap in."""
    networks = list(map(_summary, ZOO.values()))
    variants = {name: variant.__doc__ or "" for name, variant in (BLOCKS | REDUCTIONS).items()}
    if as_json:
        print(json.dumps({"networks": networks, "variants": variants}, indent=1))
        return
    caption = (
        "error: published top-1 / top-5, ImageNet, single crop. Parameters for 1000 classes, without and with auxiliary "
        "heads. Multiply-adds at px, the usual input. min px: with stem=imagenet / medium / small."
    )
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", pad_edge=False)
    for column in ("network", "error, %", "params, M", "+ aux, M", "mult-adds, G", "px", "min px"):
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for net in networks:
        aux = f"{net['params_with_aux'] / 1e6:.2f}" if net["aux"] else "–"
        costs = f"{net['params'] / 1e6:.2f}", aux, f"{net['macs'] / 1e9:.2f}"
        smallest = "/".join(map(str, net["min_image_size"].values()))
        table.add_row(net["name"], net["error"], *costs, str(net["image_size"]), smallest)
    _wide().print(table)
    table = Table(box=box.SIMPLE_HEAD, caption="for blocks.<endpoint, stage or all>", caption_justify="left", pad_edge=False)
    table.add_column("variant", no_wrap=True)
    table.add_column("of")
    for name, doc in variants.items():
        table.add_row(name, doc)
    _wide().print(table)


def _summary(net: Net) -> dict[str, Any]:
    cost = plan_cost(make_plan(net, aux=False))
    return {
        "name": net.name,
        "aliases": [alias for alias, name in ALIASES.items() if name == net.name],
        "source": net.source,
        "error": net.error,
        "params": cost.params,
        "params_with_aux": plan_cost(make_plan(net)).params,
        "macs": cost.macs,
        "aux": list(net.aux),
        "image_size": net.image_size,
        "min_image_size": {stem: make_plan(net, stem=stem).min_image_size() for stem in VALID["stem"]},
    }


@app.command("describe")
def describe_networks(
    words: Annotated[list[str], typer.Argument(metavar="NAME [KEY=VALUE]...", help="keys of `model`, as for `run.py`")],
    image_size: Annotated[int | None, typer.Option(min=1, help="pixels; the usual input when left out")] = None,
    diff: Annotated[bool, typer.Option("--diff", help="two networks side by side: A [KEY=VALUE]... B [KEY=VALUE]...")] = False,
    draw: Annotated[Path | None, typer.Option(help="a picture of the network and its blocks, .svg or .png")] = None,
    as_json: JSON = False,
    trust: TRUST = False,
) -> None:
    """A network, endpoint by endpoint: rows, shapes, costs, receptive field; beside another; as a picture."""
    named = networks_of(words, trust)
    if len(named) != 1 + diff:
        raise ZooError(f"describe{' --diff' * diff} takes {1 + diff} networks, not {len(named)}: {' '.join(words)}")
    if diff and draw:
        raise ZooError("--draw draws one network; leave --diff out")
    if draw:
        check_picture(draw)
    networks = [describe(each.plan, image_size or _usual_size(each), each.card) for each in named]
    if as_json:
        print(json.dumps(networks if diff else networks[0], indent=1))
    else:
        _wide().print(diff_table(*networks) if diff else network_table(networks[0]))
        for network in networks:
            if network["weights"]:
                _wide().print(weights_table(network["weights"]))
    if draw:
        draw_network(named[0].plan, networks[0]["image_size"], draw)
        print(f"picture: {draw}", file=sys.stderr)


def _usual_size(named: Named) -> int:
    preprocessing = named.card.preprocessing if named.card else None
    return preprocessing.image_size if preprocessing else named.plan.net.image_size


def _wide() -> Console:
    return Console(width=max(Console().width, 128))


@app.command("predict")
def predict_images(
    network: Annotated[str, typer.Argument(metavar="CKPT", help="checkpoint, run folder, .safetensors, .pth, .h5 or .onnx")],
    images: Annotated[list[str], typer.Argument(help="files, folders, patterns; - reads paths from standard input")],
    layout: Annotated[str, typer.Option("--format", help="table, csv or jsonl")] = "table",
    output: Annotated[Path | None, typer.Option(help="a file in place of standard output")] = None,
    top: Annotated[int, typer.Option(min=1, help="classes to show of each image")] = 5,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    crops: Annotated[int, typer.Option(help="1, 2, 10 or 144 views of each image, averaged, as the papers evaluate")] = 1,
    flip: Annotated[bool, typer.Option("--flip", help="average over the image and its mirror")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="stop at the first image that cannot be read")] = False,
    explain: Annotated[Path | None, typer.Option(help="a folder for pictures: which branch looked where (Grad-CAM)")] = None,
    layer: Annotated[str | None, typer.Option(help="the endpoint to explain; the last with branches when left out")] = None,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    trust: TRUST = False,
) -> None:
    """Classify images. Exit status 1 if one could not be read, 2 with --strict."""
    from inception_zoo.data.crops import check_crops
    from inception_zoo.interpret.gradcam import check_explain
    from inception_zoo.serving.classifier import open_classifier
    from inception_zoo.serving.images import find_images
    from inception_zoo.serving.predict import check_format, check_output, report

    check_format(layout)
    check_crops(crops)
    check_output(output)
    check_explain(network, explain, layer)
    stated = Stated(_numbers("--mean", mean), _numbers("--std", std), image_size)
    paths = find_images(images)
    classifier = open_classifier(network, trust, stated)
    if report(classifier, paths, layout, output, top, batch_size, crops, flip, strict, explain, layer):
        raise typer.Exit(1)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ZooError(f"{option}={text} must be numbers with commas between, such as 0.485,0.456,0.406") from None


@app.command("convert")
def convert_weights(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="a file of weights, a run folder, or a name as timm:inception_v4.tf_in1k")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help=".safetensors, .pth, or .weights.h5 for Keras")],
    to: Annotated[str, typer.Option(help="native, torchvision, timm, cadene or keras")] = "native",
    name: Annotated[str | None, typer.Option("--model", help="the network, where the weights do not say it")] = None,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT if it is there")] = False,
    trust: TRUST = False,
) -> None:
    """Weights from one layout to another; native .safetensors carry the network, its classes and its preprocessing."""
    from inception_zoo.serving.convert import check_target, convert

    check_target(target, to, overwrite)
    print(convert(source, target, to, name, Stated(_numbers("--mean", mean), _numbers("--std", std), image_size), trust))


@app.command("export")
def export_network(
    network: Annotated[str, typer.Argument(metavar="CKPT", help="checkpoint, run folder, .safetensors, .pth or .h5")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help=".onnx, or .pt2 for torch.export.load")],
    int8: Annotated[bool, typer.Option("--int8", help="8 bits, calibrated on images, measured beside fp32")] = False,
    images: Annotated[Path | None, typer.Option(help="for int8, in place of the run's data: a subfolder of each class")] = None,
    calibration_images: Annotated[int, typer.Option(min=1, help="for int8")] = 512,
    data_root: Annotated[Path | None, typer.Option(help="for int8: where the run's data are now")] = None,
    no_fold: Annotated[bool, typer.Option("--no-fold", help="keep BatchNorms, not multiplied into convolutions")] = False,
    mean: MEAN = None,
    std: STD = None,
    image_size: SIZE = None,
    trust: TRUST = False,
) -> None:
    """A network as one file to serve, with its classes and preprocessing inside, checked against the network."""
    from inception_zoo.serving import export
    from inception_zoo.serving.classifier import open_classifier

    export.check_out(out, int8)
    for option, given in {"--images": images, "--data-root": data_root}.items():
        if given and not int8:
            raise ZooError(f"{option} {given} is for --int8")
    if images and data_root:
        raise ZooError("--images takes the place of the run's data; leave --data-root out")
    if int8 and no_fold:
        raise ZooError("--int8 works on folded BatchNorms; leave --no-fold out")
    classifier = open_classifier(network, trust, Stated(_numbers("--mean", mean), _numbers("--std", std), image_size))
    model = classifier.model
    if model is None:
        raise ZooError(f"{network} is exported already; give the checkpoint or weights that it was made of")
    model.preprocessing = classifier.preprocessing
    if int8:
        from inception_zoo.serving import quantize

        if images:
            samples = quantize.folder_samples(images, model, calibration_images)
        else:
            samples = quantize.run_samples(network, model, calibration_images, data_root)
        result = quantize.export_int8(model, out, samples)
        Console().print(export.file_table(model, out, result.difference))
        Console().print(quantize.comparison(result, samples))
        if warning := quantize.warning(result):
            print(f"warning: {warning}", file=sys.stderr)
    else:
        write = export.export_onnx if out.suffix == ".onnx" else export.export_program
        difference = write(model, out, fold=not no_fold)
        Console().print(export.file_table(model, out, difference))


@app.command("bench")
def bench_machine(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION | NETWORK]...", help="the usual sections, and all that have peers")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="timed turns of each contender, of which the median counts")] = 5,
    batch: Annotated[int | None, typer.Option(min=2, help="images; each network's own when left out")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="pixels; the usual input when left out")] = None,
    data_root: Annotated[Path, typer.Option(help="folder of Fashion-MNIST")] = Path("data"),
    keep: Annotated[Path | None, typer.Option("--json", help="keep the figures; those of these sections are replaced")] = None,
    compare: Annotated[Path | None, typer.Option(help="older figures, to show new over old")] = None,
    page: Annotated[bool, typer.Option("--page", help="README.md and pictures beside the figures")] = False,
    fit: Annotated[
        float | None, typer.Option(min=0.1, help="GiB: the largest batch of one network that trains in them")
    ] = None,
) -> None:
    """Speed and memory here, beside torchvision's, timm's and the tutorial's, in turns A B A B; and the project's targets.

    Sections: training, memory, choices, evaluation, framework, data, startup, scaling, roofline; and, where they are named,
    the times to an accuracy, a seed for each round: speedrun, speedrun_full, speedrun_937.
    """
    from inception_zoo.bench.sections import one_network, sorted_out

    if fit is not None:
        network = one_network(words or [], fit)
        from inception_zoo.bench.command import run_fit

        run_fit(network, fit, image_size, keep)
    else:
        sections, networks = sorted_out(words or [], sized=bool(batch or image_size))
        from inception_zoo.bench.command import run as run_bench
        from inception_zoo.bench.options import Options

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was measured is kept, no job goes on alone
        run_bench(sections, Options(rounds, tuple(networks), batch, image_size, data_root), keep, compare, page)


@app.command("parity")
def prove_parity(
    names: Annotated[list[str] | None, typer.Argument(help="pairs; all when left out")] = None,
    as_json: JSON = False,
) -> None:
    """Compare our networks with torchvision's, timm's, Cadene's and Keras's: the same weights, every endpoint."""
    from inception_zoo.bench.parity import PAIRS, prove

    proofs = {}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="largest difference of any endpoint, over its largest value")
    for column in ("pair", "ours", "round trip", "evaluation", "training", "exported"):
        table.add_column(column, no_wrap=True)
    for name in names or PAIRS:
        proofs[name] = proof = prove(name)
        worst = (f"{max(d.values()):.1e}" if d else "–" for d in (proof.evaluation, proof.training, proof.back))
        table.add_row(name, PAIRS[name].net, "exact" if proof.round_trip else "[bold red]differs", *worst)
    if as_json:
        print(json.dumps({name: asdict(proof) for name, proof in proofs.items()}, indent=1))
    else:
        _wide().print(table)


@app.command("report")
def report_runs(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="runs, sweeps, or folders above them: outputs")],
    out: Annotated[Path, typer.Option(help="the page; it needs no network and no other file")] = Path("report.html"),
) -> None:
    """One page of many runs: leaderboard over seeds, curves, cost, what varies, comparison, the mistakes of each run."""
    from inception_zoo.report.page import write_report

    said = write_report(folders, out, lambda line: print(f"warning: {line}", file=sys.stderr))
    print(f"report: {out} ({said})", file=sys.stderr)


@app.command("dashboard")
def write_workspace(
    entity: Annotated[str | None, typer.Option(help="user or team; your default one when left out")] = None,
    project: Annotated[str, typer.Option(help="as logger.wandb.project")] = "inception_zoo",
    out: Annotated[Path, typer.Option(help="the workspace as JSON, where nobody is logged in")] = Path("dashboard.json"),
) -> None:
    """Build the W&B workspace of a project: learning, speed, errors, and the jobs of a sweep compared."""
    from inception_zoo.tracking.dashboard import write_dashboard

    print(write_dashboard(entity, project, out))


data_app = typer.Typer(no_args_is_help=True, help="See what training sees; pack a data set for streaming.")
app.add_typer(data_app, name="data")


@data_app.command("show")
def show_data(
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="keys as for `run.py`")] = None,
    out: Annotated[Path, typer.Option(help="the picture: .png, .jpg, .svg, .pdf")] = Path("data.png"),
    images: Annotated[int, typer.Option(min=1, help="rows, one for each image")] = 8,
    draws: Annotated[int, typer.Option(min=1, help="columns, one for each augmentation of it")] = 7,
) -> None:
    """Draw augmented training images beside their originals: `data show data=cifar10 augmentation=randaugment`."""
    from inception_zoo.app import composed
    from inception_zoo.config.check import check_data

    with composed(words or []) as cfg:
        check_data(cfg["data"])
        from inception_zoo.data.show import contact_sheet
        from inception_zoo.training.job import build_data

        contact_sheet(build_data(cfg), out, images, draws)
    print(f"picture: {out}", file=sys.stderr)


@data_app.command("optimize")
def optimize_data(
    folder: Annotated[Path, typer.Argument(help="images: train/CLASS/*, val/CLASS/*; ImageNet's too")],
    out: Annotated[Path, typer.Argument(help="an empty or new folder for the chunks; copy it to an object store if you like")],
    chunk_size: Annotated[str, typer.Option(help="of each chunk, with KB, MB or GB")] = "64MB",
    workers: Annotated[int, typer.Option(min=1, help="threads that read files")] = 8,
) -> None:
    """Pack a folder of images into chunks that `data=stream data.root=OUT` reads in order, from a disk or an object store."""
    from inception_zoo.data.imagefolder import imagefolder
    from inception_zoo.data.imagenet import imagenet, is_imagenet
    from inception_zoo.data.optimize import optimize_folder

    source = imagenet if is_imagenet(folder) else imagefolder
    optimize_folder(source(str(folder)), out, chunk_size, workers)
    print(f"chunks: {out}; train on them with: python run.py data=stream data.root={out}", file=sys.stderr)


def main() -> None:
    """The console script: a user's mistake ends in one line and exit status 2."""
    sys.path.append(str(Path.cwd()))  # a user's own variants
    try:
        app()
    except ZooError as error:
        fail(*messages_of(error))


if __name__ == "__main__":
    main()
