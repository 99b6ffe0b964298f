"""Names of tensors in the public implementations, as rules by endpoint.

A rule has one row of names for each row (branch) of the endpoint in the network's table. A row has one name for each
convolution and omits pools. For example, `Place("Mixed_5b", ["branch1x1", "branch5x5_1 > branch5x5_2", …])` means that the
first branch of `mixed_5b` is the module `Mixed_5b.branch1x1` in that implementation. This module does not import torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from inception_zoo.architecture.preprocessing import HALF

Normalized = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std per channel, in RGB order


class Place(NamedTuple):
    """The names of an endpoint in a layout: a module, and rows of names in it. The empty name is the module itself."""

    module: str
    rows: Sequence[str] = ("",)
    project: str = ""  # the 1x1 convolution without activation of a residual block


class Head(NamedTuple):
    """The names of an auxiliary head in a layout."""

    module: str
    rows: Sequence[str]
    fc: str
    hidden: str = ""


@dataclass(frozen=True)
class Style:
    """Templates of tensor names for convolution units, projections and classifiers.

    A template has the fields `name` (from a `Place`) and `tensor`. In layouts with numbered layers it also has the fields
    `conv` and `norm`: the number of the layer as a suffix ("", "_1", "_2", …).
    """

    conv: str = "{name}.conv.{tensor}"
    norm: str = "{name}.bn.{tensor}"
    project: str = "{name}.{tensor}"
    fc: str = "{name}.{tensor}"
    separator: str = "."  # between a place's module and a name in it
    layer: Mapping[str, str] | None = None  # the zoo's tensor → the layout's, of convolutions and classifiers; None: same names
    batch_norm: Mapping[str, str] | None = None  # likewise of BatchNorm; the layout lacks tensors without an entry
    counted: bool = False  # names are numbers, relative to the first layer of the place
    absolute: bool = False  # names do not begin with the place; a unit is `convolution+normalization`


class Twin(NamedTuple):
    """Another network with the names and shapes of a layout, but with another computation."""

    layout: str
    net: str
    classes: int
    differs: str
    file: str  # in the name of the published file
    sha256: str  # its first digits


@dataclass(frozen=True)
class Names:
    """The names of one network in a layout."""

    places: Mapping[str, Place]  # by endpoint; those without weights are for the parity tests
    fc: str
    heads: Mapping[str, Head] = field(default_factory=dict)  # by the endpoint that each one reads
    style: Style = Style()
    bgr: bool = False  # the first convolution reads channels in BGR order
    normalized: Normalized | None = None  # mean and std, if all published weights of the network share them
    cropped: bool = True  # images are resized to more than the network's size, and cropped
    embedding: tuple[str, str] | None = None  # the linear layer and the BatchNorm
    transforms: bool = False  # the library's network may normalize images again (`transform_input`); its files do not say
    twin: Twin | None = None  # without auxiliary heads
    read_only: str = ""  # how the library's network differs: its weights are read by name, and not written


# fmt: off

# GoogLeNet and Inception-v3 in torchvision
BLOCKS_V1 = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
INCEPTION_V1 = ["branch1", "branch2.0 > branch2.1", "branch3.0 > branch3.1", "branch4.1"]
TORCHVISION_V1 = Names(
    {
        "conv1": Place("conv1"), "pool1": Place("maxpool1"), "conv2": Place("conv2"), "conv3": Place("conv3"),
        "pool2": Place("maxpool2"), "pool3": Place("maxpool3"), "pool4": Place("maxpool4"),
        **{f"inception_{i}": Place(f"inception{i}", INCEPTION_V1) for i in BLOCKS_V1},
    },
    fc="fc",
    heads={f"inception_4{i}": Head(name, ["conv"], "fc2", hidden="fc1") for i, name in (("a", "aux1"), ("d", "aux2"))},
    transforms=True,
)
A35 = ["branch1x1", "branch5x5_1 > branch5x5_2", "branch3x3dbl_1 > branch3x3dbl_2 > branch3x3dbl_3", "branch_pool"]
C17 = [
    "branch1x1", "branch7x7_1 > branch7x7_2 > branch7x7_3",
    "branch7x7dbl_1 > branch7x7dbl_2 > branch7x7dbl_3 > branch7x7dbl_4 > branch7x7dbl_5", "branch_pool",
]
E8 = [
    "branch1x1", "branch3x3_1 > branch3x3_2a | branch3x3_2b",
    "branch3x3dbl_1 > branch3x3dbl_2 > branch3x3dbl_3a | branch3x3dbl_3b", "branch_pool",
]
V3_PLACES = {
    "conv_1a": Place("Conv2d_1a_3x3"), "conv_2a": Place("Conv2d_2a_3x3"), "conv_2b": Place("Conv2d_2b_3x3"),
    "conv_3b": Place("Conv2d_3b_1x1"), "conv_4a": Place("Conv2d_4a_3x3"),
    **{f"mixed_5{i}": Place(f"Mixed_5{i}", A35) for i in "bcd"},
    "mixed_6a": Place("Mixed_6a", ["branch3x3", "branch3x3dbl_1 > branch3x3dbl_2 > branch3x3dbl_3"]),
    **{f"mixed_6{i}": Place(f"Mixed_6{i}", C17) for i in "bcde"},
    "mixed_7a": Place("Mixed_7a", [
        "branch3x3_1 > branch3x3_2", "branch7x7x3_1 > branch7x7x3_2 > branch7x7x3_3 > branch7x7x3_4",
    ]),
    **{f"mixed_7{i}": Place(f"Mixed_7{i}", E8) for i in "bc"},
}
V3_HEADS = {"mixed_6e": Head("AuxLogits", ["conv0 > conv1"], "fc")}
V3_TWIN = Twin(
    "fid", "inception_v3_fid", classes=1008,
    differs="its average pools leave padded zeros out and mixed_7c has a max pool",
    file="inception-2015-12-05", sha256="6726825d",
)
TORCHVISION_V3 = Names(
    {**V3_PLACES, "pool_3a": Place("maxpool1"), "pool_5a": Place("maxpool2")}, fc="fc", heads=V3_HEADS,
    transforms=True, twin=V3_TWIN,
)
TIMM_V3 = Names({**V3_PLACES, "pool_3a": Place("Pool1"), "pool_5a": Place("Pool2")}, fc="fc", heads=V3_HEADS, twin=V3_TWIN)
FID_V3 = Names({**V3_PLACES, "pool_3a": Place("MaxPool_1"), "pool_5a": Place("MaxPool_2")}, fc="fc", normalized=HALF)

# Inception-v4 and Inception-ResNet-v2 in timm, whose names come from Cadene's library
A = ["branch0", "branch1.0 > branch1.1", "branch2.0 > branch2.1 > branch2.2", "branch3.1"]
REDUCE_6A = ["branch0", "branch1.0 > branch1.1 > branch1.2"]
V4_ROWS = {
    "conv_1a": [""], "conv_2a": [""], "conv_2b": [""],
    "mixed_3a": ["conv"],
    "mixed_4a": ["branch0.0 > branch0.1", "branch1.0 > branch1.1 > branch1.2 > branch1.3"],
    "mixed_5a": ["conv"],
    **{f"mixed_5{i}": A for i in "bcde"},
    "mixed_6a": REDUCE_6A,
    **{f"mixed_6{i}": [
        "branch0", "branch1.0 > branch1.1 > branch1.2",
        "branch2.0 > branch2.1 > branch2.2 > branch2.3 > branch2.4", "branch3.1",
    ] for i in "bcdefgh"},
    "mixed_7a": ["branch0.0 > branch0.1", "branch1.0 > branch1.1 > branch1.2 > branch1.3"],
    **{f"mixed_7{i}": [
        "branch0", "branch1_0 > branch1_1a | branch1_1b",
        "branch2_0 > branch2_1 > branch2_2 > branch2_3a | branch2_3b", "branch3.1",
    ] for i in "bcd"},
}
TIMM_V4 = Names(
    {endpoint: Place(f"features.{i}", rows) for i, (endpoint, rows) in enumerate(V4_ROWS.items())},
    fc="last_linear", normalized=HALF,
)
RESNET_PLACES = {
    "conv_1a": Place("conv2d_1a"), "conv_2a": Place("conv2d_2a"), "conv_2b": Place("conv2d_2b"), "pool_3a": Place("maxpool_3a"),
    "conv_3b": Place("conv2d_3b"), "conv_4a": Place("conv2d_4a"), "pool_5a": Place("maxpool_5a"),
    "mixed_5b": Place("mixed_5b", A),
    **{f"block35_{i + 1}": Place(f"repeat.{i}", A[:-1], project="conv2d") for i in range(10)},
    "mixed_6a": Place("mixed_6a", REDUCE_6A),
    **{f"block17_{i + 1}": Place(f"repeat_1.{i}", REDUCE_6A, project="conv2d") for i in range(20)},
    "mixed_7a": Place("mixed_7a", ["branch0.0 > branch0.1", "branch1.0 > branch1.1", "branch2.0 > branch2.1 > branch2.2"]),
    **{f"block8_{i + 1}": Place(f"repeat_2.{i}", REDUCE_6A, project="conv2d") for i in range(9)},
    "block8_10": Place("block8", REDUCE_6A, project="conv2d"),
    "conv_7b": Place("conv2d_7b"),
}
TIMM_RESNET = Names(RESNET_PLACES, fc="classif", normalized=HALF)
CADENE_RESNET = Names(RESNET_PLACES, fc="last_linear", normalized=HALF)

# BN-Inception in Cadene's library: the names of the Caffe model, without nesting
BN_BLOCK = ["1x1", "3x3_reduce > 3x3", "double_3x3_reduce > double_3x3_1 > double_3x3_2", "pool_proj"]
BN_REDUCTION = ["3x3_reduce > 3x3", "double_3x3_reduce > double_3x3_1 > double_3x3_2"]
CADENE_BN = Names(
    {
        "conv1": Place("conv1_7x7_s2"), "pool1": Place("pool1_3x3_s2"), "conv2": Place("conv2_3x3_reduce"),
        "conv3": Place("conv2_3x3"), "pool2": Place("pool2_3x3_s2"),
        **{f"inception_{i}": Place(f"inception_{i}", BN_REDUCTION if i in ("3c", "4e") else BN_BLOCK)
           for i in ("3a", "3b", "3c", *BLOCKS_V1[2:])},
    },
    fc="last_linear", bgr=True,
    style=Style(conv="{name}.{tensor}", norm="{name}_bn.{tensor}", separator="_"),
    normalized=((128 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3),  # pixels from 0 to 255, minus the mean (in RGB order here)
)

# Keras numbers layers by depth: in a block, the layer farthest from the concatenation comes first. Pools have no number.
# Endpoints are in the network's order, so the numbers of a place continue those of the place before.
KERAS = Style(
    conv="layers/conv2d{conv}/vars/{tensor}", norm="layers/batch_normalization{norm}/vars/{tensor}",
    project="layers/conv2d{conv}/vars/{tensor}", fc="layers/{name}/vars/{tensor}", counted=True,
    layer={"weight": "0", "bias": "1"}, batch_norm={"bias": "0", "running_mean": "1", "running_var": "2"},  # without scale
)
K_STEM = {
    "conv_1a": Place("activation", ["0"]), "conv_2a": Place("activation_1", ["0"]), "conv_2b": Place("activation_2", ["0"]),
    "pool_3a": Place("max_pooling2d", []), "conv_3b": Place("activation_3", ["0"]), "conv_4a": Place("activation_4", ["0"]),
    "pool_5a": Place("max_pooling2d_1", []),
}
K35 = ["3", "1 > 4", "0 > 2 > 5", "6"]
K6A = ["2", "0 > 1 > 3"]
KERAS_V3 = Names(
    {
        **K_STEM,
        **{f"mixed_5{i}": Place(f"mixed{n}", K35) for n, i in enumerate("bcd")},
        "mixed_6a": Place("mixed3", K6A),
        **{f"mixed_6{i}": Place(f"mixed{n}", ["6", "2 > 4 > 7", "0 > 1 > 3 > 5 > 8", "9"]) for n, i in enumerate("bcde", 4)},
        "mixed_7a": Place("mixed8", ["2 > 4", "0 > 1 > 3 > 5"]),
        **{f"mixed_7{i}": Place(f"mixed{n}", ["7", "1 > 3 | 4", "0 > 2 > 5 | 6", "8"]) for n, i in enumerate("bc", 9)},
    },
    fc="dense", style=KERAS, normalized=HALF,
)
KERAS_RESNET = Names(
    {
        **K_STEM,
        "mixed_5b": Place("mixed_5b", K35),
        **{f"block35_{i}": Place(f"block35_{i}_ac", K35[:-1], project="6") for i in range(1, 11)},
        "mixed_6a": Place("mixed_6a", K6A),
        **{f"block17_{i}": Place(f"block17_{i}_ac", K6A, project="4") for i in range(1, 21)},
        "mixed_7a": Place("mixed_7a", ["1 > 4", "2 > 5", "0 > 3 > 6"]),
        **{f"block8_{i}": Place(f"block8_{i}_ac", K6A, project="4") for i in range(1, 10)},
        "block8_10": Place("", K6A, project="4"),
        "conv_7b": Place("conv_7b_ac", ["0"]),
    },
    fc="dense", style=KERAS, normalized=HALF,
)

# InceptionV1 in torch-lucent: the names of TensorFlow's graph
LUCID_BLOCK = ["1x1", "3x3_bottleneck > 3x3", "5x5_bottleneck > 5x5", "pool_reduce"]
LUCID_V1 = Names(
    {
        **{f"conv2d{i}": Place(f"conv2d{i}") for i in range(3)},
        **{f"maxpool{i}": Place(f"maxpool{i}", []) for i in (0, 1, 4, 10)},
        **{f"mixed{i}": Place(f"mixed{i}", LUCID_BLOCK) for i in BLOCKS_V1},
    },
    fc="softmax2_pre_activation_matmul", style=Style(conv="{name}_pre_relu_conv.{tensor}", separator="_"),
    normalized=((117 / 255,) * 3, (1 / 255,) * 3),  # pixels from 0 to 255, minus 117
)
# Inception-ResNet-v1 in facenet-pytorch
FACENET = Names(
    {
        **{name: Place(name.replace("conv_", "conv2d_")) for name in
           ("conv_1a", "conv_2a", "conv_2b", "conv_3b", "conv_4a", "conv_4b")},
        **{f"block35_{i + 1}": Place(f"repeat_1.{i}", A[:-1], project="conv2d") for i in range(5)},
        "mixed_6a": Place("mixed_6a", REDUCE_6A),
        **{f"block17_{i + 1}": Place(f"repeat_2.{i}", REDUCE_6A, project="conv2d") for i in range(10)},
        "mixed_7a": RESNET_PLACES["mixed_7a"],
        **{f"block8_{i + 1}": Place(f"repeat_3.{i}", REDUCE_6A, project="conv2d") for i in range(5)},
        "block8_6": Place("block8", REDUCE_6A, project="conv2d"),
    },
    fc="logits", embedding=("last_linear", "last_bn"), cropped=False,  # a detector has cropped the faces
    normalized=((127.5 / 255,) * 3, (128 / 255,) * 3),
)
# Xception: a separable convolution has two layers, or one with two kernels, and its normalization has a name of its own
SHORTCUTS = (1, 2, 3, 12)  # blocks whose shortcut is projected


def _separables(block: int) -> int:
    """Return the number of separable convolutions of a block."""
    return 2 if block in SHORTCUTS else 3


def _timm_separable(name: str, norm: str) -> str:
    return f"{name}.conv1 > {name}.pointwise+{norm}"


def _timm_block(block: int) -> Place:
    first, count = int(block > 1), _separables(block)  # a ReLU comes first, but in the first block
    row = (_timm_separable(f"block{block}.rep.{i}", f"block{block}.rep.{i + 1}") for i in range(first, first + 3 * count, 3))
    shortcut = [f"block{block}.skip+block{block}.skipbn"] if block in SHORTCUTS else []
    return Place(f"block{block}", [" > ".join(row), *shortcut])


TIMM_XCEPTION = Names(
    {
        **{f"conv{i}": Place(f"act{i}", [f"conv{i}+bn{i}"]) for i in (1, 2)},
        **{f"block{i}": _timm_block(i) for i in range(1, 13)},
        **{f"conv{i}": Place(f"act{i}", [_timm_separable(f"conv{i}", f"bn{i}")]) for i in (3, 4)},
    },
    fc="fc", style=Style(conv="{name}.{tensor}", norm="{name}.{tensor}", absolute=True), normalized=HALF,
)


def _keras_separable(number: int, norm: int) -> str:
    layer = f"separable_conv2d_{number}" if number else "separable_conv2d"
    return f"{layer}/depthwise > {layer}/pointwise+batch_normalization_{norm}"


def _keras_block(block: int) -> Place:
    first, norm, count = sum(map(_separables, range(1, block))), 3 * block - 1, _separables(block)
    row = (_keras_separable(first + i, norm + i) for i in range(count))
    shortcut = [f"conv2d_{SHORTCUTS.index(block) + 2}+batch_normalization_{norm + 2}"] if block in SHORTCUTS else []
    return Place(f"add_{block - 1}" if block > 1 else "add", [" > ".join(row), *shortcut])


KERAS_LAYER = "layers/{name}/vars/{tensor}"
KERAS_XCEPTION = Names(
    {
        "conv1": Place("block1_conv1_act", ["conv2d+batch_normalization"]),
        "conv2": Place("block1_conv2_act", ["conv2d_1+batch_normalization_1"]),
        **{f"block{i}": _keras_block(i) for i in range(1, 13)},
        "conv3": Place("block14_sepconv1_act", [_keras_separable(32, 38)]),
        "conv4": Place("block14_sepconv2_act", [_keras_separable(33, 39)]),
    },
    fc="dense", normalized=HALF,
    style=Style(
        conv=KERAS_LAYER, norm=KERAS_LAYER, fc=KERAS_LAYER, absolute=True, layer=KERAS.layer,
        batch_norm={"weight": "0", "bias": "1", "running_mean": "2", "running_var": "3"},
    ),
)
LAYOUTS: dict[str, dict[str, Names]] = {
    "torchvision": {"googlenet_bn": TORCHVISION_V1, "inception_v3": TORCHVISION_V3},
    "timm": {
        "inception_v3": TIMM_V3, "inception_v4": TIMM_V4, "inception_resnet_v2_slim": TIMM_RESNET,
        "xception_timm": TIMM_XCEPTION,
        "inception_v3_slim": replace(TIMM_V3, twin=None, read_only="timm's network counts padded zeros in average pools"),
    },
    "cadene": {"bn_inception": CADENE_BN, "inception_v4": TIMM_V4, "inception_resnet_v2_slim": CADENE_RESNET},
    "keras": {"inception_v3_slim": KERAS_V3, "inception_resnet_v2_slim": KERAS_RESNET, "xception": KERAS_XCEPTION},
    "fid": {"inception_v3_fid": FID_V3},
    "lucid": {"inception_v1_lucid": LUCID_V1},
    "facenet": {"inception_resnet_v1_facenet": FACENET},
}
