"""InceptionV1 of the circuits literature: TensorFlow's inception5h, as in Lucid and torch-lucent.

Its endpoints have the names of that literature. Input: pixels from 0 to 255, minus 117.
"""

from inception_zoo.architecture.nets.googlenet import block
from inception_zoo.architecture.nets.table import Net

# fmt: off
STEM = {
    "conv2d0": ["7x7/2s 64"], "maxpool0": ["max/2s"],  # 56x56x64
    "conv2d1": ["lrn > 1x1 64"], "conv2d2": ["3x3 192"], "maxpool1": ["lrn > max/2s"],  # 28x28x192
}
GRID28 = {
    "mixed3a": block( 64,  96, 128, 16,  32,  32),  # 28x28x256
    "mixed3b": block(128, 128, 192, 32,  96,  64),  # 28x28x480
}
GRID14 = {
    "maxpool4": ["max/2s"],  # 14x14x480
    "mixed4a": block(192,  96, 204, 16,  48,  64),  # 14x14x508
    "mixed4b": block(160, 112, 224, 24,  64,  64),  # 14x14x512
    "mixed4c": block(128, 128, 256, 24,  64,  64),  # 14x14x512
    "mixed4d": block(112, 144, 288, 32,  64,  64),  # 14x14x528
    "mixed4e": block(256, 160, 320, 32, 128, 128),  # 14x14x832
}
GRID7 = {
    "maxpool10": ["max/2s"],  # 7x7x832
    "mixed5a": block(256, 160, 320, 48, 128, 128),  # 7x7x832
    "mixed5b": block(384, 192, 384, 48, 128, 128),  # 7x7x1024
}
INCEPTION_V1_LUCID = Net(
    name="inception_v1_lucid", error="– / –", image_size=224, norm="lrn", dropout=0.4, lrn=(9, 1e-4, 0.5),
    source="TensorFlow's inception5h, as in Lucid and torch-lucent; arXiv 1409.4842",
    stages={"stem": STEM, "grid28": GRID28, "grid14": GRID14, "grid7": GRID7},
)
