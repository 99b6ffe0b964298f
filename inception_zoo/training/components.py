"""The components of a job, built from their nodes of the config; what a library refuses is one line that names the key."""

import inspect
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from omegaconf import DictConfig, OmegaConf

from inception_zoo.data import ImageData
from inception_zoo.errors import ZooError, one_line
from inception_zoo.system.ranks import by_torchrun, is_first
from inception_zoo.tracking.callback import Tracking
from inception_zoo.tracking.wandb_logger import identity
from inception_zoo.training.atomic_checkpoints import AtomicCheckpointIO
from inception_zoo.training.optimizers import scaled_rate
from inception_zoo.training.processes import JobLauncher


def build(group: str, node: Any, /, **more: Any) -> Any:
    """Call what a node of the config names.

    Args:
        group: the node's key, for messages.
        node: with a `_target_`.
        **more: further arguments.

    Raises:
        ZooError: the key, and what the class or function says of its arguments.
    """
    try:
        with warnings.catch_warnings():
            if group == "augmentation":  # torchvision only warns of some ranges that cannot be meant
                warnings.filterwarnings("error", category=UserWarning, module="torchvision")
            found = instantiate(node, **more, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ZooError):
            raise ZooError(str(cause)) from error
        inner = re.search(r"full_key: (\S+)", str(error))
        key = inner[1] if inner and inner[1].startswith(group) else f"{group}.{inner[1]}" if inner else group
        raise ZooError(f"{key}: {one_line(cause)}") from error
    if isinstance(found, partial):
        check_keywords(group, found)
    return found


def check_keywords(group: str, call: partial) -> None:
    """ZooError for an option that what will be called does not have, as another choice of the group may leave it behind."""
    known = inspect.signature(call.func).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for key in call.keywords:
        if key not in known:
            name = call.func.__name__
            raise ZooError(f"{group}.{key} is no option of {name} (a recipe may have set it for another); add '~{group}.{key}'")


def build_data(config: Mapping[str, Any]) -> ImageData:
    """Build the DataModule with its augmentation; nothing is read yet."""
    return build("data", config["data"], augmentation=build("augmentation", config["augmentation"]))


def build_optimizer(cfg: DictConfig, config: Mapping[str, Any]) -> tuple[partial, partial]:
    """Return what makes the optimizer and the scheduler, tried on one parameter.

    Raises:
        ZooError: an option is refused; the message has all options of the group.
    """
    optimizer = build("optimizer", config["optimizer"], **scaled_rate(cfg))
    scheduler = build("scheduler", config["scheduler"])
    trial = _tried("optimizer", optimizer, [torch.nn.Parameter(torch.zeros(1, 1))])
    _tried("scheduler", scheduler, trial, steps=100, epoch_steps=10)
    return optimizer, scheduler


def _tried(group: str, call: partial, *args: Any, **more: Any) -> Any:
    try:
        return call(*args, **more)
    except Exception as error:  # each library raises kinds of its own
        given = ", ".join(f"{group}.{key}={value}" for key, value in call.keywords.items())
        raise ZooError(f"{group}: {one_line(error) or type(error).__name__} ({given})") from error


def build_trainer(cfg: DictConfig, folder: Path, callbacks: Sequence[Callback], results: Mapping[str, Any]) -> Trainer:
    """Build the Trainer with its callbacks, loggers and checkpoint IO.

    Args:
        cfg: the job's, final.
        folder: the run folder.
        callbacks: before those of the config.
        results: what will be in results.json, for W&B.
    """
    callbacks = [*callbacks, *(build(f"callbacks.{name}", node) for name, node in cfg.callbacks.items())]
    check_wandb(cfg.logger)
    loggers = [build(f"logger.{name}", node, **identity(node, cfg, HydraConfig.get())) for name, node in cfg.logger.items()]
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        callbacks.append(Tracking(results))
    # The DataModule shares out the images itself: Lightning's sampler would repeat some in an evaluation.
    own = {"callbacks": callbacks, "logger": loggers, "plugins": [AtomicCheckpointIO()], "use_distributed_sampler": False}
    trainer: Trainer = build("trainer", cfg.trainer, **own)
    if isinstance(trainer.strategy, DDPStrategy):  # as `auto` makes it, too, which takes no arguments
        trainer.strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        size = launcher.num_processes, launcher.num_nodes
        trainer.strategy._launcher = JobLauncher(launcher.cluster_environment, *size, cfg, folder)
    if by_torchrun() and (processes := os.environ["WORLD_SIZE"]) != str(trainer.world_size):
        asked = f"trainer.devices={cfg.trainer.devices}, trainer.num_nodes={cfg.trainer.num_nodes}"
        raise ZooError(f"torchrun has started {processes} processes, but {asked} make {trainer.world_size}; give as many")
    return trainer


def check_wandb(loggers: DictConfig) -> None:
    """ZooError if a W&B run is to go online but nobody is logged in: W&B would ask at the prompt."""
    if any(node.get("offline") is False for node in loggers.values()):
        import wandb

        try:
            known = wandb.login(prompt=False)
        except wandb.Error as error:
            raise ZooError(f"logger.wandb.offline=false: {one_line(error)}") from None
        if not known:
            raise ZooError("logger.wandb.offline=false needs an API key; run `wandb login` or set WANDB_API_KEY")


def pruner(cfg: DictConfig, folder: Path) -> list[Any]:
    """The callback that lets Optuna end this job, if it is a trial of Optuna's."""
    if cfg.sweep.trial is None:
        return []
    from inception_zoo.runs.study import Pruning

    if is_first() and "storage" not in HydraConfig.get().sweeper:
        raise ZooError(f"sweep.trial={cfg.sweep.trial} is for the sweeper of Optuna to set; leave it out, or take sweep=optuna")
    sweeper: Any = OmegaConf.to_container(HydraConfig.get().sweeper, resolve=True) if is_first() else {}
    return [Pruning(sweeper, folder.parent, cfg.sweep.trial)]
