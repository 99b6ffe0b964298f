"""Inception-v2: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567, Table 1.

Table 1 gives the grids and the channels between the stages; widths inside the blocks are from the authors' release of V3.
Table 3 disagrees: its Inception-v2 has 3.8 G multiply-adds and starts with a 7x7 convolution; with a factorized 7x7, 4.8 G.
Table 1 has the factorized 7x7. It costs about as much as V3, as in Table 3, but both cost about 5.8 G. Its error is that of
the row "factorized 7x7", with RMSProp and label smoothing.
TF-slim's `inception_v2` is another network: BN-Inception.
"""

from inception_zoo.architecture.nets.inception_v3 import GRID8, GRID17
from inception_zoo.architecture.nets.table import Aux, Net

# fmt: off
STEM = {
    "conv_1a": ["3x3/2v 32"], "conv_2a": ["3x3v 32"], "conv_2b": ["3x3 64"], "pool_3a": ["max/2v"],  # 73x73x64
    "conv_3b": ["3x3v 80"], "conv_4a": ["3x3/2v 192"], "conv_4b": ["3x3 288"],  # 35x35x288
}
BLOCK35 = ["1x1 64", "1x1 48 > 3x3 64", "1x1 64 > 3x3 96 > 3x3 96", "avg > 1x1 64"]  # Figure 5
INCEPTION_V2 = Net(
    name="inception_v2", error="21.6 / 5.8", image_size=299, norm="batch", eps=1e-3, dropout=0.2,
    source="arXiv 1512.00567, Table 1 and Figures 5 to 8 and 10",
    stages={
        "stem": STEM,
        "grid35": {f"mixed_5{i}": BLOCK35 for i in "bcd"},  # 35x35x288
        "grid17": {"mixed_6a": GRID17["mixed_6a"], **{f"mixed_6{i}": GRID17["mixed_6b"] for i in "bcdef"}},  # 17x17x768
        "grid8": GRID8,  # 8x8x2048
    },
    aux={"mixed_6f": Aux(grid=5, rows=["1x1 128"], hidden=1024, weight=0.4)},  # Figure 8: its FC layer is not normalized
)
