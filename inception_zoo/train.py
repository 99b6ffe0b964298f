"""Composed config → Trainer → results: one job, from the last checks to its table."""

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from inception_zoo.checkpoints import check_fits, find_checkpoint
from inception_zoo.cost import plan_cost
from inception_zoo.data import ImageData
from inception_zoo.data.module import split_batch
from inception_zoo.errors import ZooError
from inception_zoo.launcher import JobLauncher
from inception_zoo.module import Classifier
from inception_zoo.network import create_model
from inception_zoo.plan import Plan

say = rank_zero_only(logging.getLogger(__name__).info)


def run(cfg: DictConfig) -> dict[str, float]:
    """Train and then test the best checkpoint, or test only. Returns what the table shows."""
    started = time.perf_counter()
    logging.getLogger("lightning").handlers.clear()  # Hydra's handlers print its messages already
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and progress notes
    warnings.filterwarnings("ignore", ".*LeafSpec")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", ".*smaller than the logging interval")
    folder = Path(HydraConfig.get().runtime.output_dir)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    with leaving_nothing_behind():
        check_devices(config["trainer"])
        ckpt = find_checkpoint(cfg.ckpt, cfg.task, folder)
        seed_everything(cfg.seed, workers=True, verbose=False)
        model = create_model(**config["model"])
        if ckpt:
            check_fits(ckpt, model)
            say(f"checkpoint: {ckpt}")
        data: ImageData = instantiate(cfg.data)
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:  # the other ranks read it after a possible download
            data.prepare_data()
        module = Classifier(model, instantiate(cfg.optimizer), instantiate(cfg.scheduler), cfg.label_smoothing, config)
        trainer = make_trainer(cfg)
        split_batch(cfg.data.batch_size, trainer.world_size)
        metrics: dict[str, float] = {}
        if cfg.task == "fit":
            trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
            metrics |= {key: float(value) for key, value in trainer.callback_metrics.items()}
            ckpt = _best(trainer)
        for tested in trainer.test(module, data, ckpt_path=ckpt, weights_only=True, verbose=False):
            metrics |= tested
    metrics["minutes"] = (time.perf_counter() - started) / 60
    if trainer.is_global_zero:
        (folder / "results.json").write_text(json.dumps(metrics, indent=1))
        report(model.plan, cfg.data.image_size, metrics, folder, ckpt)
    return metrics


@contextmanager
def leaving_nothing_behind() -> Iterator[None]:
    """Close the job's W&B run and process group, and restore the environment: the next job of a sweep starts clean."""
    environment, failed = dict(os.environ), True
    try:
        yield
        failed = False
    finally:
        wandb = sys.modules.get("wandb")
        if wandb and wandb.run:
            wandb.finish(exit_code=int(failed))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(environment)


def make_trainer(cfg: DictConfig) -> Trainer:
    precision = cfg.trainer.precision
    if precision == "auto":
        precision, why = auto_precision(cfg.trainer.accelerator)
        say(f"precision: {precision} ({why})")
    callbacks = [instantiate(node) for node in cfg.callbacks.values()]
    check_wandb(cfg.logger)
    loggers = [instantiate(node) for node in cfg.logger.values()]
    trainer: Trainer = instantiate(cfg.trainer, precision=precision, callbacks=callbacks, logger=loggers)
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = JobLauncher(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
    return trainer


def check_wandb(loggers: DictConfig) -> None:
    """ZooError if a W&B run is to go online but nobody is logged in: W&B would ask at the prompt."""
    if any(node.get("offline") is False for node in loggers.values()):
        import wandb

        if not wandb.login(prompt=False):
            raise ZooError("logger.wandb.offline=false needs an API key; run `wandb login` or set WANDB_API_KEY")


def auto_precision(accelerator: str) -> tuple[str, str]:
    """bf16-mixed where this hardware is fast at it, else fp32; and why.

    A CPU's flags do not tell: Intel's AVX512-BF16 without AMX is no faster than fp32, AMD's is twice as fast. So it is
    measured, once per job: processes that this one starts take its word.
    """
    if torch.backends.mps.is_available() and accelerator != "cpu":
        return "32-true", "Apple's GPU"
    if torch.cuda.is_available() and accelerator != "cpu":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16-mixed", "this GPU has bf16") if fast else ("32-true", "this GPU has no bf16")
    if "INCEPTION_ZOO_BF16_SPEEDUP" not in os.environ:
        gain = _matmul_seconds(torch.float32) / _matmul_seconds(torch.bfloat16)
        os.environ["INCEPTION_ZOO_BF16_SPEEDUP"] = f"{gain:.2f}"
    gain = float(os.environ["INCEPTION_ZOO_BF16_SPEEDUP"])
    return "bf16-mixed" if gain >= 1.4 else "32-true", f"bf16 measured at {gain:.2f} times the speed of fp32 on this CPU"


def _matmul_seconds(dtype: torch.dtype, size: int = 1024) -> float:
    matrix = torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return min(times)


def check_devices(trainer: dict[str, Any]) -> None:
    """ZooError if the Trainer is asked for no device, or for more GPUs than there are."""
    devices, accelerator = trainer["devices"], trainer["accelerator"]
    wanted = len(devices) if isinstance(devices, list) else devices
    if devices == "auto":
        return
    if not isinstance(wanted, int) or (wanted < 1 and wanted != -1):
        raise ZooError(f"trainer.devices={devices} must be at least 1, a list of GPU numbers, or auto")
    gpus = torch.cuda.device_count()
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and gpus > 0)
    if on_gpu and wanted > gpus:
        raise ZooError(f"trainer.devices={devices}: this machine has {gpus} GPUs; take fewer, or trainer.accelerator=cpu")


def report(plan: Plan, image_size: int, metrics: dict[str, float], folder: Path, ckpt: Path | None) -> None:
    """The result table, ending in the run folder."""
    cost = plan_cost(plan, image_size)
    table = Table(title=f"{plan.net.name} at {image_size} px", show_header=False)
    table.add_row("parameters", f"{cost.params:,}")
    table.add_row("multiply-adds per image", f"{cost.macs / 1e6:,.0f} M")
    for key in ("train/loss", "train/top1", "val/loss", "val/top1", "test/loss", "test/top1", "test/top5"):
        if key in metrics:
            table.add_row(key, f"{metrics[key]:.4f}")
    if "train/images_per_second" in metrics:
        table.add_row("training speed", f"{metrics['train/images_per_second']:,.0f} images/s")
    table.add_row("time", f"{metrics['minutes']:.1f} min")
    table.add_row("tested checkpoint", short(ckpt) if ckpt else "–")
    table.add_row("run folder", short(folder))
    Console().print(table)


def short(path: Path) -> str:
    """Relative to the current folder where the path lies in it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _best(trainer: Trainer) -> Path | None:
    callback = trainer.checkpoint_callback
    return Path(callback.best_model_path) if isinstance(callback, ModelCheckpoint) and callback.best_model_path else None
