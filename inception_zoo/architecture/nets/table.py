"""The columns of a table: what is written down about a published network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Residual:
    """Rows whose concatenation is projected back by a linear 1x1, scaled and added (arXiv 1602.07261, section 3.3)."""

    rows: Sequence[str]
    scale: float
    relu: bool = True  # activation after the sum
    shortcut: bool = False  # the input is projected too, so that the channels may change (arXiv 1512.03385, option B)
    drop_path: float = 0.0  # probability to skip the rows in training, per image (arXiv 1603.09382)


Stage = Mapping[str, Sequence[str] | Residual]  # endpoint → block


@dataclass(frozen=True)
class Aux:
    """An auxiliary classifier: average pool to `grid`, rows, an optional hidden layer, logits."""

    grid: int  # side of the pooled grid: the papers' 5x5/3 average pool at the published input size
    rows: Sequence[str]
    weight: float  # of its loss
    hidden: int | None = None  # a fully connected layer with dropout before the logits
    dropout: float = 0.0
    adaptive: bool = False  # always pool adaptively, as torchvision does; otherwise only where 5x5/3 misses `grid`


@dataclass(frozen=True)
class Net:
    """One network."""

    name: str
    source: str
    error: str  # published top-1 / top-5 error, single crop, ImageNet, percent
    image_size: int  # usual input, pixels
    stages: Mapping[str, Stage]  # the first is the stem
    norm: str
    dropout: float  # before the classifier
    eps: float = 1e-5  # of BatchNorm
    momentum: float = 0.1  # of BatchNorm, PyTorch's sense
    bias: bool = False  # convolutions keep a bias beside BatchNorm
    count_padding: bool = True  # average pools count the padded zeros
    aux: Mapping[str, Aux] = field(default_factory=dict)  # by the endpoint that they tap

    @property
    def grids(self) -> list[str]:
        """Every stage but the stem: those whose blocks can be swapped together."""
        return list(self.stages)[1:]

    @property
    def names(self) -> list[str]:
        """`all`, every grid, then every endpoint: what a block can be chosen for."""
        return ["all", *self.grids, *(endpoint for stage in self.stages.values() for endpoint in stage)]
