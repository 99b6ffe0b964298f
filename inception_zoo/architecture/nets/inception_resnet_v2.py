"""Inception-ResNet-v2 of the paper, arXiv 1602.07261: V4's stem and 5/10/5 blocks. The released network is `_slim`.

Figures 17 and 19 project to 1154 and 2048 channels, but Figures 7 and 18 concatenate 384 + 384 + 384 = 1152 and
1152 + 384 + 288 + 320 = 2144 channels. A sum needs equal channels, so this table uses those of the concatenations.
The paper says that this network costs about as much as V4 (12.3 G multiply-adds). With the 5/10/5 blocks of its figures, it
costs 9.3 G; with the released 10/20/10 blocks, it costs 13.2 G.
"""

from inception_zoo.architecture.nets.inception_resnet_v2_slim import BLOCK8, BLOCK17, BLOCK35
from inception_zoo.architecture.nets.inception_v3 import AUX
from inception_zoo.architecture.nets.inception_v4 import STEM
from inception_zoo.architecture.nets.table import Net, Stage

# fmt: off
GRID35: Stage = {f"block35_{i}": BLOCK35 for i in range(1, 6)}  # 35x35x384
GRID17: Stage = {
    "mixed_6a": ["3x3/2v 384", "1x1 256 > 3x3 256 > 3x3/2v 384", "max/2v"],  # 17x17x1152; Figure 7, widths of its Table 1
    **{f"block17_{i}": BLOCK17 for i in range(1, 11)},  # 17x17x1152
}
GRID8: Stage = {  # mixed_7a: Figure 18
    "mixed_7a": ["1x1 256 > 3x3/2v 384", "1x1 256 > 3x3/2v 288", "1x1 256 > 3x3 288 > 3x3/2v 320", "max/2v"],  # 8x8x2144
    **{f"block8_{i}": BLOCK8 for i in range(1, 6)},  # 8x8x2144
}
INCEPTION_RESNET_V2 = Net(
    name="inception_resnet_v2", error="19.9 / 4.9", image_size=299, norm="batch", eps=1e-3, count_padding=False,
    dropout=0.2,  # Figure 15: keep 0.8
    source="arXiv 1602.07261, Figures 3, 7 and 15 to 19; scales and auxiliary head are those of TF-slim's release",
    stages={"stem": STEM, "grid35": GRID35, "grid17": GRID17, "grid8": GRID8}, aux={"block17_10": AUX},
)
