"""BN-Inception: Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167, Figure 5 (the appendix)."""

from inception_zoo.architecture.nets.table import Net


def _block(ones: int, reduce3: int, threes: int, reduce_double: int, double: int, kind: str, pool: int) -> list[str]:
    """Return one line of Figure 5: V1's block with two 3x3 instead of the 5x5; the pool is average or max."""
    chain = f"1x1 {reduce_double} > 3x3 {double} > 3x3 {double}"
    return [f"1x1 {ones}", f"1x1 {reduce3} > 3x3 {threes}", chain, f"{kind} > 1x1 {pool}"]


def _reduction(reduce3: int, threes: int, reduce_double: int, double: int) -> list[str]:
    return [f"1x1 {reduce3} > 3x3/2 {threes}", f"1x1 {reduce_double} > 3x3 {double} > 3x3/2 {double}", "max/2c"]


# fmt: off
STEM = {"conv1": ["7x7/2 64"], "pool1": ["max/2c"], "conv2": ["1x1 64"], "conv3": ["3x3 192"], "pool2": ["max/2c"]}  # 28x28x192
GRID28 = {
    "inception_3a": _block( 64,  64,  64,  64,  96, "avg",  32),  # 28x28x256
    "inception_3b": _block( 64,  64,  96,  64,  96, "avg",  64),  # 28x28x320
}
GRID14 = {
    "inception_3c": _reduction(128, 160, 64, 96),  # 14x14x576
    "inception_4a": _block(224,  64,  96,  96, 128, "avg", 128),  # 14x14x576
    "inception_4b": _block(192,  96, 128,  96, 128, "avg", 128),  # 14x14x576
    "inception_4c": _block(160, 128, 160, 128, 160, "avg", 128),  # 14x14x608; pool: Figure 5 has 96, the release has 128
    "inception_4d": _block( 96, 128, 192, 160, 192, "avg", 128),  # 14x14x608
}
GRID7 = {
    "inception_4e": _reduction(128, 192, 192, 256),  # 7x7x1056
    "inception_5a": _block(352, 192, 320, 160, 224, "avg", 128),  # 7x7x1024
    "inception_5b": _block(352, 192, 320, 192, 224, "max", 128),  # 7x7x1024
}
BN_INCEPTION = Net(
    name="bn_inception", error="25.2 / 7.8", image_size=224, norm="batch", bias=True,
    dropout=0.0,  # removed, section 4.2.1
    source="arXiv 1502.03167, Figure 5; biases and widths of the released Caffe model, as in Cadene's",
    stages={"stem": STEM, "grid28": GRID28, "grid14": GRID14, "grid7": GRID7},
)
