"""Inception-v3: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567."""

from inception_zoo.architecture.nets.table import Aux, Net


def _grid35(pool: int) -> list[str]:  # Figure 5, but with one 5x5, as in the authors' release
    return ["1x1 64", "1x1 48 > 5x5 64", "1x1 64 > 3x3 96 > 3x3 96", f"avg > 1x1 {pool}"]


def _grid17(n: int) -> list[str]:  # Figure 6
    double = f"1x1 {n} > 7x1 {n} > 1x7 {n} > 7x1 {n} > 1x7 192"
    return ["1x1 192", f"1x1 {n} > 1x7 {n} > 7x1 192", double, "avg > 1x1 192"]


# fmt: off
STEM = {
    "conv_1a": ["3x3/2v 32"], "conv_2a": ["3x3v 32"], "conv_2b": ["3x3 64"], "pool_3a": ["max/2v"],  # 73x73x64
    "conv_3b": ["1x1 80"], "conv_4a": ["3x3v 192"], "pool_5a": ["max/2v"],  # 35x35x192
}
GRID35 = {"mixed_5b": _grid35(32), "mixed_5c": _grid35(64), "mixed_5d": _grid35(64)}  # 35x35x288
GRID17 = {
    "mixed_6a": ["3x3/2v 384", "1x1 64 > 3x3 96 > 3x3/2v 96", "max/2v"],  # 17x17x768; Figure 10
    "mixed_6b": _grid17(128), "mixed_6c": _grid17(160), "mixed_6d": _grid17(160), "mixed_6e": _grid17(192),  # 17x17x768
}
GRID8 = {
    "mixed_7a": ["1x1 192 > 3x3/2v 320", "1x1 192 > 1x7 192 > 7x1 192 > 3x3/2v 192", "max/2v"],  # 8x8x1280
    **{f"mixed_7{i}": [  # 8x8x2048; Figure 7
        "1x1 320", "1x1 384 > 1x3 384 | 3x1 384", "1x1 448 > 3x3 384 > 1x3 384 | 3x1 384", "avg > 1x1 192",
    ] for i in "bc"},
}
AUX = Aux(grid=5, rows=["1x1 128 > 5x5v 768"], weight=0.4)  # BN-auxiliary: 5x5v is its FC layer, also normalized
INCEPTION_V3 = Net(
    name="inception_v3", error="21.2 / 5.6", image_size=299, norm="batch", eps=1e-3, dropout=0.2,
    source="arXiv 1512.00567, Table 1; widths of the authors' release (TF-slim), as in torchvision and timm",
    stages={"stem": STEM, "grid35": GRID35, "grid17": GRID17, "grid8": GRID8}, aux={"mixed_6e": AUX},
)
