"""Measure how fast the networks of a sweep train: python experiments/speed.py NAME... → results/NAME_speed.csv.

Nothing else should run meanwhile.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from arms import BATCH, arms_of
from claims import RESULTS, model_of
from omegaconf import OmegaConf
from resnet import NETWORKS, Reference
from summary import machine
from torch.nn import functional as F

from inception_zoo.architecture.plan import plan_of
from inception_zoo.bench.turns import rates
from inception_zoo.errors import ZooError
from inception_zoo.network.inception import Inception
from inception_zoo.runs.results import commit_of_the_code
from inception_zoo.system.csv_files import write_table
from inception_zoo.training.components import build

ROUNDS = 11


def measure(name: str, batch: int = BATCH, rounds: int = ROUNDS) -> None:
    """Train each network of ``conf/sweep/NAME.yaml`` for one step in each of the interleaved rounds, and write its images/s."""
    arms = arms_of(name)
    turns = {arm: _step(Inception(plan_of(model_of(config))), config, batch) for arm, config in arms.items()}
    if name == "cost":
        turns |= {each: _step(Reference(each), next(iter(arms.values())), batch) for each in NETWORKS}
    facts = [commit_of_the_code() or "", machine()]
    rows = [[arm, index, rate, *facts] for arm, values in rates(turns, rounds).items() for index, rate in enumerate(values)]
    write_table(RESULTS / f"{name}_speed.csv", ["run_name", "round", "images/s", "commit", "machine"], rows)


def _step(model: Inception | Reference, config: Any, batch: int) -> Callable[[], float]:
    """Return a function that trains on one batch, with the study's optimizer and bf16, and returns the number of images."""
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = build("optimizer", OmegaConf.to_container(config.optimizer))(model.parameters())
    size = config.data.image_size
    images = torch.randn(batch, 1, size, size).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images), labels, label_smoothing=config.label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return batch

    return step


if __name__ == "__main__":
    try:
        for each in sys.argv[1:]:
            measure(each)
    except ZooError as error:
        sys.exit(str(error))
