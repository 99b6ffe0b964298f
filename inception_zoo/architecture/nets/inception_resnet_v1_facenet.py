"""The Inception-ResNet-v1 of facenet: a sixth block8 without scale and ReLU, and an embedding of 512 numbers.

The published weights embed faces of 160 px that a detector has cropped. Pixels from 0 to 255 become (pixel - 127.5) / 128.
"""

from dataclasses import replace

from inception_zoo.architecture.nets.inception_resnet_v1 import INCEPTION_RESNET_V1, C

V1 = INCEPTION_RESNET_V1.stages
STEM = V1["stem"]  # 17x17x256
GRID35 = V1["grid35"]  # 17x17x256
GRID17 = V1["grid17"]  # 8x8x896
GRID8 = {**V1["grid8"], "block8_6": replace(C, scale=1.0, relu=False)}  # 3x3x1792
INCEPTION_RESNET_V1_FACENET = replace(
    INCEPTION_RESNET_V1,
    name="inception_resnet_v1_facenet",
    error="– / –",
    image_size=160,
    dropout=0.6,
    embedding=512,
    source="facenet and facenet-pytorch 2.6.0; arXiv 1602.07261",
    stages={"stem": STEM, "grid35": GRID35, "grid17": GRID17, "grid8": GRID8},
)
