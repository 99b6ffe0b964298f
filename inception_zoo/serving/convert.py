"""Weights from file to file, between layouts."""

from pathlib import Path

from inception_zoo.architecture.preprocessing import Stated
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.models import load_model
from inception_zoo.weights.files import KERAS, TORCH, sha256, write_weights
from inception_zoo.weights.saving import NAMES, card_of, export_weights


def check_target(target: Path, to: str, overwrite: bool) -> None:
    """ZooError for a layout or file that cannot be written, before anything is read."""
    if to not in NAMES:
        raise ZooError(f"--to {to} is unknown; {did_you_mean(to, NAMES)}")
    if to == "keras" and not target.name.endswith(".weights.h5"):
        raise ZooError(f"{target}: Keras reads files whose names end in .weights.h5")
    if to != "keras" and target.suffix in KERAS:
        raise ZooError(f"{target}: the layout {to} is saved as .safetensors or .pth; .weights.h5 is --to keras")
    if target.suffix not in (".safetensors", *TORCH, *KERAS) or target.suffix == ".ckpt":
        raise ZooError(f"{target}: '{target.suffix}' is no format of weights; valid: .safetensors, .pth, .weights.h5")
    if to == "native" and target.suffix != ".safetensors":
        raise ZooError(f"{target}: our own weights need .safetensors, which says what network they are; or choose --to")
    if target.is_dir():
        raise ZooError(f"{target} is a folder")
    if not target.parent.is_dir():
        raise ZooError(f"{target}: there is no folder {target.parent}")
    if target.exists() and not overwrite:
        raise ZooError(f"{target} is there already; give another name, or --overwrite")


def convert(
    source: str, target: Path, to: str = "native", name: str | None = None, stated: Stated | None = None, trust: bool = False
) -> str:
    """Read `source`, write `target` in the layout `to`; a line that says what was done.

    Args:
        source: a file in any layout, a run folder, or published weights by name.
        target: the file; its suffix says the format.
        name: the network, where `source` does not say it.
        stated: what the user says of the preprocessing, kept in a native file.
        trust: see `load_model`.
    """
    model = load_model(source, name, trust)
    if stated and stated != Stated():
        if to != "native":
            raise ZooError(f"layout {to} has no place for --mean, --std and --image-size; they are for --to native")
        model.preprocessing = stated.over(model.preprocessing, model.plan.net.image_size, source)
        if len(model.preprocessing.mean) != model.plan.in_channels:
            given = f"--mean and --std have {len(model.preprocessing.mean)} numbers"
            raise ZooError(f"{given}, and {model.plan.net.name} reads {model.plan.in_channels} channels here")
    state = export_weights(model, to)
    write_weights(target, state, card_of(model).text() if to == "native" else None)
    values = sum(value.numel() for value in state.values())
    return f"{target}: {model.plan.net.name}, layout {to}, {len(state)} tensors, {values:,} values, sha256 {sha256(target)}"
