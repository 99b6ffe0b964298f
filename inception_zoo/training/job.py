"""Composed config → Trainer → results: one job, from the last checks to its table."""

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from inception_zoo.architecture.cost import Cost, plan_cost
from inception_zoo.architecture.plan import Plan
from inception_zoo.data import ImageData
from inception_zoo.errors import ZooError, one_line
from inception_zoo.models import create_model
from inception_zoo.network.inception import Inception
from inception_zoo.redaction import redacted
from inception_zoo.runs.results import Pruned, commit_of_the_code, ending
from inception_zoo.runs.sweeps import progress
from inception_zoo.system.devices import auto_precision, check_batch, check_devices
from inception_zoo.system.ranks import agreed, by_torchrun, is_first, local_rank, meet_anew
from inception_zoo.tracking.wandb_logger import Tracking, close, identity, log_folder
from inception_zoo.training.checkpoints import WholeCheckpoints, check_classes, check_fits, find_checkpoint, precision_of
from inception_zoo.training.module import Classifier
from inception_zoo.training.processes import JobLauncher, SameConfig, end_ranks
from inception_zoo.training.tables import write_tables
from inception_zoo.weights.files import load_pickle
from inception_zoo.weights.saving import save_model

SHOWN = (
    *("train/loss", "train/top1", "val/loss", "val/top1", "val/top1_best"),
    *("test/loss", "test/top1", "test/top5", "test/macro", "test/ece", "test_raw/top1"),
)
say = rank_zero_only(logging.getLogger(__name__).info)


def run(cfg: DictConfig, results: dict[str, Any], interrupted: bool = False) -> None:
    """Train and then test the best checkpoint, or test only.

    Args:
        cfg: as composed, checked.
        results: gets what the run is and what it measured, as far as it comes.
        interrupted: this run has begun before, and was cut short.

    Raises:
        Pruned: the search that this job belongs to has ended it.
    """
    logging.getLogger("lightning").handlers.clear()  # Hydra's handlers print its messages already
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and progress notes
    warnings.filterwarnings("ignore", ".*LeafSpec")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", ".*smaller than the logging interval")
    warnings.filterwarnings("ignore", ".*exists and is not empty")  # a run goes on in its folder
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable")  # its order is, see data/module.py
    folder = Path(HydraConfig.get().runtime.output_dir)
    with leaving_nothing_behind():
        if stands := progress(folder):
            say(stands)
        cfg, ckpt = resolved(cfg, folder, interrupted)
        config: Any = OmegaConf.to_container(cfg)
        seed_everything(cfg.seed, workers=True, verbose=False)
        model = create_model(**config["model"])
        cost = plan_cost(model.plan, cfg.data.image_size)
        results |= {"model": model.plan.net.name, "swapped": model.plan.swapped, "commit": commit_of_the_code()}
        results |= {"parameters": cost.params, "multiply_adds": cost.macs, "image_size": cfg.data.image_size}
        if model.provenance:
            config["data"] |= of_the_weights(model, config["data"])
            config["provenance"] = asdict(model.provenance)
        if ckpt:
            card = check_fits(ckpt, model, config)
            known = card.classes if card else None
            say(f"checkpoint: {ckpt}")
            if card and cfg.task == "test":
                model.preprocessing = card.preprocessing
                config["data"] |= of_the_weights(model, config["data"])
        data = build_data(config)
        if local_rank() == 0:  # the other ranks read it after a possible download
            data.prepare_data()
            if ckpt:
                check_classes(ckpt, known, data.classes)
            names = data.classes or []
            model.classes = names if len(names) == model.plan.num_classes else None
        model.preprocessing = data.preprocessing
        parts = build("optimizer", config["optimizer"], **scaled_rate(cfg)), build("scheduler", config["scheduler"])
        choices = cfg.layer_decay, cfg.aux_weight, cfg.decay_norm_and_bias
        public = redacted(config)
        module = Classifier(model, *parts, cfg.label_smoothing, public, *choices)
        if is_first() and (hydra_folder := folder / ".hydra").is_dir():
            OmegaConf.save(public, hydra_folder / "resolved.yaml")
        pruning = pruner(cfg, folder)
        trainer = make_trainer(cfg, folder, [SameConfig(config, results), *pruning], results)
        if by_torchrun() and (processes := os.environ["WORLD_SIZE"]) != str(trainer.world_size):
            asked = f"trainer.devices={cfg.trainer.devices}, trainer.num_nodes={cfg.trainer.num_nodes}"
            raise ZooError(f"torchrun has started {processes} processes, but {asked} make {trainer.world_size}; give as many")
        check_batch(cfg.data.batch_size, trainer.world_size, model.plan.choices.norm)
        data.check_batch(trainer.world_size)
        if cfg.task == "fit":
            trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
            results |= {key: float(value) for key, value in trainer.callback_metrics.items()}
            best = trainer.checkpoint_callback  # the first of them
            if isinstance(best, ModelCheckpoint) and best.best_model_score is not None:
                results["val/top1_best"], ckpt = float(best.best_model_score), Path(best.best_model_path)
            else:
                ckpt = None  # without validation: the weights as they are now
            if reason := next((callback.reason for callback in pruning if callback.reason), None):
                raise Pruned(reason)
        results |= test(trainer, module, data, ckpt)
        assert module.test.tables is not None
        tables = module.test.tables.compute()
        if trainer.is_global_zero:
            if cfg.task == "fit":
                save_model(model, folder / "model.safetensors")  # the weights that were tested
            names = [*(data.classes or []), *map(str, range(len(data.classes or []), model.plan.num_classes))]
            write_tables(folder, names, **tables, preprocessing=data.preprocessing)
            log_folder(folder, results, trainer.global_step)
    if trainer.is_global_zero:
        report(model.plan, cost, results, folder, ckpt)


