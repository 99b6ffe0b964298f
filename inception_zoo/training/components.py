"""Construction of a job's components from their config nodes. An error of a library becomes one line that names the key."""

import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torchmetrics import Metric

from inception_zoo.architecture.plan import Plan
from inception_zoo.data import ImageData
from inception_zoo.errors import ZooError, check_installed, imported, one_line
from inception_zoo.system.ranks import by_torchrun, is_first
from inception_zoo.tracking.callback import Tracking
from inception_zoo.tracking.wandb_logger import identity
from inception_zoo.training.atomic_checkpoints import AtomicCheckpointIO
from inception_zoo.training.best_checkpoint import BestCheckpoint
from inception_zoo.training.losses import CrossEntropy, LogitLoss
from inception_zoo.training.metrics import EXACT, Evaluation, SeveralLabels
from inception_zoo.training.optimizers import scaled_rate
from inception_zoo.training.processes import JobLauncher
from inception_zoo.training.schedules import OURS, scheduled

NEED_LOGGER = ("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor")  # callbacks that fail without a logger
NOT_LIGHTNINGS = ("timeout_minutes", "threads")  # keys of `trainer` that Lightning does not know
PROFILE = "profile"  # in the file name of a profiler's report
say = rank_zero_only(logging.getLogger(__name__).info)


def build(group: str, node: Any, /, **more: Any) -> Any:
    """Instantiate a config node.

    Args:
        group: key of the node, for error messages.
        node: config node with a `_target_`.
        **more: further arguments.

    Returns:
        The object, or a partial function if the node sets `_partial_`.

    Raises:
        ZooError: the class or function refuses an argument; the message names the key.
    """
    try:
        with warnings.catch_warnings():
            if group == "augmentation":  # for some invalid ranges torchvision only warns
                warnings.filterwarnings("error", category=UserWarning, module="torchvision")
            found = instantiate(node, **more, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ZooError):
            raise ZooError(str(cause)) from error
        inner = re.search(r"full_key: (\S+)", str(error))
        key = inner[1] if inner and inner[1].startswith(group) else f"{group}.{inner[1]}" if inner else group
        raise ZooError(f"{key}: {one_line(cause)}") from error
    if isinstance(found, partial) and (unknown := _unknown(found.func, found.keywords)):
        key = f"{group}.{unknown[0]}"
        raise ZooError(f"{key} is not an option of {found.func.__name__}; remove it with '~{key}' (a recipe may have set it)")
    return found


def _unknown(function: Any, options: Iterable[str]) -> list[str]:
    """Return the options that a function does not have. They may be left over from another choice of the group."""
    known = inspect.signature(function).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in known.values())
    return [] if takes_any else [key for key in options if key not in {*known, *OURS} and key[0] != "_"]


def build_data(config: Mapping[str, Any]) -> ImageData:
    """Build the DataModule with its augmentation, without reading data."""
    return build("data", config["data"], augmentation=build("augmentation", config["augmentation"]))


def build_optimizer(cfg: DictConfig, config: Mapping[str, Any]) -> tuple[partial, partial]:
    """Build the optimizer and scheduler as partial functions, and test both on one parameter.

    Args:
        cfg: the final config of the job.
        config: the same as plain containers.

    Returns:
        The functions parameters → optimizer, and (optimizer, steps, epoch_steps) → scheduler.

    Raises:
        ZooError: an option is refused; the message lists all options of the group.
    """
    optimizer = build("optimizer", config["optimizer"], **scaled_rate(cfg))
    scheduler = build("scheduler", config["scheduler"])
    trial = _tried("optimizer", optimizer, [torch.nn.Parameter(torch.zeros(1, 1))])
    _tried("scheduler", scheduler, trial, steps=100, epoch_steps=10)
    return optimizer, scheduler


def build_logit_loss(node: Mapping[str, Any] | None) -> LogitLoss | None:
    """Build a loss of logits; return None if the config names a loss of embeddings.

    Args:
        node: the config node `loss`; None: the cross entropy.
    """
    if node is None:
        return CrossEntropy()
    kind: Any = imported(node["_target_"])
    return build("loss", node) if inspect.isclass(kind) and issubclass(kind, LogitLoss) else None


