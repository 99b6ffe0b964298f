"""What an optimizer gets: parameter groups with layer-wise learning rates, and the rate of a global batch."""

import logging
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig
from torch import nn

from inception_zoo.network.inception import Inception

say = rank_zero_only(logging.getLogger(__name__).info)


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


def scaled_rate(cfg: DictConfig) -> dict[str, float]:
    """`lr` for the global batch of this job, where `optimizer.lr` is said to be for another (linear: arXiv 1706.02677)."""
    if cfg.lr_for_batch is None:
        return {}
    batch = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches
    lr = cfg.optimizer.lr * batch / cfg.lr_for_batch
    say(f"learning rate: {lr:g} for a global batch of {batch} ({cfg.optimizer.lr:g} at {cfg.lr_for_batch})")
    return {"lr": lr}
