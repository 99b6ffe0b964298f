"""The Hugging Face Hub: folders with weights, card, model card and picture; and weights by name, ``hf:owner/name@revision``."""

import copy
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from inception_zoo.architecture.card import Card, Provenance, model_arguments
from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.nets import find_net
from inception_zoo.architecture.plan import make_plan
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.errors import ZooError, one_line
from inception_zoo.network.inception import Inception
from inception_zoo.runs.results import read_results
from inception_zoo.system.atomic_files import whole_file, write_whole
from inception_zoo.system.csv_files import read_table
from inception_zoo.system.records import read_yaml
from inception_zoo.system.regular_files import opened
from inception_zoo.weights.files import read_weights, sha256, write_weights
from inception_zoo.weights.saving import card_of, export_weights
from inception_zoo.weights.sources import TIMM, hub_name

log = logging.getLogger(__name__)
WEIGHTS, CONFIG, README, PICTURE = "model.safetensors", "config.json", "README.md", "network.png"
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
EXACT = 1e-4  # largest relative difference of the logits in timm


class Download(NamedTuple):
    """Weights from the Hub."""

    state: Mapping[str, torch.Tensor]
    card: Card
    path: Path
    url: str
    notes: list[str]


def read_hub(source: str) -> Download:
    """Download weights that this package or timm has written to the Hub.

    Args:
        source: ``hf:owner/name``, with ``@revision`` for a branch, a tag or a commit.

    Raises:
        ZooError: The repository cannot be read, has no `model.safetensors`, or is not of this family.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repo, revision = hub_name(source)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would log each of five attempts
    found: dict[str, Path] = {}
    try:
        for file in (WEIGHTS, CONFIG):
            try:
                found[file] = Path(hf_hub_download(repo, file, revision=revision))
            except EntryNotFoundError:
                if file == WEIGHTS:
                    raise ZooError(f"weights={source}: the repository has no {WEIGHTS}") from None
    except ZooError:
        raise
    except Exception as error:  # the library raises many types
        page, why = f"{constants.ENDPOINT}/{repo}", one_line(error).split(". ")[0][:200]
        wrong = f"weights={source} could not be downloaded ({type(error).__name__}: {why})"
        raise ZooError(f"{wrong}; check the name and the network, {LOGIN} for a private one, or download {page}") from None
    state, plain, notes = read_weights(found[WEIGHTS])
    commit = found[WEIGHTS].parent.name if "snapshots" in found[WEIGHTS].parts else revision or "main"
    if plain is None and CONFIG not in found:
        raise ZooError(f"weights={source}: the repository has neither a card of inception_zoo nor timm's {CONFIG}")
    card = Card.of(plain) if plain is not None else _card_of_timm(source, found[CONFIG], state)
    return Download(state, card, found[WEIGHTS], f"{constants.ENDPOINT}/{repo}/tree/{commit}", notes)


def _card_of_timm(source: str, path: Path, state: Mapping[str, torch.Tensor]) -> Card:
    """Return the card for weights that timm has written, from its config.json."""
    try:
        with opened(path) as file:
            config = json.load(file)
        stated = config.get("pretrained_cfg", config)
        name, size = config["architecture"], stated["input_size"]
        classes = config.get("label_names", stated.get("label_names"))
        count = config.get("num_classes", stated.get("num_classes"))
        mean, std, crop = stated["mean"], stated["std"], stated["crop_pct"]
        preprocessing = Preprocessing(size[-1], tuple(mean), tuple(std), int(size[-1] / crop), stated["interpolation"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise ZooError(f"weights={source}: timm's {CONFIG} cannot be read ({type(error).__name__}: {error})") from None
    if name not in TIMM:
        raise ZooError(f"weights={source} are of {name}, not of this family; networks of timm: {', '.join(TIMM)}")
    heads = name == "inception_v3" and any(key.startswith("AuxLogits.") for key in state)
    model = model_arguments(make_plan(find_net(TIMM[name]), count, size[0], aux=heads))
    names = classes if isinstance(classes, list) and len(classes) == count else None
    return Card.of(Card(model, names, preprocessing, Provenance(source, "timm", licence=stated.get("license"))).plain())


def write_folder(
    model: Inception,
    folder: Path,
    draw: Callable[[Path], None],
    run: Path | None = None,
    licence: str | None = None,
    repo: str | None = None,
) -> str:
    """Write a folder for the Hub: weights with our card, timm's config, a model card and a picture.

    Weights are in timm's layout if timm has the network; then timm loads the folder, too. Auxiliary heads are left out.

    Args:
        model: The network; not changed.
        folder: Created whole; it must not exist, or be empty.
        draw: Writes the picture to a path.
        run: Run folder, for data and metrics in the model card.
        licence: Of the weights, as the Hub names it, such as `mit`; None: that of their origin, if it is known.
        repo: ``owner/name``, for the examples in the model card.

    Returns:
        The layout of the weights.

    Raises:
        ZooError: The network states no preprocessing, or the folder cannot be written.
    """
    if model.preprocessing is None:
        raise ZooError(f"{model.plan.net.name} states no preprocessing, which users need; give --mean and --std")
    model = copy.deepcopy(model).eval().cpu()
    model.plan = replace(model.plan, choices=replace(model.plan.choices, aux=False))
    model.aux = nn.ModuleDict()
    licence = licence or (model.provenance.licence if model.provenance else None)
    with whole_file(folder, parents=True) as new:
        new.mkdir()
        layout = "timm" if _write_timm(model, new, licence) else "native"
        write_weights(new / WEIGHTS, export_weights(_bare(model), layout), card_of(model).text())
        draw(new / PICTURE)
        write_whole(new / README, model_card(model, layout, run, licence, repo or "OWNER/NAME"))
    return layout


def _bare(model: Inception) -> Inception:
    """Return the network without its preprocessing, which a config states here: its weights stay as they are."""
    bare = copy.copy(model)
    bare.preprocessing = None
    return bare


def _write_timm(model: Inception, folder: Path, licence: str | None) -> bool:
    """Write timm's config.json, and return True, if timm has the network and computes the same logits."""
    plan, known = model.plan, model.preprocessing
    architecture = {ours: theirs for theirs, ours in TIMM.items()}.get(plan.net.name)
    assert known is not None
    if architecture is None:
        return False
    try:
        state = export_weights(_bare(model), "timm")
    except ZooError as error:
        log.warning("not in timm's layout: %s", error)
        return False
    import timm

    theirs = timm.create_model(architecture, num_classes=plan.num_classes, in_chans=plan.in_channels).eval()
    try:
        theirs.load_state_dict(state)
    except RuntimeError:
        log.warning("not in timm's layout: timm's %s has weights of other shapes", architecture)
        return False
    images = torch.rand(1, plan.in_channels, known.image_size, known.image_size) * 2 - 1
    with torch.no_grad():
        due, found = model(images), theirs(images)
    if (found - due).abs().max() > EXACT * due.abs().max():
        log.warning("not in timm's layout: timm's %s computes other logits", architecture)
        return False
    size = (plan.in_channels, known.image_size, known.image_size)
    data: dict[str, Any] = {"input_size": size, "mean": known.mean, "std": known.std, "interpolation": known.interpolation}
    data |= {"crop_pct": known.image_size / known.resize}
    config = {"label_names": model.classes, "pretrained_cfg": {"license": licence or "unknown", "tag": None}}
    timm.models.save_for_hf(theirs, str(folder), model_config=config, data_config=data, safe_serialization=True)
    return True


