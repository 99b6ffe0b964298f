"""Inception-v3 of TF-slim and Keras: average pools do not count the padded zeros; in torchvision and timm they do."""

from dataclasses import replace

from inception_zoo.architecture.nets.inception_v3 import INCEPTION_V3

INCEPTION_V3_SLIM = replace(
    INCEPTION_V3,
    name="inception_v3_slim",
    source="TF-slim inception_v3, Keras InceptionV3; arXiv 1512.00567",
    count_padding=False,
)
