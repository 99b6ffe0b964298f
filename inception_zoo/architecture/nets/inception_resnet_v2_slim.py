"""Inception-ResNet-v2 of TF-slim, timm, Keras and Cadene; the family of arXiv 1602.07261.

Differences from the paper: V3's stem followed by mixed_5b, 10/20/10 blocks instead of 5/10/5, a last block with scale 1.
"""

from inception_zoo.architecture.nets.inception_v3 import AUX, STEM
from inception_zoo.architecture.nets.table import Net, Residual, Stage

# fmt: off
BLOCK35 = Residual(["1x1 32", "1x1 32 > 3x3 32", "1x1 32 > 3x3 48 > 3x3 64"], scale=0.17)  # Figure 16
BLOCK17 = Residual(["1x1 192", "1x1 128 > 1x7 160 > 7x1 192"], scale=0.10)  # Figure 17
BLOCK8 = Residual(["1x1 192", "1x1 192 > 1x3 224 > 3x1 256"], scale=0.20)  # Figure 19
GRID35: Stage = {
    "mixed_5b": ["1x1 96", "1x1 48 > 5x5 64", "1x1 64 > 3x3 96 > 3x3 96", "avg > 1x1 64"],  # 35x35x320
    **{f"block35_{i}": BLOCK35 for i in range(1, 11)},  # 35x35x320
}
GRID17: Stage = {
    "mixed_6a": ["3x3/2v 384", "1x1 256 > 3x3 256 > 3x3/2v 384", "max/2v"],  # 17x17x1088
    **{f"block17_{i}": BLOCK17 for i in range(1, 21)},  # 17x17x1088
}
GRID8: Stage = {
    "mixed_7a": ["1x1 256 > 3x3/2v 384", "1x1 256 > 3x3/2v 288", "1x1 256 > 3x3 288 > 3x3/2v 320", "max/2v"],  # 8x8x2080
    **{f"block8_{i}": BLOCK8 for i in range(1, 10)},  # 8x8x2080
    "block8_10": Residual(BLOCK8.rows, scale=1.0, relu=False),  # 8x8x2080
    "conv_7b": ["1x1 1536"],  # 8x8x1536
}
INCEPTION_RESNET_V2_SLIM = Net(
    name="inception_resnet_v2_slim", error="19.9 / 4.9", image_size=299, norm="batch", eps=1e-3, count_padding=False,
    dropout=0.2, source="TF-slim inception_resnet_v2; arXiv 1602.07261, Figures 16 to 19",
    stages={"stem": STEM, "grid35": GRID35, "grid17": GRID17, "grid8": GRID8}, aux={"block17_20": AUX},
)
