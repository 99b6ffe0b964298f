"""Inception-ResNet-v1: Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections", 1602.07261."""

from inception_zoo.architecture.nets.table import Net, Residual, Stage

# fmt: off
STEM = {  # Figure 14
    "conv_1a": ["3x3/2v 32"], "conv_2a": ["3x3v 32"], "conv_2b": ["3x3 64"], "pool_3a": ["max/2v"],  # 73x73x64
    "conv_3b": ["1x1 80"], "conv_4a": ["3x3v 192"], "conv_4b": ["3x3/2v 256"],  # 35x35x256
}
# The paper only says that scales are "between 0.1 and 0.3". These scales are from the authors' release of V2.
A = Residual(["1x1 32", "1x1 32 > 3x3 32", "1x1 32 > 3x3 32 > 3x3 32"], scale=0.17)  # Figure 10
B = Residual(["1x1 128", "1x1 128 > 1x7 128 > 7x1 128"], scale=0.10)  # Figure 11
C = Residual(["1x1 192", "1x1 192 > 1x3 192 > 3x1 192"], scale=0.20)  # Figure 13
GRID35: Stage = {f"block35_{i}": A for i in range(1, 6)}  # 35x35x256
GRID17: Stage = {
    "mixed_6a": ["3x3/2v 384", "1x1 192 > 3x3 192 > 3x3/2v 256", "max/2v"],  # 17x17x896; Figure 7, widths of its Table 1
    **{f"block17_{i}": B for i in range(1, 11)},  # 17x17x896
}
GRID8: Stage = {  # mixed_7a: Figure 12
    "mixed_7a": ["1x1 256 > 3x3/2v 384", "1x1 256 > 3x3/2v 256", "1x1 256 > 3x3 256 > 3x3/2v 256", "max/2v"],  # 8x8x1792
    **{f"block8_{i}": C for i in range(1, 6)},  # 8x8x1792
}
INCEPTION_RESNET_V1 = Net(
    name="inception_resnet_v1", error="21.3 / 5.5", image_size=299, norm="batch", eps=1e-3, count_padding=False,
    dropout=0.2,  # Figure 15: keep 0.8
    source="arXiv 1602.07261, Figures 7 and 10 to 15; no auxiliary head is published",
    stages={"stem": STEM, "grid35": GRID35, "grid17": GRID17, "grid8": GRID8},
)
