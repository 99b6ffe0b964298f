"""Fine-tuning: layer-wise learning rates, and unfreezing when the new head has learned."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from inception_zoo.errors import ZooError, did_you_mean
from inception_zoo.network import Inception


def parameter_groups(model: Inception, lr: float, decay: float, decay_norm_and_bias: bool = True) -> list[dict[str, Any]]:
    """Parameters for an optimizer: the classifiers at `lr`, each endpoint before them at `decay` times that of the next.

    Frozen parameters are in it too: without a gradient an optimizer leaves them alone, and schedulers need no new group
    when they are freed. With ``decay=1`` all are one group, with the optimizer's rate. Without `decay_norm_and_bias`, what has
    one dimension (BatchNorm, biases) is in groups of its own, without weight decay.
    """
    if decay == 1:
        groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    else:
        heads = nn.ModuleList([model.fc, model.aux])
        groups = [{"params": list(heads.parameters()), "lr": lr, "name": "head"}]
        for depth, block in enumerate(reversed(model.plan.blocks), start=1):
            if parameters := list(model.get_submodule(block.name).parameters()):
                groups.append({"params": parameters, "lr": lr * decay**depth, "name": block.name})
    return groups if decay_norm_and_bias else [part for group in groups for part in _by_dimensions(group)]


def _by_dimensions(group: dict[str, Any]) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in group["params"] if parameter.dim() > 1]
    vectors = [parameter for parameter in group["params"] if parameter.dim() <= 1]
    named = {"name": f"{group['name']}, norm and bias"} if "name" in group else {}
    found = [{**group, "params": matrices}, {**group, "params": vectors, **named, "weight_decay": 0.0}]
    return [part for part in found if part["params"]]


class Unfreeze(Callback):
    """Frees what `model.freeze` froze, from the epoch `epoch` (counted from 0) on; `to`: what stays frozen then.

    Lightning's BaseFinetuning does not serve here: it adds parameter groups that a scheduler does not know, leaves frozen
    BatchNorms on the statistics of the batch, and under DDP the freed parameters would not be synchronized.
    """

    def __init__(self, epoch: int, to: str | None = None) -> None:
        if not isinstance(epoch, int) or epoch < 1:
            raise ZooError(f"callbacks.unfreeze.epoch={epoch} must be a whole number of at least 1; 0 is model.freeze=null")
        self.epoch, self.to = epoch, to

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        model = pl_module.model
        assert isinstance(model, Inception)
        names = model.plan.net.names[1:]
        if self.to is not None and self.to not in names:
            raise ZooError(f"callbacks.unfreeze.to={self.to} is no stage or endpoint; {did_you_mean(self.to, names)}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = pl_module.model
        assert isinstance(model, Inception)
        before = list(model.frozen)
        if trainer.current_epoch < self.epoch or not before:
            return
        model.freeze(self.to)
        if isinstance(trainer.strategy, DDPStrategy) and model.frozen != before:
            # DDP knows only the parameters that needed a gradient when it was set up.
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()