def build_loss(node: Mapping[str, Any], plan: Plan, classes: int) -> torch.nn.Module:
    """Build a metric-learning loss.

    Args:
        node: the config node `loss`.
        plan: plan of the network.
        classes: number of classes of the data.

    Raises:
        ZooError: the library is missing, or the loss refuses an option.
    """
    target, size = node["_target_"], plan.embedding or plan.blocks[-1].c_out
    if target.startswith("pytorch_metric_learning."):
        check_installed("pytorch_metric_learning", "embedding", f"loss={target.rpartition('.')[2]}")
    sizes = {"num_classes": classes, "embedding_size": size}
    kind: Any = imported(target)
    kinds = inspect.getmro(kind) if inspect.isclass(kind) else [kind]  # a class may pass them on to its base
    wanted = {name for each in kinds for name in inspect.signature(each).parameters}
    loss = build("loss", node, **{key: value for key, value in sizes.items() if key in wanted})
    try:
        trial = loss(torch.nn.functional.normalize(torch.randn(4, size)), torch.tensor([0, 0, 1, 1]))
        if trial.dim() or not isinstance(loss, torch.nn.Module):
            raise TypeError("not a module that returns a scalar")
    except Exception as error:  # the user's code may raise anything
        raise ZooError(f"loss: {target} is not a loss of embeddings (N, {size}) and labels (N,): {one_line(error)}") from error
    return loss


def build_metrics(config: Mapping[str, Any], classes: int, several: bool = False) -> dict[str, Metric]:
    """Build the user's metrics by name, and test each on two images.

    Args:
        config: the final config as plain containers.
        classes: number of classes of the network.
        several: images have several labels.

    Raises:
        ZooError: a name is taken, or a metric does not give a number for probabilities (N, classes) and labels (N,), or
            (N, classes) if there are several.
    """
    found = {name: build(f"metrics.{name}", node) for name, node in config["metrics"].items()}
    evaluation = (SeveralLabels if several else Evaluation)(classes, tables=False)
    known, rows = evaluation.metrics, torch.eye(classes, dtype=EXACT)[:2]
    for name, metric in found.items():
        if name in known:
            raise ZooError(f"metrics.{name}: the evaluation already has {name}; choose another name")
        try:
            trial = metric.clone()
            trial.update(rows, rows.long() if several else torch.arange(2))
            float(trial.compute())
        except Exception as error:  # the user's code may raise anything
            raise ZooError(f"metrics.{name}: {one_line(error)}; it must be a torchmetrics Metric with a number") from error
    return found


def leave_out_others(config: Mapping[str, Any]) -> None:
    """Leave out the options of a preset where the command line names another class, which does not have them."""
    words = {word.lstrip("+").partition("=")[0] for word in HydraConfig.get().overrides.task}
    for group in ("optimizer", "scheduler"):
        node = config[group]
        unknown = _unknown(imported(node["_target_"]), node) if f"{group}._target_" in words else []
        for key in unknown:
            if f"{group}.{key}" not in words:
                say(f"{group}.{key}={node.pop(key)} left out: it is an option of the preset, not of {node['_target_']}")


def _tried(group: str, call: partial, *args: Any, **more: Any) -> Any:
    try:
        return scheduled(call, *args, **more) if group == "scheduler" else call(*args, **more)
    except Exception as error:  # libraries raise errors of many types
        given = ", ".join(f"{group}.{key}={value}" for key, value in call.keywords.items())
        raise ZooError(f"{group}: {one_line(error) or type(error).__name__} ({given})") from error


def build_trainer(cfg: DictConfig, folder: Path, callbacks: Sequence[Callback], results: Mapping[str, Any]) -> Trainer:
    """Build the Trainer with its callbacks, loggers and checkpoint IO.

    Args:
        cfg: the final config of the job.
        folder: the run folder.
        callbacks: callbacks that come before those of the config.
        results: content of results.json, for W&B.

    Raises:
        ZooError: an option is refused, W&B has no API key, or torchrun has started another number of processes.
    """
    nodes = {name: node for name, node in cfg.callbacks.items() if cfg.logger or not node._target_.endswith(NEED_LOGGER)}
    if left_out := cfg.callbacks.keys() - nodes.keys():
        say(f"no logger: left out callbacks.{', callbacks.'.join(sorted(left_out))}")
    own = {name: build(f"callbacks.{name}", node) for name, node in nodes.items()}
    for name, each in own.items():
        if isinstance(each, ModelCheckpoint) and not isinstance(each, BestCheckpoint):
            base = f"{BestCheckpoint.__module__}.{BestCheckpoint.__name__}"
            raise ZooError(f"callbacks.{name}: its state would hold absolute paths; derive the class from {base}")
    callbacks = [*callbacks, *own.values()]
    check_wandb(cfg.logger)
    loggers = [build(f"logger.{name}", node, **identity(node, cfg, HydraConfig.get())) for name, node in cfg.logger.items()]
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        callbacks.append(Tracking(results))
    trainer = _trainer(cfg, folder, callbacks=callbacks, logger=loggers, plugins=[AtomicCheckpointIO(folder)])
    if isinstance(trainer.strategy, DDPStrategy):  # set here: `strategy=auto` takes no options
        trainer.strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)
    # until `LastCheckpoint` listens, Lightning's handler of SIGTERM would wait for all ranks, and come before ours
    trainer._signal_connector._sigterm_notifier_fn = lambda *signal: None  # type: ignore[method-assign]
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        size = launcher.num_processes, launcher.num_nodes
        trainer.strategy._launcher = JobLauncher(launcher.cluster_environment, *size, cfg, folder)
    check_processes(trainer, cfg)
    return trainer


