"""Numerical parity with the public implementations: the same weights, the same images, every endpoint compared.

Weights, BatchNorm's parameters and its statistics are random, and networks are also compared in training mode (batch
statistics). In an untrained network in evaluation mode, an error such as wrong pooling would hardly change the outputs.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.architecture.preprocessing import HALF, IMAGENET
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.models import create_model
from inception_zoo.network.inception import Inception
from inception_zoo.weights.files import read_weights, with_transform, write_weights
from inception_zoo.weights.layouts import LAYOUTS, Names, Place
from inception_zoo.weights.loading import load_weights
from inception_zoo.weights.mapping import twins_of
from inception_zoo.weights.saving import export_weights

Maps = dict[str, Tensor]  # outputs by endpoint, `aux <endpoint>` and `logits`


class TorchPeer:
    """A network of a PyTorch library, with random weights."""

    def __init__(self, make: Callable[[], nn.Module], names: Names) -> None:
        self.names = names
        with torch.device("meta"):  # skip the peers' slow initialization
            self.network = make()
        self.network.to_empty(device="cpu")
        self.modules = dict(self.network.named_modules())
        _randomize(self.network)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the state dict."""
        return {key: value.clone() for key, value in self.network.state_dict().items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load a state dict; every tensor must fit."""
        self.network.load_state_dict(weights, strict=True)

    def __call__(self, images: Tensor, training: bool) -> Maps:
        """Return every endpoint (N, C, H, W), auxiliary logits and the logits (N, classes) for images (N, 3, S, S)."""
        seen: Maps = {}
        hooks = [hook for endpoint in self.names.places if (hook := self._watch(endpoint, seen))]
        has = {name for name, _ in self.network.named_children()}
        heads = {f"aux {tap}": head.module for tap, head in self.names.heads.items() if head.module in has}
        for part, module in heads.items():
            hooks.append(self.network.get_submodule(module).register_forward_hook(_keep(seen, part)))
        hooks.append(self.network.get_submodule(self.names.fc).register_forward_hook(_keep(seen, "logits")))
        with torch.no_grad():
            self.network.train(training)(images.flip(1) if self.names.bgr else images)
        for hook in hooks:
            hook.remove()
        return seen

    def _watch(self, endpoint: str, seen: Maps) -> Any:
        """Register a hook that stores an endpoint's output; in a flat network, it reads the input of the next endpoint."""
        module = self.modules.get(self.names.places[endpoint].module)
        if module is not None and not isinstance(module, nn.Conv2d):
            return module.register_forward_hook(_keep(seen, endpoint))
        places = list(self.names.places)
        if endpoint == places[-1]:  # no layer follows: its logits are compared instead
            return None
        following = self.names.places[places[places.index(endpoint) + 1]]
        first = following.rows[0].split(" ")[0]
        module = self.network.get_submodule(f"{following.module}_{first}" if first else following.module)
        return module.register_forward_pre_hook(lambda _, inputs: seen.update({endpoint: inputs[0].clone()}))


class KerasPeer:
    """A network of Keras on its torch backend, with random weights."""

    def __init__(self, application: str, names: Names, size: int) -> None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        import keras

        keras.backend.set_floatx(str(torch.get_default_dtype()).removeprefix("torch."))
        keras.backend.clear_session()  # restart the numbers in the names of layers
        self.names = names
        self.network = getattr(keras.applications, application)(
            weights=None, classifier_activation=None, input_shape=(size, size, 3)
        )
        for layer in self.network.layers:
            for weight in layer.weights:
                draw = torch.empty(tuple(weight.shape))
                if weight.path.endswith("kernel"):
                    fan_in = draw.numel() // draw.shape[-1]
                    draw.normal_(std=(2 / fan_in) ** 0.5)
                elif weight.path.endswith("variance"):
                    draw.uniform_(0.5, 2.0)
                else:
                    draw.normal_(std=0.5)
                weight.assign(draw)
        layers = {layer.name for layer in self.network.layers}
        outputs = {name: self.network.get_layer(p.module).output for name, p in names.places.items() if p.module in layers}
        self.watched = keras.Model(self.network.input, {**outputs, "logits": self.network.output})

    def weights(self) -> dict[str, Tensor]:
        """Return the weights, with the names of a Keras file."""
        with tempfile.TemporaryDirectory() as folder:
            self.network.save_weights(f"{folder}/keras.weights.h5")
            return read_weights(f"{folder}/keras.weights.h5")[0]

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights with the names of a Keras file."""
        with tempfile.TemporaryDirectory() as folder:
            write_weights(Path(folder) / "ours.weights.h5", weights)
            self.network.load_weights(f"{folder}/ours.weights.h5")

    def __call__(self, images: Tensor, training: bool) -> Maps:
        """Return every endpoint (N, C, H, W) and the logits (N, classes) for images (N, 3, S, S)."""
        statistics = [(weight, weight.numpy().copy()) for weight in self.network.non_trainable_weights]
        with torch.no_grad():
            outputs = self.watched(images.permute(0, 2, 3, 1), training=training)
        for weight, value in statistics:
            weight.assign(value)
        return {name: maps.permute(0, 3, 1, 2) if maps.ndim == 4 else maps for name, maps in outputs.items()}


@dataclass(frozen=True)
class Pair:
    """One of our networks, and the peer to compare it with."""

    net: str
    layout: str  # layout of the peer's weights
    theirs: str  # name of the network in the peer's library
    size: int  # side of the images in pixels
    aux: bool = False
    transform_input: bool = False
    classes: int = 1000
    pixels: bool = False  # the peer reads uint8, and scales it to -1 … 1


PAIRS = {
    "torchvision googlenet": Pair("googlenet_bn", "torchvision", "googlenet", 224, aux=True),
    "torchvision googlenet, 161 px": Pair("googlenet_bn", "torchvision", "googlenet", 161, aux=True),
    "torchvision googlenet, transform_input": Pair("googlenet_bn", "torchvision", "googlenet", 224, True, transform_input=True),
    "torchvision inception_v3": Pair("inception_v3", "torchvision", "inception_v3", 299, aux=True),
    "torchvision inception_v3, transform_input": Pair(
        "inception_v3", "torchvision", "inception_v3", 299, aux=True, transform_input=True
    ),
    "timm inception_v3": Pair("inception_v3", "timm", "inception_v3", 299, aux=True),
    "timm inception_v3, without aux": Pair("inception_v3", "timm", "inception_v3", 139),
    "timm inception_v4": Pair("inception_v4", "timm", "inception_v4", 139),
    "timm inception_resnet_v2": Pair("inception_resnet_v2_slim", "timm", "inception_resnet_v2", 139),
    "cadene bninception": Pair("bn_inception", "cadene", "bninception", 224),
    "cadene inceptionv4": Pair("inception_v4", "cadene", "inceptionv4", 299),
    "cadene inceptionresnetv2": Pair("inception_resnet_v2_slim", "cadene", "inceptionresnetv2", 299),
    "pytorch-fid inception_v3": Pair("inception_v3_fid", "fid", "fid_inception_v3", 139, classes=1008),
    "torch-fidelity inception_v3": Pair(
        "inception_v3_fid", "fid", "FeatureExtractorInceptionV3", 299, classes=1008, pixels=True
    ),
    "torch-lucent inceptionv1": Pair("inception_v1_lucid", "lucid", "InceptionV1", 224, classes=1008),
    "facenet-pytorch InceptionResnetV1": Pair("inception_resnet_v1_facenet", "facenet", "InceptionResnetV1", 160, classes=8631),
    "timm legacy_xception": Pair("xception_timm", "timm", "legacy_xception", 138),
    "keras Xception": Pair("xception", "keras", "Xception", 138),
    "keras InceptionV3": Pair("inception_v3_slim", "keras", "InceptionV3", 139),
    "keras InceptionResNetV2": Pair("inception_resnet_v2_slim", "keras", "InceptionResNetV2", 139),
}


WITHOUT_DEPENDENCIES = {"lucent": "torch-lucent", "facenet_pytorch": "facenet-pytorch"}  # they ask for older versions of others


def peer_of(pair: Pair) -> TorchPeer | KerasPeer:
    """Build the peer's network with random weights.

    Raises:
        ImportError: the peer's library is not installed.
    """
    names = LAYOUTS[pair.layout][pair.net]
    if pair.layout == "keras":
        return KerasPeer(pair.theirs, names, pair.size)
    if pair.layout == "torchvision":
        from torchvision.models import get_model

        options = {"aux_logits": True, "init_weights": False, "transform_input": pair.transform_input}
        return TorchPeer(partial(get_model, pair.theirs, weights=None, **options), names)
    if pair.layout == "timm":
        import timm

        heads: dict[str, Any] = {"aux_logits": True} if pair.aux else {}
        return TorchPeer(partial(timm.create_model, pair.theirs, **heads), names)
    if pair.theirs == "fid_inception_v3":
        from pytorch_fid import inception

        pools = {"pool_3a": Place("maxpool1"), "pool_5a": Place("maxpool2")}  # torch-fidelity's names differ
        with without_weights(inception):
            return TorchPeer(inception.fid_inception_v3, replace(names, places={**names.places, **pools}))
    if pair.layout == "lucid":
        from lucent.modelzoo.inceptionv1.InceptionV1 import InceptionV1

        return TorchPeer(partial(InceptionV1, redirected_ReLU=False), names)
    if pair.layout == "facenet":
        from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

        return TorchPeer(partial(InceptionResnetV1, classify=True, num_classes=pair.classes), names)
    if pair.theirs == "FeatureExtractorInceptionV3":
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity

        def make() -> nn.Module:
            network = fidelity.FeatureExtractorInceptionV3("", ["logits"])
            network.feature_extractor_internal_dtype = torch.get_default_dtype()  # its option float64 gives float32
            return network.to(torch.get_default_dtype())

        with without_weights(fidelity):
            return TorchPeer(make, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escape sequences in its strings, written in 2018
        import pretrainedmodels

    return TorchPeer(partial(getattr(pretrainedmodels, pair.theirs), pretrained=None), names)


@contextmanager
def without_weights(module: ModuleType) -> Iterator[None]:
    """Let a module that always downloads weights build its network without them."""
    download: Any = patch.object(module, "load_state_dict_from_url", lambda *_, **__: {})
    with download, patch.object(nn.Module, "load_state_dict", lambda *_, **__: None):
        yield


@dataclass(frozen=True)
class Proof:
    """Result of a comparison in float64: by output, the largest absolute difference divided by the output's largest value."""

    round_trip: bool  # True if every tensor, loaded and exported again, is bit-equal
    evaluation: Mapping[str, float]
    training: Mapping[str, float]  # with batch statistics
    back: Mapping[str, float]  # evaluation with the weights of our re-initialized network, exported to the peer


def prove(name: str, images: int = 4) -> Proof:
    """Compare our network with a peer, endpoint by endpoint, on random images.

    Args:
        name: key of `PAIRS`.
        images: number of images.

    Raises:
        ZooError: the pair is unknown, the peer's library is not installed, or its weights do not fit our network.
    """
    if name not in PAIRS:
        raise ZooError(f"parity: pair '{name}' is unknown; {did_you_mean(name, PAIRS)}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # float32 amplifies rounding with batch statistics
    try:
        return _prove(PAIRS[name], images)
    except ImportError as error:
        alone = next((package for module, package in WITHOUT_DEPENDENCIES.items() if f"'{module}" in str(error)), None)
        fix = f"pip install --no-deps {alone}" if alone else "pip install 'inception-zoo[dev]'"
        raise ZooError(f"parity: {name} needs another package ({error}); {fix}") from None
    finally:
        torch.set_default_dtype(before)
        if keras := sys.modules.get("keras"):
            keras.backend.set_floatx("float32")


def _prove(pair: Pair, images: int) -> Proof:
    torch.manual_seed(0)
    peer = peer_of(pair)
    ours = create_model(pair.net, num_classes=pair.classes, aux=pair.aux)
    weights = peer.weights()
    stated = weights if twins_of(pair.layout, pair.net) else with_transform(weights, False)
    load_weights(ours, stated)  # layout `auto`; raises ZooError unless every tensor is used
    again = export_weights(ours, pair.layout)
    round_trip = again.keys() == weights.keys() and all(torch.equal(again[key], weights[key]) for key in weights)

    x = read = torch.randn(images, 3, pair.size, pair.size)
    if pair.pixels:
        x = torch.randint(256, x.shape, dtype=torch.uint8)
        read = (x.double() - 128) / 128
    if pair.transform_input:  # x has ImageNet's normalization; the peer changes it to mean 0.5, std 0.5
        load_weights(ours, with_transform(weights, True))
        if ours.preprocessing and ours.preprocessing.mean == HALF[0]:  # not folded into the first convolution
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in IMAGENET)
            read = (x * std + mean - 0.5) / 0.5
    evaluation, training = (_compare(ours, peer, read, x, mode) for mode in (False, True))

    drawn = create_model(pair.net, num_classes=pair.classes, aux=pair.aux)
    _randomize(drawn, scale=pair.layout != "keras")
    peer.load(export_weights(drawn, pair.layout))
    back = {} if pair.transform_input else _compare(drawn, peer, read, x, training=False)
    return Proof(round_trip, evaluation, training, back)


def _compare(ours: Inception, peer: Any, read: Tensor, theirs: Tensor, training: bool) -> dict[str, float]:
    with patch.object(F, "dropout", lambda x, *_, **__: x):  # every network's dropout calls this function
        expected, found = peer(theirs, training), _maps(ours, read, training)
    return {name: difference(found[name], expected[name]) for name in expected}


def _maps(model: Inception, images: Tensor, training: bool) -> Maps:
    """Return every endpoint, auxiliary head and the logits; running statistics are restored."""
    buffers = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        maps = model.train(training).endpoints(images)
        model.load_state_dict(buffers)
        outputs = model.outputs(images)
        model.load_state_dict(buffers)
    return {**maps, **{f"aux {tap}": logits for tap, logits in outputs.aux.items()}, "logits": outputs.logits}


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape, divided by the largest absolute value of `b`."""
    return ((a - b).abs().max() / b.abs().max()).item()


def _keep(seen: Maps, name: str) -> Any:
    return lambda _, __, output: seen.update({name: output.detach().clone()})


def _randomize(model: nn.Module, scale: bool = True) -> None:
    """Set random weights, BatchNorm parameters and statistics; the initial values would hide missing operations."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.uniform_(module.weight, 0.5, 1.5) if scale else nn.init.ones_(module.weight)
            nn.init.normal_(module.bias, std=0.5)
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.empty(module.num_features).uniform_(0.5, 2.0)
