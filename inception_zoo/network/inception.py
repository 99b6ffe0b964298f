"""Plan → network with named endpoints."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from inception_zoo.architecture.choices import ALIKE, MEMORY
from inception_zoo.architecture.decision import Decision
from inception_zoo.architecture.plan import Plan
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.errors import ZooError, check_whole, did_you_mean
from inception_zoo.network.autograd import run_segments
from inception_zoo.network.blocks import AuxHead, UnitLength, build_block, build_embedding
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
    the order of the labels), `provenance` and `decision` are set when weights are loaded or trained.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.preprocessing: Preprocessing | None = None
        self.classes: list[str] | None = None
        self.provenance: Provenance | None = None
        self.decision = Decision()
        self.memory = "plain"
        self.frozen: list[str] = []  # the first endpoints, in order
        for block in plan.blocks:
            self.add_module(block.name, build_block(plan, block))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(plan.choices.dropout or 0.0)
        self.embedding = build_embedding(plan)
        self._build_heads()
        own = {layer for block in plan.blocks if block.module for layer in self.get_submodule(block.name).modules()}
        initialize(self, self._classifiers(), plan.choices.init, own)

    @explained
    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) for images (N, in_channels, H, W), in training and in evaluation.

        Raises:
            ZooError: The network cannot read `x`; the message names the sizes that fit. So do all methods that read images.
        """
        return self.forward_head(self._run(x))

    @explained
    def outputs(self, x: Tensor) -> Outputs:
        """Return logits and auxiliary logits for images (N, in_channels, H, W), for the training loss."""
        aux, features = {}, x
        for name, features in run_segments(self, x):
            if name in self.aux:
                aux[name] = self.aux[name](features)
        return Outputs(self.forward_head(features), aux)

    @explained
    def endpoints(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return feature maps (N, C, H', W') by endpoint, in order, for images (N, in_channels, H, W).

        Args:
            x: Images.
            names: Endpoints to return; the blocks after the last of them are not run. None: all.

        Raises:
            ZooError: A name is not an endpoint.
        """
        every = [block.name for block in self.plan.blocks]
        if names is None:
            return dict(self.run_blocks(x))
        if isinstance(names, str):
            raise ZooError(f"names='{names}' is not a list of endpoints")
        for name in names:
            if name not in every:
                raise ZooError(f"{self.plan.net.name}: '{name}' is not an endpoint; {did_you_mean(name, every)}")
        wanted = [name for name in every if name in names]
        return {name: maps for name, maps in self.run_blocks(x, wanted[-1]) if name in wanted} if wanted else {}

    @explained
    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Return the last feature maps (N, C, H', W') of each resolution, see `feature_info`."""
        return list(self.endpoints(x, [level["module"] for level in self.feature_info]).values())

    @explained
    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features (N, num_features) of images (N, in_channels, H, W), before dropout."""
        return self.pool(self._run(x)).flatten(1)

    @explained
    def embed(self, x: Tensor) -> Tensor:
        """Return embeddings of length 1, (N, embedding), of images (N, in_channels, H, W).

        Raises:
            ZooError: The network has no embedding.
        """
        if self.plan.embedding is None:
            raise ZooError(f"{self.plan.net.name} has no embedding; create it with head='embedding'")
        return nn.functional.normalize(self.forward_head(self._run(x), pre_logits=True))

    @explained
    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature maps (N, num_features, H', W') of images (N, in_channels, H, W)."""
        return self._run(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (N, classes) for the last feature maps (N, num_features, H', W').

        Args:
            x: Feature maps, see `forward_features`.
            pre_logits: Return what the classifier reads instead: (N, num_features), or with an embedding (N, embedding).
        """
        x = self.embedding(self.dropout(self.pool(x).flatten(1)))
        return x if pre_logits else self.fc(x)

    @property
    def num_features(self) -> int:
        """Number of pooled features."""
        return self.plan.blocks[-1].c_out

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """One dict per resolution: `num_chs`, `reduction` and `module`, the last endpoint that has it."""
        channels = {block.name: block.c_out for block in self.plan.blocks}
        return [{"num_chs": channels[name], "reduction": by, "module": name} for name, by in self.plan.levels]

    def get_classifier(self) -> nn.Module:
        """Return the layer that computes the logits; without classes a layer without weights."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier and the auxiliary heads by new ones, with random weights.

        Args:
            num_classes: Number of classes; 0: it returns pooled features, or embeddings of length 1 with `head=embedding`.
            global_pool: `avg` or None; other pools are not supported.

        Raises:
            ZooError: An argument is invalid.
        """
        check_whole(f"{self.plan.net.name}: num_classes", num_classes, at_least=0)
        if global_pool not in ("avg", None):
            raise ZooError(f"{self.plan.net.name}: global_pool={global_pool} is not supported; leave it out: it is avg")
        self.plan, self.classes, self.decision = replace(self.plan, num_classes=num_classes), None, Decision()
        if self.provenance:
            notes = [*self.provenance.notes, f"classifier re-initialized for {num_classes} classes"]
            self.provenance = replace(self.provenance, accuracy=None, notes=notes)
        weight = next(self.parameters())
        self._build_heads()
        for head in (self.fc, self.aux):
            initialize(head, self._classifiers(), self.plan.choices.init, set())
            head.to(weight.device, weight.dtype).train(self.training)
        self.remember(self.memory)

    def run_blocks(self, x: Tensor, last: str | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (endpoint, feature maps (N, C, H', W')) after each block up to `last`, for images (N, in_channels, H, W)."""
        for block in self.plan.blocks:
            x = self.get_submodule(block.name)(x)
            yield block.name, x
            if block.name == last:
                return

    def freeze(self, last: str | None) -> None:
        """Freeze the weights and BatchNorm statistics of every endpoint up to `last`.

        Frozen blocks stay in evaluation mode even after `train`: their BatchNorm layers use the running statistics.

        Args:
            last: An endpoint, a stage for its last endpoint, or `all`. None unfreezes all.

        Raises:
            ZooError: `last` is not an endpoint or a stage.
        """
        self.frozen = self.up_to(last)
        for block in self.plan.blocks:
            self.get_submodule(block.name).requires_grad_(block.name not in self.frozen)
        self.train(self.training)

    def up_to(self, last: str | None) -> list[str]:
        """Return the names of the endpoints up to and including `last`; see `freeze`."""
        names = [block.name for block in self.plan.blocks]
        stages = {block.stage: block.name for block in self.plan.blocks} | {"all": names[-1]}
        if last is not None and (not isinstance(last, str) or last not in [*names, *stages]):
            hint = did_you_mean(last, [*stages, *names], ALIKE)
            raise ZooError(f"{self.plan.net.name}: freeze={last} is not a stage, an endpoint or all; {hint}")
        return names[: names.index(stages.get(last, last)) + 1] if last is not None else []

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def compiled(self) -> Self:
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

    def _run(self, x: Tensor) -> Tensor:
        for _, features in run_segments(self, x):
            x = features  # without a list, which would keep all feature maps in memory
        return x

    def _build_heads(self) -> None:
        """Build the auxiliary heads and the classifier."""
        channels = {block.name: block.c_out for block in self.plan.blocks}
        self.aux = nn.ModuleDict({tap: AuxHead(self.plan, head, channels[tap]) for tap, head in self.plan.aux.items()})
        classes = self.plan.num_classes
        width = self.plan.embedding
        self.fc = nn.Linear(width or self.num_features, classes) if classes else UnitLength() if width else nn.Identity()

    def _classifiers(self) -> set[nn.Module]:
        """Return the layers that compute logits."""
        heads: Any = self.aux.values()
        return {self.fc, *(head.fc for head in heads)}
