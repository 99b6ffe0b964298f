"""Xception, the extreme Inception: the spatial convolutions are depthwise, and the 1x1 after each reads all channels.

Padding, constants and weights (layout=keras) are those of Keras, the author's release.
"""

from inception_zoo.architecture.nets.table import Net, Residual, Stage


def summed(*rows: str, shortcut: bool = False) -> Residual:
    """Return rows that are added to their input, without projection and activation."""
    return Residual([*rows], scale=1.0, relu=False, shortcut=shortcut, project=False)


STEM: Stage = {
    "conv1": ["3x3/2v 32"],
    "conv2": ["3x3v 64"],  # 147x147x64
    "block1": summed("3x3g > 1x1 128 > 3x3g > 1x1l 128 > max/2s", shortcut=True),  # 74x74x128
    "block2": summed("act > 3x3g > 1x1 256 > 3x3g > 1x1l 256 > max/2s", shortcut=True),  # 37x37x256
    "block3": summed("act > 3x3g > 1x1 728 > 3x3g > 1x1l 728 > max/2s", shortcut=True),  # 19x19x728
}
BLOCK = summed("act > 3x3g > 1x1 728 > 3x3g > 1x1 728 > 3x3g > 1x1l 728")
MIDDLE = {f"block{i}": BLOCK for i in range(4, 12)}  # 19x19x728
EXIT: Stage = {
    "block12": summed("act > 3x3g > 1x1 728 > 3x3g > 1x1l 1024 > max/2s", shortcut=True),  # 10x10x1024
    "conv3": ["3x3g > 1x1 1536"],
    "conv4": ["3x3g > 1x1 2048"],  # 10x10x2048
}
XCEPTION = Net(
    name="xception",
    source="arXiv 1610.02357 and Keras's applications.Xception",
    error="21.0 / 5.5",
    image_size=299,
    norm="batch",
    dropout=0.5,  # section 4.3; Keras has none
    eps=1e-3,
    momentum=0.01,
    stages={"stem": STEM, "middle": MIDDLE, "exit": EXIT},
)
