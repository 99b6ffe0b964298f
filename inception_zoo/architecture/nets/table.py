"""The fields of a table: the facts about a published network.

In a table, the comment ``# 17x17x768`` gives height, width and channels after the last endpoint of its line, at `image_size`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Residual:
    """``act(x + scale * project(concat(rows(x))))`` (arXiv 1602.07261, section 3.3)."""

    rows: Sequence[str]
    scale: float
    relu: bool = True  # activation after the sum
    shortcut: bool = False  # a 1x1 on the input, so that channels and grid may change (arXiv 1512.03385, option B)
    project: bool = True  # a linear 1x1 after the rows
    drop_path: float = 0.0  # probability that training skips the rows, per image (arXiv 1603.09382)


Spec = Sequence[str] | Residual  # a block
Stage = Mapping[str, Spec]  # endpoint → block


def rows_of(block: Spec) -> Sequence[str]:
    """Return the rows of a block."""
    return block.rows if isinstance(block, Residual) else block


def with_rows(block: Spec, rows: Sequence[str]) -> Spec:
    """Return the block with other rows; a residual sum keeps its other fields."""
    return replace(block, rows=rows) if isinstance(block, Residual) else rows


@dataclass(frozen=True)
class Aux:
    """An auxiliary classifier: average pool to `grid`, rows, an optional hidden layer, logits."""

    grid: int  # side of the pooled grid: output of the papers' 5x5/3 average pool at the published image size
    rows: Sequence[str]
    weight: float  # weight of its loss
    hidden: int | None = None  # a fully connected layer with dropout before the logits
    dropout: float = 0.0
    adaptive: bool = False  # always pool adaptively, as torchvision; otherwise only if 5x5/3 does not give `grid`


@dataclass(frozen=True)
class Net:
    """One published network."""

    name: str
    source: str
    error: str  # published top-1 / top-5 error, single crop, ImageNet, percent
    image_size: int  # usual input, pixels
    stages: Mapping[str, Stage]  # the first is the stem
    norm: str
    dropout: float  # before the classifier
    eps: float = 1e-5  # of BatchNorm
    momentum: float = 0.1  # of BatchNorm, as PyTorch defines it
    bias: bool = False  # convolutions have a bias in addition to BatchNorm
    count_padding: bool = True  # average pools count the padded zeros
    lrn: tuple[int, float, float] = (5, 1e-4, 0.75)  # channels, alpha and beta of `lrn`; k is 1
    aux: Mapping[str, Aux] = field(default_factory=dict)  # by the endpoint whose output they read
    embedding: int | None = None  # length of the embedding before the classifier

    @property
    def grids(self) -> list[str]:
        """All stages except the stem: the blocks of such a stage can be swapped together."""
        return list(self.stages)[1:]

    @property
    def names(self) -> list[str]:
        """Valid keys of `blocks`: `all`, every grid, then every endpoint."""
        return ["all", *self.grids, *(endpoint for stage in self.stages.values() for endpoint in stage)]
