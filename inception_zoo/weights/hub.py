"""The Hugging Face Hub: folders with weights, card, model card and picture; and weights by name, ``hf:owner/name@revision``."""

import copy
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
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
from inception_zoo.weights.files import read_weights, write_weights
from inception_zoo.weights.saving import card_of, export_weights
from inception_zoo.weights.sources import TIMM, hub_name, is_name

log = logging.getLogger(__name__)
WEIGHTS, CONFIG, README, PICTURE = "model.safetensors", "config.json", "README.md", "network.png"
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")  # identifier of a licence on the Hub
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
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo, revision = hub_name(source)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would log each of five attempts
    found: dict[str, Path] = {}
    try:
        for file in (WEIGHTS, CONFIG):
            try:
                found[file] = Path(hf_hub_download(repo, file, revision=revision))
            except LocalEntryNotFoundError:  # without a network; a subclass of the next one
                raise
            except EntryNotFoundError:
                if file == WEIGHTS:
                    raise ZooError(f"weights={source}: the repository has no {WEIGHTS}") from None
            if "snapshots" in found[WEIGHTS].parts:  # the other file must be of the same commit
                revision = found[WEIGHTS].parent.name
    except ZooError:
        raise
    except Exception as error:  # the library raises many types
        page, why = f"{constants.ENDPOINT}/{repo}", one_line(error).split(". ")[0][:200]
        wrong = f"weights={source} could not be downloaded ({type(error).__name__}: {why})"
        raise ZooError(f"{wrong}; check the name and the network, {LOGIN} for a private one, or download {page}") from None
    state, plain, notes = read_weights(found[WEIGHTS])
    if plain is None and CONFIG not in found:
        raise ZooError(f"weights={source}: the repository has neither a card of inception_zoo nor timm's {CONFIG}")
    card = Card.of(plain) if plain is not None else _card_of_timm(source, found[CONFIG], state)
    return Download(state, card, found[WEIGHTS], f"{constants.ENDPOINT}/{repo}/tree/{revision or 'main'}", notes)


def _card_of_timm(source: str, path: Path, state: Mapping[str, torch.Tensor]) -> Card:
    """Return the card for weights that timm has written, from its config.json."""
    try:
        with opened(path) as file:
            config = json.load(file)
        stated = config.get("pretrained_cfg", config)
        name, size = str(config["architecture"]), stated["input_size"]
        if name not in TIMM:
            raise ZooError(f"they are of {name[:60]}, not of this family; networks of timm: {', '.join(TIMM)}")
        classes, count = (config.get(key, stated.get(key)) for key in ("label_names", "num_classes"))
        resize = math.floor(size[-1] / stated["crop_pct"])  # as timm
        known = Preprocessing(size[-1], tuple(stated["mean"]), tuple(stated["std"]), resize, stated["interpolation"])
        heads = name == "inception_v3" and any(key.startswith("AuxLogits.") for key in state)
        model = model_arguments(make_plan(find_net(TIMM[name]), count, size[0], aux=heads))
        names = classes if isinstance(classes, list) and len(classes) == count else None
        return Card.of(Card(model, names, known, Provenance(source, "timm", licence=stated.get("license"))).plain())
    except ZooError as error:
        raise ZooError(f"weights={source}: {error}") from None
    except Exception as error:  # the file is untrusted: any type
        raise ZooError(
            f"weights={source}: timm's {CONFIG} cannot be read ({type(error).__name__}: {one_line(error)[:100]})"
        ) from None


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
    model.provenance = _without_paths(model.provenance, licence)
    licence = model.provenance.licence
    with whole_file(folder, parents=True) as new:
        new.mkdir()
        layout = "timm" if _write_timm(model, new, licence) else "native"
        write_weights(new / WEIGHTS, export_weights(_bare(model), layout), card_of(model).text())
        draw(new / PICTURE)
        write_whole(new / README, model_card(model, layout, run, licence, repo or "OWNER/NAME"))
    return layout