def pruner(cfg: DictConfig, folder: Path) -> list[Any]:
    """The callback that lets Optuna end this job, if it is a trial of Optuna's."""
    if cfg.sweep.trial is None:
        return []
    from inception_zoo.runs.study import Pruning

    if is_first() and "storage" not in HydraConfig.get().sweeper:
        raise ZooError(f"sweep.trial={cfg.sweep.trial} is for the sweeper of Optuna to set; leave it out, or take sweep=optuna")
    sweeper: Any = OmegaConf.to_container(HydraConfig.get().sweeper, resolve=True) if is_first() else {}
    return [Pruning(sweeper, folder.parent, cfg.sweep.trial)]


def build(group: str, node: Any, /, **more: Any) -> Any:
    """What a group of the config stands for; ZooError in the words of what refused it."""
    try:
        found = instantiate(node, **more, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise ZooError(str(cause) if isinstance(cause, ZooError) else f"{group}: {one_line(cause)}") from error
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
    return build("data", config["data"], augmentation=build("augmentation", config["augmentation"]))


def scaled_rate(cfg: DictConfig) -> dict[str, float]:
    """`lr` for the global batch of this job, where `optimizer.lr` is said to be for another (linear: arXiv 1706.02677)."""
    if cfg.lr_for_batch is None:
        return {}
    batch = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches
    lr = cfg.optimizer.lr * batch / cfg.lr_for_batch
    say(f"learning rate: {lr:g} for a global batch of {batch} ({cfg.optimizer.lr:g} at {cfg.lr_for_batch})")
    return {"lr": lr}


def test(trainer: Trainer, module: Classifier, data: ImageData, ckpt: Path | None) -> dict[str, float]:
    """Metrics of the test split: of the checkpoint, or of the weights as they are now.

    Where the checkpoint's weights are an average, those that were averaged are tested too, as `test_raw`. The weights are not
    left to Lightning to load: its EMAWeightAveraging would put those in the average's place as soon as it has trained.
    """
    metrics: dict[str, float] = {}
    if ckpt:
        checkpoint = load_pickle(ckpt)
        if raw := checkpoint.get("current_model_state"):
            module.load_state_dict(raw)
            module.test_name = "test_raw"
            metrics |= trainer.test(module, data, verbose=False)[0]
            module.test_name = "test"
        module.load_state_dict(checkpoint["state_dict"])
    return metrics | dict(trainer.test(module, data, verbose=False)[0])


def resolved(cfg: DictConfig, folder: Path, interrupted: bool) -> tuple[DictConfig, Path | None]:
    """The config with every value final, so that the other ranks and the checkpoint have what this process decided."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    check_devices(config["trainer"])
    ckpt = find_checkpoint(cfg.ckpt, cfg.task, folder, interrupted)
    config["ckpt"] = str(ckpt) if ckpt else None
    if cfg.trainer.precision == "auto":
        if known := precision_of(ckpt) if ckpt else None:  # a speed that is measured again may come out otherwise
            precision, why = known, "as the checkpoint's run"
        else:
            precision, why = auto_precision(cfg.trainer.accelerator)
        config["trainer"]["precision"] = agreed("precision", precision)
        say(f"precision: {config['trainer']['precision']} ({why})")
    return OmegaConf.create(config), ckpt


def of_the_weights(model: Inception, data: dict[str, Any]) -> dict[str, Any]:
    """The keys of `data` that loaded weights decide: how their images were normalized, and cropped if these are."""
    if model.preprocessing is None:
        say("the weights do not say what their images were normalized with; data.mean and data.std are taken")
        return {}
    known = model.preprocessing
    keys: dict[str, Any] = {"mean": list(known.mean), "std": list(known.std), "interpolation": known.interpolation}
    if data["crop_pct"] < 1:  # what fills its frame, as Fashion-MNIST, stays whole
        keys["crop_pct"] = round(known.image_size / known.resize, 4)
    if changed := [key for key, value in keys.items() if data.get(key) != value]:
        say(f"as the weights need it: {', '.join(f'data.{key}={keys[key]}' for key in changed)}")
    return keys


@contextmanager
def leaving_nothing_behind() -> Iterator[None]:
    """Close the job's W&B run and process group, and restore the environment: the next job of a sweep starts clean."""
    environment, words = dict(os.environ), sys.argv[1:]
    end: BaseException | None = None
    sys.argv[1:] = redacted(words)  # W&B keeps the command line
    meet_anew()
    try:
        yield
    except BaseException as error:
        end = error
    finally:
        pruned = end if isinstance(end, Pruned) else None
        end = end_ranks(None if pruned else end) or pruned
        close(*ending(end))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv[1:] = words
        os.environ.clear()
        os.environ.update(environment)
    if end:
        raise end


def make_trainer(cfg: DictConfig, folder: Path, callbacks: Sequence[Callback], results: Mapping[str, Any]) -> Trainer:
    callbacks = [*callbacks, *(build(f"callbacks.{name}", node) for name, node in cfg.callbacks.items())]
    check_wandb(cfg.logger)
    loggers = [build(f"logger.{name}", node, **identity(node, cfg, HydraConfig.get())) for name, node in cfg.logger.items()]
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        callbacks.append(Tracking(results))
    # The DataModule shares out the images itself: Lightning's sampler would repeat some in an evaluation.
    own = {"callbacks": callbacks, "logger": loggers, "plugins": [WholeCheckpoints()], "use_distributed_sampler": False}
    trainer: Trainer = build("trainer", cfg.trainer, **own)
    if isinstance(trainer.strategy, DDPStrategy):  # as `auto` makes it, too, which takes no arguments
        trainer.strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        size = launcher.num_processes, launcher.num_nodes
        trainer.strategy._launcher = JobLauncher(launcher.cluster_environment, *size, cfg, folder)
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


def report(plan: Plan, cost: Cost, results: Mapping[str, Any], folder: Path, ckpt: Path | None) -> None:
    """The result table, ending in the run folder."""
    table = Table(title=f"{plan.net.name} at {results['image_size']} px", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path is there to be copied
    if plan.swapped:
        table.add_row("swapped", plan.swapped)
    table.add_row("parameters", f"{cost.params:,}")
    table.add_row("multiply-adds per image", f"{cost.macs / 1e6:,.0f} M")
    for key in SHOWN:
        if key in results:
            table.add_row(key, f"{results[key]:.4f}")
    if "train/images_per_second" in results:
        table.add_row("training speed", f"{results['train/images_per_second']:,.0f} images/s")
    minutes = (datetime.now().astimezone() - datetime.fromisoformat(results["started"])).total_seconds() / 60
    table.add_row("time", f"{minutes:.1f} min")
    table.add_row("tested checkpoint", short(ckpt) if ckpt else "–")
    table.add_row("run folder", short(folder))
    Console().print(table)


def short(path: Path) -> str:
    """Relative to the current folder where the path lies in it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
