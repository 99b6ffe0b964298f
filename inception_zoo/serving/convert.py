"""Convert weight files between the layouts of libraries."""

import logging
from pathlib import Path

from inception_zoo.architecture.decision import Decision
from inception_zoo.architecture.preprocessing import NOTHING_STATED, Stated
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.models import load_model
from inception_zoo.system.atomic_files import check_file
from inception_zoo.weights.files import sha256, write_weights
from inception_zoo.weights.hub import HUB_LICENCE
from inception_zoo.weights.kinds import KERAS, TORCH
from inception_zoo.weights.loading import normalizes_again
from inception_zoo.weights.saving import NAMES, card_of, export_weights
from inception_zoo.weights.sources import REPOSITORY

log = logging.getLogger(__name__)
HUB_FOLDER = "hub"  # a folder, not a layout


def check_hub(to: str, push: str | None, licence: str | None, private: bool, overwrite: bool) -> None:
    """Check the options for the Hub.

    Raises:
        ZooError: One is given without ``--to hub``, or has the wrong form.
    """
    if to == HUB_FOLDER and overwrite:
        raise ZooError("--overwrite cannot be combined with --to hub; give a new folder")
    if to != HUB_FOLDER and (push or licence or private):
        option = "--push" if push else "--licence" if licence else "--private"
        raise ZooError(f"{option} needs --to hub")
    if private and not push:
        raise ZooError("--private needs --push OWNER/NAME")
    if licence and not HUB_LICENCE.fullmatch(licence):
        raise ZooError(f"--licence {licence}: the Hub has names such as mit, apache-2.0, cc-by-4.0 and other")
    if push and not REPOSITORY.fullmatch(push):
        raise ZooError(f"--push {push}: the name of a repository is OWNER/NAME")


def check_target(target: Path, to: str, overwrite: bool) -> None:
    """Check that `target` can be written in a layout, before any file is read.

    Args:
        target: the file to write.
        to: name of the layout.
        overwrite: allow `target` to exist.

    Raises:
        ZooError: the layout is unknown, the suffix does not fit it, or the file cannot be written.
    """
    if to == HUB_FOLDER:
        if target.exists() and not target.is_dir():
            raise ZooError(f"{target} is a file; --to hub writes a folder")
        if target.is_dir() and any(target.iterdir()):
            raise ZooError(f"{target} is not empty; give another folder")
        return
    if to not in NAMES:
        raise ZooError(f"--to {to} is unknown; {did_you_mean(to, [*NAMES, HUB_FOLDER])}")
    if to == "keras" and not target.name.endswith(".weights.h5"):
        raise ZooError(f"{target}: the name must end in .weights.h5, which Keras requires")
    if to != "keras" and target.suffix in KERAS:
        raise ZooError(f"{target}: layout {to} is saved as .safetensors or .pth; for .weights.h5 use --to keras")
    if target.suffix not in (".safetensors", *TORCH, *KERAS) or target.suffix == ".ckpt":
        raise ZooError(f"{target}: '{target.suffix}' is not a weight format; valid: .safetensors, .pth, .weights.h5")
    if to == "native" and target.suffix != ".safetensors":
        raise ZooError(f"{target}: layout native is saved as .safetensors; use this suffix, or choose another --to")
    check_file(str(target), target)
    if target.exists() and not overwrite:
        raise ZooError(f"{target} already exists; give another name, or --overwrite")


def convert(
    source: str,
    target: Path,
    to: str = "native",
    name: str | None = None,
    stated: Stated = NOTHING_STATED,
    trust: bool = False,
    licence: str | None = None,
    repo: str | None = None,
) -> str:
    """Read weights and write them in another layout.

    Args:
        source: file in any layout, run folder, or name of published weights.
        target: file to write; its suffix selects the format. With `hub`, a folder.
        to: layout to write, or `hub`.
        name: network, if `source` does not name it.
        stated: facts about `source`; those on preprocessing are stored in a native file.
        trust: allow a block function of the user's own, see `load_model`.
        licence: of the weights, for the Hub.
        repo: name on the Hub, for the model card.

    Returns:
        A line with the file, the network, the layout, the numbers of tensors and values, and the sha256.

    Raises:
        ZooError: `source` cannot be read, does not fit the layout, or `stated` cannot be stored.
    """
    model = load_model(source, name, trust, stated.ema, stated.transform_input)
    if stated.preprocesses:
        if to not in ("native", HUB_FOLDER):
            raise ZooError(f"--to {to}: this layout cannot store --mean, --std and --image-size; they are for native and hub")
        again = normalizes_again(model, source)
        model.preprocessing = stated.over(model.preprocessing, model.plan.net.image_size, source, again)
        if len(model.preprocessing.mean) != model.plan.in_channels:
            given = f"--mean and --std have {len(model.preprocessing.mean)} numbers"
            raise ZooError(f"{given}, but {model.plan.net.name} reads {model.plan.in_channels} channels in {source}")
    if to == HUB_FOLDER:
        same = Path(source).is_dir() and stated == NOTHING_STATED  # else the run's results are not those of these weights
        run = Path(source) if same else None
        layout = model.save_pretrained(target, run, licence, repo)
        return f"{target}: {model.plan.net.name}, weights in the layout of {layout}, card, model card and picture"
    if to != "native" and model.decision != Decision():
        log.warning("layout=%s does not store how logits become labels; note it: %s", to, model.decision.plain())
    state = export_weights(model, to)
    write_weights(target, state, card_of(model).text() if to == "native" else None)
    values = sum(value.numel() for value in state.values())
    return f"{target}: {model.plan.net.name}, layout {to}, {len(state)} tensors, {values:,} values, sha256 {sha256(target)}"