def _without_paths(provenance: Provenance | None, licence: str | None) -> Provenance:
    """Return the origin with file names instead of paths, which are nobody's business, and with the stated licence."""
    found = asdict(provenance) if provenance else {"source": "trained from random weights", "layout": "native"}
    each: Any = found
    while each:
        if not is_name(each["source"]):
            each["source"] = Path(each["source"]).name
        each = each.get("origin")
    return Provenance(**found | ({"licence": licence} if licence else {}))


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

    with torch.random.fork_rng():
        theirs = timm.create_model(architecture, num_classes=plan.num_classes, in_chans=plan.in_channels).eval()
        images = torch.rand(1, plan.in_channels, known.image_size, known.image_size) * 2 - 1
    try:
        theirs.load_state_dict(state)
    except RuntimeError:
        log.warning("not in timm's layout: timm's %s has weights of other shapes", architecture)
        return False
    with torch.no_grad():
        due, found = model(images), theirs(images)
    if not (found - due).abs().max() <= EXACT * due.abs().max():  # also if a value is NaN
        log.warning("not in timm's layout: timm's %s computes other logits", architecture)
        return False
    size = (plan.in_channels, known.image_size, known.image_size)
    data: dict[str, Any] = {"input_size": size, "mean": known.mean, "std": known.std, "interpolation": known.interpolation}
    data |= {"crop_pct": math.nextafter(known.image_size / known.resize, 0)}  # timm rounds the quotient down to `resize`
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
    named = licence if licence is None or HUB_LICENCE.fullmatch(licence) else "other"  # a text could end the front matter
    tags = ["inception", "inception_zoo", task]
    head = [
        "---",
        *([f"license: {named}"] if named else []),
        f"library_name: {layout if layout == 'timm' else 'inception_zoo'}",
    ]
    head += [f"pipeline_tag: {task}", "tags:", *(f"- {tag}" for tag in tags), "---", ""]
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
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value]
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


def _cell(text: str) -> str:
    """Return a text as one line in a table of Markdown; it may be from an untrusted file."""
    return re.sub(r"([|<>\[\]])", r"\\\1", " ".join(text.split()))


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
    crops = (config.get("data") or {}).get("crops", 1)
    views = f" {crops} crops of each image, averaged." if crops != 1 else ""
    facts = f"Data: `{data}`. Seed {results.get('seed')}, commit `{results.get('commit')}`.{views}"
    rows = [f"| {key.removeprefix('test/')} | {value:.4f} | {count} |" for key, value in metrics.items()]
    return ["## Data and results", "", facts, "", "| test metric | value | images |", "| --- | ---: | ---: |", *rows, ""]


def _origin(provenance: Provenance | None) -> list[str]:
    if provenance is None:
        return []
    facts = {key: getattr(provenance, key) for key in ("source", "layout", "sha256", "url")}
    lines = [*(f"{key}: {value}" for key, value in facts.items() if value), *provenance.notes]
    return ["## Origin of the weights", "", *(f"- {_cell(line)}" for line in lines), ""]


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
    stale = [CONFIG] if CONFIG not in files else None
    try:
        api = HfApi(library_name="inception_zoo")
        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if private and not api.model_info(name).private:
            raise ZooError(f"--private: the repository {name} exists and is public; nothing was uploaded")
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=files, delete_patterns=stale, commit_message="Add weights"
        )
    except ZooError:
        raise
    except Exception as error:  # the library raises many types
        why = re.sub(r"\s*\(Request ID.*?\)", "", one_line(error))[:300]
        raise ZooError(f"the upload to {repo} failed ({type(error).__name__}: {why}); {LOGIN}") from error
    return str(commit.commit_url)


def hub_provenance(model: Inception, found: Download) -> Provenance:
    """Return the origin of weights that `fill` has loaded from the Hub, with address and licence."""
    assert model.provenance is not None
    licence = found.card.provenance.licence if found.card.provenance else None
    return replace(model.provenance, url=found.url, licence=licence)
