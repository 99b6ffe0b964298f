"""Details of one run on the page: classes, calibration, the images with the highest loss, the network."""

import io
import json
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.choices import LOADING
from inception_zoo.architecture.plan import plan_of
from inception_zoo.describe.drawing import network_figure
from inception_zoo.errors import ZooError, one_line
from inception_zoo.redaction import redacted
from inception_zoo.report.collect import INTENDED_USE, Run, numbers_of, read_confusion, rows_of
from inception_zoo.system.csv_files import read_table
from inception_zoo.system.regular_files import text_of

MATRIX = 50  # draw a confusion matrix of at most so many classes; list only the most confused pairs of a larger one
PAIRS = 50  # number of most confused pairs
WORST = 24  # number of images with the highest loss
BOUNDS = ("value", "low", "high")
USE = 2000  # maximum number of characters of the intended use
DRAWN = 8  # number of classes whose curves are drawn
PICTURE = 96  # px, longer side of an image


def read_details(run: Run, warn: Callable[[str], None]) -> dict[str, Any]:
    """Read the tables that the folder contains; skip a damaged file with a warning.

    Args:
        run: the run.
        warn: called with one line for each file that is skipped.

    Returns:
        Name → content of `card`, `confusion`, `per_class`, `calibration`, `decisions`, `curves`, `subgroups` and `worst`.
    """
    parts: dict[str, Callable[[Path], Any]] = {
        "confusion": _confusion,
        "per_class": partial(_figures, texts=["class"], numbers=["images", "top1", "top5", "precision", "f1"]),
        "calibration": _calibration,
        "decisions": partial(_figures, texts=["metric", "class"], numbers=["images", *BOUNDS]),
        "curves": _curves,
        "subgroups": partial(_figures, texts=["column", "subgroup", "metric", "class"], numbers=["images", *BOUNDS]),
        "worst": _worst,
    }
    details: dict[str, Any] = {}
    try:
        details["card"] = _card(run)
    except ZooError as error:
        warn(f"{error}; the model card is skipped")
    for name, read in parts.items():
        path = run.folder / f"{name}.csv"
        try:
            if path.exists() and (found := read(path)):
                details[name] = found
        except ZooError as error:
            warn(f"{error}; the file is skipped")
        except Exception as error:  # an untrusted file may contain anything
            warn(f"{path} is damaged ({type(error).__name__}: {one_line(error)[:200]}); the file is skipped")
    return details


def _card(run: Run) -> list[tuple[str, str]]:
    """Return what a reader has to know before the network is used, as (title, text).

    The author writes the intended use into the file `INTENDED_USE` in the run folder.
    """
    config = run.config
    keys = {"classes": "data.num_classes", "initial weights": "model.weights", "class weights": "class_weight"}
    keys |= {"sampler": "data.sampler", "calibrated": "decision.calibrate", "threshold": "decision.threshold"}
    source, place = config.get("data.source._target_", ""), config.get("data.root", "null").rstrip("/")
    data = [part.rpartition(mark)[2] for part, mark in ((source, "."), (place, "/")) if part != "null"]
    facts = [("data", ", ".join(filter(None, data))), ("images", run.images)]
    group, division = config.get("data.source.group", "null"), run.folder / "split.csv"
    if group != "null" or (division.exists() and "group" in next(read_table(division, errors="surrogateescape"), ())):
        facts.append(("groups", f"{'group' if group == 'null' else group}, never divided between splits"))
    facts.append(("loss", config.get("loss._target_", "CrossEntropy").rpartition(".")[2]))
    facts += [(title, config.get(key, "null")) for title, key in keys.items()]
    file = run.folder / INTENDED_USE
    use = text_of(file, "replace").strip()[:USE] if file.is_file() else ""
    use = use or f"Not stated. The author can write it into {INTENDED_USE} in the run folder."
    return [(title, text) for title, text in facts if text not in ("", "null", "false")] + [("intended use", redacted(use))]


def _figures(path: Path, texts: Sequence[str], numbers: Sequence[str]) -> list[list[Any]]:
    """Return the named columns of texts and of numbers, row by row."""
    words = [[row[key] for key in texts] for _, row in rows_of(path, texts)]
    return [[*row, *map(_short, values)] for row, values in zip(words, numbers_of(path, numbers), strict=True)]


def _confusion(path: Path) -> dict[str, Any]:
    """Return the most confused pairs as [true, predicted, images, share of the true class]; add the matrix if it is small."""
    classes, matrix = read_confusion(path)
    wrong: list[list[Any]] = [
        [classes[true], classes[predicted], images, round(images / sum(row), 4)]
        for true, row in enumerate(matrix)
        for predicted, images in enumerate(row)
        if images and predicted != true
    ]
    wrong.sort(key=lambda pair: -pair[2])
    found: dict[str, Any] = {"classes": len(classes), "pairs": wrong[:PAIRS]}
    return found | ({"names": classes, "matrix": matrix} if len(classes) <= MATRIX else {})


