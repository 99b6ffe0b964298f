"""FID's Inception-v3, as in pytorch-fid and torch-fidelity: TF-slim's, but mixed_7c has a max pool.

The published weights are those of TensorFlow's graph of 2015-12-05, with 1008 classes and no auxiliary head.
"""

from dataclasses import replace

from inception_zoo.architecture.nets.inception_v3 import GRID8
from inception_zoo.architecture.nets.inception_v3_slim import INCEPTION_V3_SLIM

MIXED_7C = [*GRID8["mixed_7c"][:-1], "max > 1x1 192"]
INCEPTION_V3_FID = replace(
    INCEPTION_V3_SLIM,
    name="inception_v3_fid",
    error="– / –",
    source="pytorch-fid, torch-fidelity; TensorFlow's inception-2015-12-05",
    stages={**INCEPTION_V3_SLIM.stages, "grid8": {**GRID8, "mixed_7c": MIXED_7C}},
    aux={},
)
