"""GoogLeNet of torchvision and TF-slim: BatchNorm, and 3x3 instead of 5x5 convolutions.

The 3x3 started as a porting error. Published weights depend on it.
"""

from dataclasses import replace

from inception_zoo.architecture.nets.googlenet import AUX, GOOGLENET, GRID7, GRID14, GRID28, STEM


def _with_3x3(stage: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: [row.replace("5x5", "3x3") for row in rows] for name, rows in stage.items()}


GOOGLENET_BN = replace(
    GOOGLENET,
    name="googlenet_bn",
    source="torchvision googlenet, TF-slim inception_v1",
    error="30.22 / 10.47",
    norm="batch",
    eps=1e-3,
    dropout=0.2,
    stages={
        "stem": STEM,
        "grid28": _with_3x3(GRID28),
        "grid14": _with_3x3(GRID14),
        "grid7": {**_with_3x3(GRID7), "pool4": ["max2x2/2c"]},  # 7x7x832; the paper pools 3x3
    },
    aux={tap: replace(AUX, adaptive=True) for tap in GOOGLENET.aux},
)