def _calibration(path: Path) -> list[list[Any]]:
    found = numbers_of(path, ["bin_low", "bin_high", "images", "accuracy", "confidence"])
    if None in (edge for row in found for edge in row[:2]):
        raise ZooError(f"{path}: bin_low and bin_high must be numbers")
    return [list(map(_short, row)) for row in found]


def _curves(path: Path) -> dict[str, Any]:
    """Return the number of classes, and the points of the first ones: class, threshold, sensitivity, specificity, precision."""
    points = _figures(path, ["class"], ["threshold", "sensitivity", "specificity", "precision"])
    classes = list(dict.fromkeys(name for name, *_ in points))
    drawn = [point for point in points if point[0] in classes[:DRAWN]]
    return {"classes": len(classes), "points": drawn} if drawn else {}


def _worst(path: Path) -> list[dict[str, Any]]:
    figures = ("probability", "probability_of_label", "loss")
    rows = zip(rows_of(path, ["picture", "label", "predicted", *figures]), numbers_of(path, figures), strict=True)
    found = []
    for (number, row), values in islice(rows, WORST):
        picture = (path.parent / row["picture"]).resolve()
        if path.parent.resolve() not in picture.parents or not picture.is_file():
            raise ZooError(f"{path}, row {number}: image {row['picture']} is not in the run folder")
        shown = dict(zip(figures, map(_short, values), strict=True))
        words = {key: row.get(key, "") for key in ("label", "predicted", "image")}
        found.append({**words, **shown, "picture": _data_uri(picture)})
    return found


def _data_uri(path: Path) -> str:
    """Return the image as a small re-encoded WebP, so that only pixels are copied."""
    from inception_zoo.data.pictures import open_picture

    try:
        picture = open_picture(path, "RGB")
    except ZooError as error:
        raise ZooError(f"{path} is not a readable image: {error}") from None
    picture.thumbnail((PICTURE, PICTURE))
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=80)
    return f"data:image/webp;base64,{b64encode(small.getvalue()).decode()}"


def _short(value: float | None) -> float | int | None:
    """Round to five significant digits, to keep the page small."""
    if value is None:
        return None
    return int(value) if value == int(value) else float(f"{value:.5g}")


def network_key(run: Run) -> str | None:
    """Return a key that is equal for runs with the same drawing of the network; None if it cannot be determined."""
    model, size = (run.resolved or run.composed).get("model"), run.image_size or _size(run)
    if not isinstance(model, dict) or size is None:
        return None
    chosen = {key: value for key, value in model.items() if key not in {*LOADING, "init", "num_classes", "in_channels"}}
    ends = _data(run).get("num_classes"), _data(run).get("in_channels")
    return json.dumps([chosen, *ends, size], sort_keys=True, default=str)


def _data(run: Run) -> dict[str, Any]:
    data = (run.resolved or run.composed).get("data")
    return data if isinstance(data, dict) else {}


def _size(run: Run) -> int | None:
    size = _data(run).get("image_size")
    return size if isinstance(size, int) else None


def network_picture(run: Run) -> str:
    """Draw a run's network as a small SVG.

    Raises:
        ZooError: the config is invalid, names user-defined code or refers to environment variables.
    """
    import matplotlib
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config = {key: (run.resolved or run.composed).get(key) for key in ("model", "data")}
    if "${oc." in str(config):
        raise ZooError(f"{run.folder}/.hydra/config.yaml refers to environment variables")
    try:
        model: Any = OmegaConf.to_container(OmegaConf.create(config)["model"], resolve=True)
        size = run.image_size or _size(run)
        assert size is not None  # `network_key` is not None
        Card(model).check_code(run.folder, trust=False)
        plan = plan_of(model)
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise ZooError(f"{run.folder}/.hydra/config.yaml does not describe a valid network ({one_line(error)[:200]})") from None
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": plan.net.name, "svg.fonttype": "none"}):
        network_figure(plan, size).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _smaller(text.getvalue())


def _smaller(svg: str) -> str:
    """Halve the size: round to a tenth of a point, use one short font list, remove line breaks."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*sans-serif", "font-family: 'DejaVu Sans', Verdana, Arial, sans-serif", svg)
    svg = re.sub(r"(?<![#\w])-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", svg)
    svg = re.sub(r' id="(?:figure|axes|patch|text|line2d)_\d+"', "", svg)
    return re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><").strip()
