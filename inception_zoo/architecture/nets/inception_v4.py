"""Inception-v4: Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections", 1602.07261."""

from inception_zoo.architecture.nets.inception_v3 import AUX
from inception_zoo.architecture.nets.table import Net

# fmt: off
STEM = {  # Figure 3
    "conv_1a": ["3x3/2v 32"], "conv_2a": ["3x3v 32"], "conv_2b": ["3x3 64"],  # 147x147x64
    "mixed_3a": ["max/2v", "3x3/2v 96"],  # 73x73x160
    "mixed_4a": ["1x1 64 > 3x3v 96", "1x1 64 > 1x7 64 > 7x1 64 > 3x3v 96"],  # 71x71x192
    "mixed_5a": ["3x3/2v 192", "max/2v"],  # 35x35x384
}
A = ["1x1 96", "1x1 64 > 3x3 96", "1x1 64 > 3x3 96 > 3x3 96", "avg > 1x1 96"]  # Figure 4
B = [  # Figure 5
    "1x1 384", "1x1 192 > 1x7 224 > 7x1 256", "1x1 192 > 7x1 192 > 1x7 224 > 7x1 224 > 1x7 256", "avg > 1x1 128",
]
C = [  # Figure 6
    "1x1 256", "1x1 384 > 1x3 256 | 3x1 256", "1x1 384 > 3x1 448 > 1x3 512 > 1x3 256 | 3x1 256", "avg > 1x1 256",
]
GRID35 = {f"mixed_5{i}": A for i in "bcde"}  # 35x35x384
GRID17 = {
    "mixed_6a": ["3x3/2v 384", "1x1 192 > 3x3 224 > 3x3/2v 256", "max/2v"],  # 17x17x1024; Figure 7
    **{f"mixed_6{i}": B for i in "bcdefgh"},  # 17x17x1024
}
GRID8 = {
    "mixed_7a": ["1x1 192 > 3x3/2v 192", "1x1 256 > 1x7 256 > 7x1 320 > 3x3/2v 320", "max/2v"],  # 8x8x1536; Figure 8
    **{f"mixed_7{i}": C for i in "bcd"},  # 8x8x1536
}
INCEPTION_V4 = Net(
    name="inception_v4", error="20.0 / 5.0", image_size=299, norm="batch", eps=1e-3, count_padding=False,
    dropout=0.2,  # Figure 9: keep 0.8
    source="arXiv 1602.07261, Figures 3 to 9; the auxiliary head is TF-slim's",
    stages={"stem": STEM, "grid35": GRID35, "grid17": GRID17, "grid8": GRID8},
    aux={"mixed_6h": AUX},
)
