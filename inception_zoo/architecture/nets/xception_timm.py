"""Xception as timm has it (`legacy_xception`): max pools are padded on both sides, and BatchNorm has another epsilon."""

from dataclasses import replace

from inception_zoo.architecture.nets.table import Stage, rows_of, with_rows
from inception_zoo.architecture.nets.xception import XCEPTION


def padded(stage: Stage) -> Stage:
    """Return the stage with padded pools."""
    return {name: with_rows(block, [row.replace("max/2s", "max/2") for row in rows_of(block)]) for name, block in stage.items()}


XCEPTION_TIMM = replace(
    XCEPTION,
    name="xception_timm",
    source="timm's legacy_xception; arXiv 1610.02357",
    eps=1e-5,
    momentum=0.1,
    stages={name: padded(stage) for name, stage in XCEPTION.stages.items()},
)
