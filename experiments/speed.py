"""Measure how fast the networks of a sweep train: python experiments/speed.py NAME... → results/NAME_speed.csv.

Nothing else should run meanwhile.
"""

import sys
from typing import Any

from arms import BATCH, arms_of
from claims import RESULTS, model_of
from resnet import NETWORKS, TrainsResNet
from summary import machine

from inception_zoo.architecture.choices import LOADING
from inception_zoo.architecture.nets import ZOO, find_net
from inception_zoo.bench.contenders import Case, Contender
from inception_zoo.bench.turns import rates
from inception_zoo.errors import ZooError
from inception_zoo.runs.results import commit_of_the_code
from inception_zoo.system.csv_files import write_table

ROUNDS = 11


def measure(name: str, batch: int = BATCH, rounds: int = ROUNDS) -> None:
    """Train each network of ``conf/sweep/NAME.yaml`` for one step in each of the interleaved rounds, and write its images/s."""
    turns = {arm: Contender().trains(_case(config, batch)) for arm, config in arms_of(name).items()}
    if name == "cost":
        turns |= {each: TrainsResNet().trains(Case(each, ZOO["googlenet"], batch, 32, {}, {}, 10, 1)) for each in NETWORKS}
    facts = [commit_of_the_code() or "", machine()]
    rows = [[arm, index, rate, *facts] for arm, values in rates(turns, rounds).items() for index, rate in enumerate(values)]
    write_table(RESULTS / f"{name}_speed.csv", ["run_name", "round", "images/s", "commit", "machine"], rows)


def _case(config: Any, batch: int) -> Case:
    model = model_of(config)
    net, classes, channels = (model.pop(key) for key in ("name", "num_classes", "in_channels"))
    choices = {key: value for key, value in model.items() if key not in LOADING}
    size = config.data.image_size
    return Case(config.run_name, find_net(net), batch, size, choices, num_classes=classes, in_channels=channels)


if __name__ == "__main__":
    try:
        for each in sys.argv[1:]:
            measure(each)
    except ZooError as error:
        sys.exit(str(error))
