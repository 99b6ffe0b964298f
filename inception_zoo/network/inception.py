"""Plan → network, with named endpoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from inception_zoo.architecture.choices import MEMORY
from inception_zoo.architecture.plan import Plan
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.network.autograd import run_segments
from inception_zoo.network.blocks import AuxHead, build_block
from inception_zoo.network.initialization import initialize

if TYPE_CHECKING:
    from inception_zoo.architecture.card import Provenance


@dataclass(frozen=True)
class Outputs:
    """Logits (N, classes), and the auxiliary heads' logits (N, classes) by the endpoint that they tap."""

    logits: Tensor
    aux: dict[str, Tensor]


class Inception(nn.Module):
    """Any network of the zoo. Its blocks are attributes under their endpoint's name: ``model.mixed_6e``.

    `preprocessing`, `classes` (names by label) and `provenance` are set when weights are loaded or trained.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.preprocessing: Preprocessing | None = None
        self.classes: list[str] | None = None
        self.provenance: Provenance | None = None
        self.memory = "plain"
        self.frozen: list[str] = []  # endpoints, from the first on
        for block in plan.blocks:
            self.add_module(block.name, build_block(plan, block))
        channels = {block.name: block.c_out for block in plan.blocks}
        heads = {tap: AuxHead(plan, head, channels[tap]) for tap, head in plan.aux.items()}
        self.aux = nn.ModuleDict(heads)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(plan.choices.dropout or 0.0)
        self.fc = nn.Linear(plan.blocks[-1].c_out, plan.num_classes)
        initialize(self, {self.fc, *(head.fc for head in heads.values())}, plan.choices.init)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) → logits (N, classes), in training and in evaluation."""
        for _, features in run_segments(self, x):
            x = features  # one at a time: a list would keep all of them alive
        return self._classify(x)

    def outputs(self, x: Tensor) -> Outputs:
        """Images (N, in_channels, H, W) → logits and auxiliary logits, for the training loss."""
        aux, features = {}, x
        for name, features in run_segments(self, x):
            if name in self.aux:
                aux[name] = self.aux[name](features)
        return Outputs(self._classify(features), aux)

    def endpoints(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, in_channels, H, W) → feature maps (N, C, H', W') by endpoint, in order."""
        return dict(self.run_blocks(x))

    def run_blocks(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Images (N, in_channels, H, W) → yield (endpoint, feature maps) after each block."""
        for block in self.plan.blocks:
            x = self.get_submodule(block.name)(x)
            yield block.name, x

    def freeze(self, last: str | None) -> None:
        """Freeze weights and BatchNorm statistics of every endpoint up to `last`; None unfreezes all.

        Frozen blocks stay in evaluation mode even after `train`, so that their BatchNorms use the running statistics.

        Args:
            last: An endpoint, or a stage for its last endpoint.

        Raises:
            ZooError: `last` is neither.
        """
        names = [block.name for block in self.plan.blocks]
        stages = {block.stage: block.name for block in self.plan.blocks}
        if last is not None and last not in names and last not in stages:
            raise ZooError(
                f"{self.plan.net.name}: freeze={last} is no stage or endpoint; {did_you_mean(last, [*stages, *names])}"
            )
        self.frozen = names[: names.index(stages.get(last, last)) + 1] if last is not None else []
        for name in names:
            self.get_submodule(name).requires_grad_(name not in self.frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Inception":
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def compiled(self) -> "Inception":
        """Compile `forward` and `outputs` in place by `torch.compile`, and return self; weights and names stay."""
        self.compile()
        self.outputs = torch.compile(self.outputs)  # type: ignore[method-assign]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the compiled `outputs`, which is bound to this network."""
        return {key: value for key, value in super().__getstate__().items() if key != "outputs"}

    def remember(self, memory: str) -> None:
        """Set the memory mode of training, see `inception_zoo.network.autograd`; ZooError if it is unknown."""
        if memory not in MEMORY:
            raise ZooError(f"{self.plan.net.name}: memory={memory} is unknown; {did_you_mean(memory, MEMORY)}")
        self.memory = memory
        for module in self.modules():
            if hasattr(module, "lean"):
                module.lean = memory != "plain"  # type: ignore[assignment]

    def _classify(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.pool(x).flatten(1)))
