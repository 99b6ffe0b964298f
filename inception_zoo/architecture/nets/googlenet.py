"""GoogLeNet, Inception V1: Szegedy et al., "Going deeper with convolutions", arXiv 1409.4842."""

from inception_zoo.architecture.nets.table import Aux, Net


def block(ones: int, reduce3: int, threes: int, reduce5: int, fives: int, pool: int) -> list[str]:
    """Return one line of Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj (Figure 2b)."""
    return [f"1x1 {ones}", f"1x1 {reduce3} > 3x3 {threes}", f"1x1 {reduce5} > 5x5 {fives}", f"max > 1x1 {pool}"]


# fmt: off
STEM = {
    "conv1": ["7x7/2 64"], "pool1": ["max/2c > lrn"],  # 56x56x64
    "conv2": ["1x1 64"], "conv3": ["3x3 192 > lrn"], "pool2": ["max/2c"],  # 28x28x192
}
GRID28 = {
    "inception_3a": block( 64,  96, 128, 16,  32,  32),  # 28x28x256
    "inception_3b": block(128, 128, 192, 32,  96,  64),  # 28x28x480
}
GRID14 = {
    "pool3": ["max/2c"],  # 14x14x480
    "inception_4a": block(192,  96, 208, 16,  48,  64),  # 14x14x512
    "inception_4b": block(160, 112, 224, 24,  64,  64),  # 14x14x512
    "inception_4c": block(128, 128, 256, 24,  64,  64),  # 14x14x512
    "inception_4d": block(112, 144, 288, 32,  64,  64),  # 14x14x528
    "inception_4e": block(256, 160, 320, 32, 128, 128),  # 14x14x832
}
GRID7 = {
    "pool4": ["max/2c"],  # 7x7x832
    "inception_5a": block(256, 160, 320, 32, 128, 128),  # 7x7x832
    "inception_5b": block(384, 192, 384, 48, 128, 128),  # 7x7x1024
}
AUX = Aux(grid=4, rows=["1x1 128"], hidden=1024, dropout=0.7, weight=0.3)  # section 5; the weight, section 6
GOOGLENET = Net(
    name="googlenet", error="– / 10.07", image_size=224, norm="lrn", dropout=0.4,
    source="arXiv 1409.4842, Table 1; response normalization and ceil-mode pools as in the released Caffe model",
    stages={"stem": STEM, "grid28": GRID28, "grid14": GRID14, "grid7": GRID7},
    aux={"inception_4a": AUX, "inception_4d": AUX},
)
