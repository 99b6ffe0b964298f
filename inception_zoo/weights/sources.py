"""Published weights by name: ``torchvision:TAG``, ``timm:MODEL.TAG`` and ``hf:OWNER/NAME``, downloaded by libraries."""

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inception_zoo.architecture.card import Provenance
from inception_zoo.architecture.preprocessing import HALF, Preprocessing
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.weights.layouts import LAYOUTS

TORCHVISION = {"googlenet_bn": "GoogLeNet_Weights", "inception_v3": "Inception_V3_Weights"}
TIMM = {
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "inception_resnet_v2": "inception_resnet_v2_slim",
    "legacy_xception": "xception_timm",
}
HUB = "hf"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
HUB_NAME = re.compile(rf"{HUB}:({REPOSITORY.pattern})(?:@([\w][\w./-]*))?", re.ASCII)
OF_SLIM = "inception_v3.tf_"  # trained in TF-slim, whose average pools leave padded zeros out; in timm's network they count


@dataclass(frozen=True)
class Published:
    """Weights that a library publishes, not downloaded yet."""

    library: str
    entry: Any  # the library's own object for them
    preprocessing: Preprocessing
    provenance: Provenance
    classes: list[str] | None
    normalized_again: bool = False  # the library's network normalizes a second time (`transform_input`)

    def download(self) -> Path:
        """Return the weight file, downloaded unless it is in the library's cache.

        Raises:
            ZooError: the download failed.
        """
        try:
            return _from_torchvision(self.entry) if self.library == "torchvision" else _from_hub(self.entry)
        except Exception as error:  # each library raises many types without a network
            raise ZooError(
                f"weights={self.provenance.source} could not be downloaded ({type(error).__name__}); check the network, "
                f"or download {self.provenance.url} on another machine and pass the file's path"
            ) from None


def is_name(source: str) -> bool:
    """Return True if `source` is a name of published weights, such as `timm:inception_v4.tf_in1k`, and not a path."""
    library, _, tag = source.partition(":")
    return bool(tag) and (library in LAYOUTS or library == HUB)


def is_hub(source: str) -> bool:
    """Return True for weights of the Hugging Face Hub, such as `hf:owner/name`."""
    return source.startswith(f"{HUB}:")


def hub_name(source: str) -> tuple[str, str | None]:
    """Return the repository and the revision of a name such as `hf:owner/name@main`.

    Raises:
        ZooError: The name has another form.
    """
    found = HUB_NAME.fullmatch(source)
    if not found:
        raise ZooError(f"weights={source}: weights of the Hub have names such as hf:owner/name or hf:owner/name@revision")
    return found[1], found[2]


def network_of_name(source: str) -> str:
    """Return the network of the weights that `source` names.

    Raises:
        ZooError: the name does not contain the network, as is the case for torchvision's.
    """
    library, _, tag = source.partition(":")
    arch = tag.partition(".")[0]
    if library == "timm" and arch in TIMM:
        return TIMM[arch]
    nets = LAYOUTS["timm"] if library == "timm" else TORCHVISION
    raise ZooError(f"{source} does not name a network; set --model to one of {', '.join(nets)}")


def check_library(source: str, net: str) -> None:
    """Check that the library in `source` has weights of this network, as far as its name says. Imports nothing heavy.

    Raises:
        ZooError: the library does not have weights by name, or not of this network.
    """
    if is_hub(source):
        hub_name(source)
        return
    library = source.partition(":")[0]
    if library not in ("torchvision", "timm"):
        raise ZooError(f"weights={source}: only torchvision and timm have weights by name; pass a file of {library} weights")
    if net not in LAYOUTS[library]:
        raise ZooError(f"weights={source}: {library} has no {net}; it has {', '.join(LAYOUTS[library])}")


def published(source: str, net: str) -> Published:
    """Return the published weights of a network that `source` names.

    Raises:
        ZooError: the library has no such weights, or they are of another network; lists those that it has.
    """
    library, _, tag = source.partition(":")
    check_library(source, net)
    return _torchvision(source, tag, net) if library == "torchvision" else _timm(source, tag, net)


def _torchvision(source: str, tag: str, net: str) -> Published:
    import torchvision

    weights = getattr(torchvision.models, TORCHVISION[net])
    if tag not in weights.__members__:
        raise ZooError(f"weights={source}: torchvision has no such weights for {net}; {did_you_mean(tag, weights.__members__)}")
    entry = weights[tag]
    transform = entry.transforms()
    (measured,) = entry.meta["_metrics"].values()
    provenance = Provenance(
        source,
        "torchvision",
        url=entry.url,
        licence="BSD-3-Clause (of torchvision; none is stated for the weights)",
        accuracy={"top1": measured["acc@1"], "top5": measured["acc@5"]},
        notes=["transform_input: trained with mean 0.5 and std 0.5; folded into the first convolution where that is exact"],
    )
    # Both networks were ported from TensorFlow. In torchvision, the network itself converts images from the ImageNet
    # normalization to the range -1 … 1.
    size, resize, interpolation = transform.crop_size[0], transform.resize_size[0], str(transform.interpolation.value)
    preprocessing = Preprocessing(size, *HALF, resize, interpolation)
    return Published("torchvision", entry, preprocessing, provenance, entry.meta["categories"], normalized_again=True)


def _timm(source: str, tag: str, net: str) -> Published:
    import timm

    known = [name for arch in TIMM for name in timm.list_models(f"{arch}.*", pretrained=True)]
    if tag not in known:
        raise ZooError(f"weights={source}: timm has no such weights; {did_you_mean(tag, known)}")
    arch = tag.partition(".")[0]
    nets = [TIMM[arch], *(["inception_v3_slim"] if tag.startswith(OF_SLIM) else [])]
    if net not in nets:
        raise ZooError(f"weights={source} are for {' or '.join(nets)}, not for {net}")
    entry: Any = timm.models.get_pretrained_cfg(tag)
    size = entry.input_size[-1]
    preprocessing = Preprocessing(size, entry.mean, entry.std, math.floor(size / entry.crop_pct), entry.interpolation)
    url = f"https://huggingface.co/{entry.hf_hub_id}"
    provenance = Provenance(source, "timm", url=url, licence=entry.license)
    info = timm.data.ImageNetInfo()
    classes = [info.index_to_description(i) for i in range(entry.num_classes)] if entry.num_classes == 1000 else None
    return Published("timm", entry, preprocessing, provenance, classes)


def _from_torchvision(entry: Any) -> Path:
    import torch

    entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    return Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]


def _from_hub(entry: Any) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(entry.hf_hub_id, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would log each of five attempts
    return Path(hf_hub_download(entry.hf_hub_id, "model.safetensors"))
