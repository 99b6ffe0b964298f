"""Inception-v2 with one 7x7 convolution at the start: the row "Inception-v2" of Table 3, arXiv 1512.00567.

Table 3 says 3.8 G multiply-adds, and 4.8 G with the 7x7 factorized into the three 3x3 of `inception_v2`; this table has 5.4 G.
The paper does not print this stem. 64 channels are GoogLeNet's and those of the 3x3s that replace the 7x7.
"""

from dataclasses import replace

from inception_zoo.architecture.nets.inception_v2 import INCEPTION_V2

# fmt: off
STEM = {
    "conv_1a": ["7x7/2v 64"], "pool_3a": ["max/2v"],  # 73x73x64
    "conv_3b": ["3x3v 80"], "conv_4a": ["3x3/2v 192"], "conv_4b": ["3x3 288"],  # 35x35x288
}
INCEPTION_V2_7X7 = replace(
    INCEPTION_V2,
    name="inception_v2_7x7",
    error="23.4 / –",
    source="arXiv 1512.00567, Table 3",
    stages={**INCEPTION_V2.stages, "stem": STEM},
)