def _trainer(cfg: DictConfig, folder: Path, **own: Any) -> Trainer:
    # The DataModule distributes the images itself: Lightning's sampler would repeat some of them in an evaluation.
    own["use_distributed_sampler"] = False
    node: Any = {key: value for key, value in OmegaConf.to_container(cfg.trainer).items() if key not in NOT_LIGHTNINGS}  # type: ignore[union-attr]
    try:
        trainer: Trainer = build("trainer", node, **own)
    except ZooError as error:
        raise ZooError(_refused_option(node, own) + str(error).removeprefix("trainer")) from error
    profiler = trainer.profiler  # type: ignore[attr-defined]
    if not isinstance(profiler, Profiler):
        raise ZooError(f"trainer.profiler={node['profiler']} must be simple, advanced, pytorch, or have a _target_")
    if not isinstance(profiler, PassThroughProfiler) and profiler.filename is None:
        # Lightning would print its report to a log that is off
        profiler.dirpath, profiler.filename = profiler.dirpath or folder, PROFILE
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        name = re.sub("_(spawn|fork|notebook)", "", str(node["strategy"]))
        raise ZooError(f"trainer.strategy={node['strategy']} loses the results of its processes; use trainer.strategy={name}")
    return trainer


def _refused_option(node: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Return the option without which the Trainer can be built, with its value: not every message of Lightning names it."""
    for key in reversed([key for key in node if key != "_target_"]):
        with suppress(ZooError):
            build("trainer", {name: value for name, value in node.items() if name != key}, **own)
            return f"trainer.{key}={node[key]}"
    return "trainer"


def check_processes(trainer: Trainer, cfg: DictConfig) -> None:
    """Check that torchrun or SLURM has started the processes that the config asks for.

    Args:
        trainer: the Trainer.
        cfg: the final config of the job.

    Raises:
        ZooError: it has started another number.
    """
    by_hand = trainer.num_nodes > 1 and not by_torchrun() and "SLURM_NTASKS" not in os.environ
    if by_hand and (missing := [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]):
        how = f"set {', '.join(missing)} in the environment of every machine, or use torchrun or SLURM"
        raise ZooError(f"trainer.num_nodes={trainer.num_nodes}: {how}; see docs/cluster.md")
    needed = trainer.num_devices * trainer.num_nodes
    started = int(os.environ["WORLD_SIZE"]) if by_torchrun() else trainer.world_size
    if started != needed:
        launcher = "torchrun" if by_torchrun() else "SLURM"
        asked = f"trainer.devices={cfg.trainer.devices} and trainer.num_nodes={cfg.trainer.num_nodes}"
        raise ZooError(f"{asked} need {needed} processes, but {launcher} has started {started}; start as many")


def check_wandb(loggers: DictConfig) -> None:
    """Check that an API key for online W&B logging is known. Without this check, W&B would ask for it at a prompt.

    Args:
        loggers: the config node `logger`.

    Raises:
        ZooError: a logger is online without an API key, or W&B refuses the key.
    """
    if os.environ.get("WANDB_MODE") != "disabled" and any(node.get("offline") is False for node in loggers.values()):
        import wandb

        try:
            known = wandb.login(prompt=False)
        except wandb.Error as error:
            raise ZooError(f"logger.wandb.offline=false: {one_line(error)}") from None
        if not known:
            raise ZooError("logger.wandb.offline=false needs an API key; run `wandb login` or set WANDB_API_KEY")


def pruner(cfg: DictConfig, folder: Path) -> list[Any]:
    """Return the callback that prunes this job, in a list; an empty list if the job is not a trial of Optuna.

    Args:
        cfg: the final config of the job.
        folder: the run folder.

    Raises:
        ZooError: `sweep.trial` is set without the Optuna sweeper.
    """
    if cfg.sweep.trial is None:
        return []
    from inception_zoo.runs.study import Pruning, objective

    if is_first() and "storage" not in HydraConfig.get().sweeper:
        raise ZooError(f"sweep.trial={cfg.sweep.trial}: only the Optuna sweeper sets it; leave it out, or use sweep=optuna")
    sweeper: Any = OmegaConf.to_container(HydraConfig.get().sweeper, resolve=True) if is_first() else {}
    return [Pruning(sweeper, folder.parent, cfg.sweep.trial, objective(cfg.callbacks))]
