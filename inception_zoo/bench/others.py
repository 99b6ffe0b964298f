"""Contests that are written beside what they measure: data pipelines, and networks as they are served."""

from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Measured, contested


def data(options: Options) -> Measured:
    from inception_zoo.bench.pipelines import contests

    for name, contest in contests(options.data_root).items():
        yield from contested(f"data/{name.removeprefix('data/')}", contest, options.rounds)
