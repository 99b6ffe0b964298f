"""Plan → network with named endpoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from inception_zoo.architecture.choices import ALIKE, MEMORY
from inception_zoo.architecture.plan import Plan
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.network.autograd import run_segments
from inception_zoo.network.blocks import AuxHead, build_block
from inception_zoo.network.initialization import initialize
from inception_zoo.network.inputs import explained

if TYPE_CHECKING:
    from inception_zoo.architecture.card import Provenance


@dataclass(frozen=True)
class Outputs:
    """Logits (N, classes), and each auxiliary head's logits (N, classes) by the endpoint that the head reads."""

    logits: Tensor
    aux: dict[str, Tensor]


class Inception(nn.Module):
    """A network of the zoo: images (N, in_channels, H, W) → logits (N, classes).

    Each block is an attribute with the name of its endpoint, such as ``model.mixed_6e``. `preprocessing`, `classes` (names in
    the order of the labels) and `provenance` are set when weights are loaded or trained.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.preprocessing: Preprocessing | None = None
        self.classes: list[str] | None = None
        self.provenance: Provenance | None = None
        self.memory = "plain"
        self.frozen: list[str] = []  # the first endpoints, in order
        for block in plan.blocks:
            self.add_module(block.name, build_block(plan, block))
        channels = {block.name: block.c_out for block in plan.blocks}
        heads = {tap: AuxHead(plan, head, channels[tap]) for tap, head in plan.aux.items()}
        self.aux = nn.ModuleDict(heads)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(plan.choices.dropout or 0.0)
        self.fc = nn.Linear(plan.blocks[-1].c_out, plan.num_classes)
        own = {layer for block in plan.blocks if block.module for layer in self.get_submodule(block.name).modules()}
        initialize(self, {self.fc, *(head.fc for head in heads.values())}, plan.choices.init, own)

    @explained
    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) for images (N, in_channels, H, W), in training and in evaluation.

        Raises:
            ZooError: The network cannot read `x`; the message names the sizes that fit. So do `outputs` and `endpoints`.
        """
        for _, features in run_segments(self, x):
            x = features  # without a list, which would keep all feature maps in memory
        return self._classify(x)

    @explained
    def outputs(self, x: Tensor) -> Outputs:
        """Return logits and auxiliary logits for images (N, in_channels, H, W), for the training loss."""
        aux, features = {}, x
        for name, features in run_segments(self, x):
            if name in self.aux:
                aux[name] = self.aux[name](features)
        return Outputs(self._classify(features), aux)

    @explained
    def endpoints(self, x: Tensor) -> dict[str, Tensor]:
        """Return feature maps (N, C, H', W') by endpoint, in order, for images (N, in_channels, H, W)."""
        return dict(self.run_blocks(x))

    def run_blocks(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (endpoint, feature maps (N, C, H', W')) after each block, for images (N, in_channels, H, W)."""
        for block in self.plan.blocks:
            x = self.get_submodule(block.name)(x)
            yield block.name, x

    def freeze(self, last: str | None) -> None:
        """Freeze the weights and BatchNorm statistics of every endpoint up to `last`.

        Frozen blocks stay in evaluation mode even after `train`: their BatchNorm layers use the running statistics.

        Args:
            last: An endpoint, or a stage for its last endpoint. None unfreezes all.

        Raises:
            ZooError: `last` is not an endpoint or a stage.
        """
        names = [block.name for block in self.plan.blocks]
        stages = {block.stage: block.name for block in self.plan.blocks}
        if last is not None and (not isinstance(last, str) or last not in [*names, *stages]):
            hint = did_you_mean(last, [*stages, *names], ALIKE)
            raise ZooError(f"{self.plan.net.name}: freeze={last} is not a stage or endpoint; {hint}")
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
        """Compile `forward` and `outputs` in place with `torch.compile`, and return self; state-dict keys do not change."""
        self.compile()
        self.outputs = torch.compile(self.outputs)  # type: ignore[method-assign]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the compiled `outputs`: it is bound to this network, not to the copy."""
        return {key: value for key, value in super().__getstate__().items() if key != "outputs"}

    def remember(self, memory: str) -> None:
        """Set the memory mode of training: `plain`, `lean` or `minimal`; see `inception_zoo.network.autograd`.

        Raises:
            ZooError: The mode is unknown.
        """
        if memory not in MEMORY:
            raise ZooError(f"{self.plan.net.name}: memory={memory} is unknown; {did_you_mean(memory, MEMORY)}")
        self.memory = memory
        for module in self.modules():
            if hasattr(type(module), "lean"):
                module.lean = memory != "plain"  # type: ignore[assignment]

    def _classify(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.pool(x).flatten(1)))