def model_card(model: Inception, layout: str, run: Path | None, licence: str | None, repo: str) -> str:
    """Return the README.md of a repository; see `write_folder` for the arguments."""
    plan, known = model.plan, model.preprocessing
    assert known is not None
    size = known.image_size
    cost = plan_cost(plan, size)
    task = "image-classification" if plan.num_classes else "image-feature-extraction"
    head = [
        "---",
        *([f"license: {licence}"] if licence else []),
        f"library_name: {'timm' if layout == 'timm' else 'inception_zoo'}",
    ]
    head += [f"pipeline_tag: {task}", "tags:", *(f"- {tag}" for tag in ("inception", "inception_zoo", task)), "---", ""]
    facts = {
        "network": f"`{plan.net.name}` ({plan.net.source})",
        "block changes": plan.swapped,
        "parameters": f"{cost.params:,}",
        "multiply-adds": f"{cost.macs / 1e6:,.0f} M at {size} px",
        "input": f"{plan.in_channels} x {size} x {size}, from 0 to 1, minus {_numbers(known.mean)}, over {_numbers(known.std)}",
        "resize": f"shorter side to {known.resize} px ({known.interpolation}), centre crop of {size} px",
        "output": _output(model),
        "licence": licence or "not stated",
    }
    rows = [f"| {key} | {value} |" for key, value in facts.items() if value]
    lines = [f"# {repo.rpartition('/')[2]}", "", "| | |", "| --- | --- |", *rows, "", f"![The network]({PICTURE})", ""]
    lines += [*_results(run), *_origin(model.provenance), "## How to load it", "", "```python"]
    if layout == "timm":
        lines += [
            "import timm",
            "",
            f'model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()',
            "```",
            "",
            "```python",
        ]
    lines += [
        "from inception_zoo import load_model",
        "",
        f'model = load_model("hf:{repo}")  # {size} px; see model.preprocessing',
    ]
    return "\n".join([*head, *lines, "```", ""])


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _output(model: Inception) -> str:
    if not model.plan.num_classes:
        embedding = model.plan.embedding
        return f"an embedding of {embedding} numbers, of length 1" if embedding else f"{model.num_features} pooled features"
    names = ", ".join(map(str, (model.classes or [])[:10]))
    more = f": {names}{', …' if model.plan.num_classes > 10 else ''}" if names else ""
    return f"logits of {model.plan.num_classes} classes{more}"


