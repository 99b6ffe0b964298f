"""Parameter groups with layer-wise learning rates, and the learning rate for the global batch."""

import logging
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig
from torch import nn

from inception_zoo.network.inception import Inception

say = rank_zero_only(logging.getLogger(__name__).info)


def parameter_groups(model: Inception, lr: float, decay: float, decay_norm_and_bias: bool = True) -> list[dict[str, Any]]:
    """Return parameter groups with layer-wise learning rates.

    The embedding and the classifiers have the rate `lr`. Each endpoint has the rate of the next one times `decay`. With
    ``decay=1`` there is one group with the optimizer's rate. The groups include frozen parameters: an optimizer skips
    parameters without a gradient, and schedulers need no new group when they are unfrozen.

    Args:
        model: the network.
        lr: learning rate of the classifiers.
        decay: factor per endpoint.
        decay_norm_and_bias: False: parameters with one dimension (BatchNorm, biases) get separate groups without weight decay.
    """
    if decay == 1:
        groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    else:
        heads = nn.ModuleList([model.embedding, model.fc, model.aux])
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
    """Return `lr` scaled linearly to the global batch of the job; an empty dict if `lr_for_batch` is null.

    `lr_for_batch` is the batch size that `optimizer.lr` is meant for.

    Source: arXiv 1706.02677.

    Args:
        cfg: the final config.
    """
    if cfg.lr_for_batch is None:
        return {}
    batch = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches
    lr = cfg.optimizer.lr * batch / cfg.lr_for_batch
    say(f"learning rate: {lr:g} for a global batch of {batch} ({cfg.optimizer.lr:g} at {cfg.lr_for_batch})")
    return {"lr": lr}
