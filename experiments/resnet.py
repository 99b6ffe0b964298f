"""Train timm's ResNet-18 and ResNet-50 with the settings of a sweep, as a reference for the zoo.

    python experiments/resnet.py cost               # → multirun/cost/ResNet-18, seed 1, and so on
    python experiments/resnet.py cost ResNet-50     # one of them

As in the zoo at `model.width=0.25` and `model.stem=small`: a quarter of the channels, and no stride before the first stage.
Runs that finished are not repeated.
"""

import math
import sys
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import torch
from arms import batches, composed
from claims import Results, best_rate
from lightning import Trainer, seed_everything
from omegaconf import OmegaConf
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from inception_zoo.bench.memory import saved_bytes
from inception_zoo.config import CONF
from inception_zoo.network.inception import Outputs
from inception_zoo.runs.results import commit_of_the_code, read_results
from inception_zoo.system.records import write_json
from inception_zoo.training.components import build_data, build_optimizer
from inception_zoo.training.module import Classifier

NETWORKS: dict[str, Any] = {
    "ResNet-18": {"block": BasicBlock, "layers": (2, 2, 2, 2)},
    "ResNet-50": {"block": Bottleneck, "layers": (3, 4, 6, 3)},
}


class Reference(nn.Module):
    """ResNet with the interface that `Classifier` uses: gray images (N, 1, H, W) → logits (N, 10)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        quarter: Any = {"channels": (16, 32, 64, 128), "stem_type": "deep", "stem_width": 8}  # three 3x3 instead of the 7x7
        network: Any = ResNet(**NETWORKS[name], **quarter, num_classes=10, in_chans=1, zero_init_last=False)
        network.conv1[0].stride = 1, 1
        network.maxpool = nn.Identity()
        self.network = network
        self.plan = SimpleNamespace(num_classes=10, aux={})

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def outputs(self, images: Tensor) -> Outputs:
        return Outputs(self(images), {})


def costs(name: str, image_size: int) -> dict[str, float]:
    """Return parameters, multiply-adds per image, and activation memory per image in MiB (fp32)."""
    model, images = Reference(name), torch.zeros(3, 1, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        model.eval()(images[:1])
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "multiply_adds": counter.get_total_flops() / 2,
        "saved_mib": saved_bytes(model.train(), images) / 2**20,
    }


def run(name: str, cfg: Any, folder: Path) -> None:
    """Train, validate and test with the config of a job, and write its record to `folder`."""
    started, begin = datetime.now(UTC).isoformat(timespec="seconds"), monotonic()
    groups = "data", "augmentation", "optimizer", "scheduler"
    config: Any = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in groups}
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = build_data(config)
    data.folder = folder
    module = Classifier(Reference(name), *build_optimizer(cfg, config), cfg.label_smoothing, {})  # type: ignore[arg-type]
    options = {key: cfg.trainer[key] for key in ("precision", "max_epochs", "limit_train_batches", "limit_val_batches")}
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(**options, **quiet, use_distributed_sampler=False, num_sanity_val_steps=0)
    trainer.fit(module, data)
    figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
    figures |= {"val/top1_best": figures["val/top1"], **trainer.test(module, data, verbose=False)[0]}
    config = {"run_name": name, "seed": cfg.seed, "optimizer": {"lr": cfg.optimizer.lr}}
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    write_json(folder / ".hydra/config.yaml", config)  # JSON is YAML
    facts = {"started": started, "commit": commit_of_the_code(), "minutes": (monotonic() - begin) / 60}
    lost = not math.isfinite(figures["test/loss"])
    facts |= {"state": "failed", "reason": f"the loss is {figures['test/loss']}"} if lost else {"state": "finished"}
    write_json(folder / "results.json", {**facts, **costs(name, cfg.data.image_size), **figures})


def main(sweep: str, *names: str) -> None:
    """Train the named networks, or all of them, with every seed and rate of a sweep."""
    params: Any = OmegaConf.load(CONF / f"sweep/{sweep}.yaml").hydra.sweeper.params
    for name, *values in product(names or NETWORKS, *(str(each).split(",") for each in params.values())):
        words = [f"{key}={value}" for key, value in zip(params, values, strict=True)]
        if "optimizer.lr" not in params:
            words += [f"optimizer.lr={best_rate(Results(f'{sweep}_rate'), name)}"]
        words += [f"trainer.limit_train_batches={batches(sweep.removesuffix('_rate'), name)}"]
        folder = Path("multirun", sweep, f"{name}, {'rate' if 'optimizer.lr' in params else 'seed'} {values[-1]}")
        if not read_results(folder):
            run(name, composed(f"sweep={sweep}", *words), folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