def _results(run: Path | None) -> list[str]:
    """Return the section on data and metrics, from a run folder."""
    results = read_results(run) if run else {}
    metrics = {key: value for key, value in results.items() if key.startswith("test/") and isinstance(value, int | float)}
    if run is None or not metrics:
        return []
    config = read_yaml(run / ".hydra/resolved.yaml", {})
    data = str(((config.get("data") or {}).get("source") or {}).get("_target_", "unknown")).rpartition(".")[2]
    classes = run / "per_class.csv"
    images = [int(row[1]) for row in list(read_table(classes))[1:]] if classes.exists() else []
    count = f"{sum(images):,}" if images else "not recorded"
    facts = f"Data: `{data}`. Seed {results.get('seed')}, commit `{results.get('commit')}`."
    rows = [f"| {key.removeprefix('test/')} | {value:.4f} | {count} |" for key, value in metrics.items()]
    return ["## Data and results", "", facts, "", "| test metric | value | images |", "| --- | ---: | ---: |", *rows, ""]


def _origin(provenance: Provenance | None) -> list[str]:
    if provenance is None:
        return []
    facts = {
        "source": Path(provenance.source).name,
        "layout": provenance.layout,
        "sha256": provenance.sha256,
        "url": provenance.url,
    }
    lines = [f"- {key}: {value}" for key, value in facts.items() if value]
    return ["## Origin of the weights", "", *lines, *(f"- {note}" for note in provenance.notes), ""]


def push_folder(folder: Path, repo: str, private: bool = False) -> str:
    """Upload a folder that `write_folder` wrote; the repository is created if it does not exist.

    Args:
        folder: The folder.
        repo: ``owner/name``.
        private: Of a new repository.

    Returns:
        The URL of the commit.

    Raises:
        ZooError: The upload failed.
    """
    from huggingface_hub import HfApi

    files = [name for name in (WEIGHTS, CONFIG, README, PICTURE) if (folder / name).exists()]
    try:
        api = HfApi(library_name="inception_zoo")
        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files, commit_message="Add weights")
    except Exception as error:  # the library raises many types
        why = re.sub(r"\s*\(Request ID.*?\)", "", one_line(error))[:300]
        raise ZooError(
            f"--push {repo} failed ({type(error).__name__}: {why}); {LOGIN}; the folder is complete: {folder}"
        ) from error
    return str(commit.commit_url)


def hub_provenance(model: Inception, source: str, found: Download) -> Provenance:
    """Return the origin of weights that were loaded from the Hub."""
    assert model.provenance is not None
    licence = found.card.provenance.licence if found.card.provenance else None
    return replace(model.provenance, source=source, sha256=sha256(found.path), url=found.url, licence=licence)
