"""Contests that stand in files of their own: data pipelines, and networks as they are served.

Each file has ``contests(data_root) -> {name: {label: turn}}`` of images/s, and may have ``figures(data_root)``, which yields
what is no speed, as ``(name, Figure)``.
"""

from importlib import import_module

from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Measured, contested


def data(options: Options) -> Measured:
    """With one thread, so that it is a core's work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _of("pipelines", "data", options)
    finally:
        torch.set_num_threads(threads)


def served(options: Options) -> Measured:
    yield from _of("serving", "evaluation", options)


def _of(file: str, section: str, options: Options) -> Measured:
    module = import_module(f"{__package__}.{file}")
    for name, contest in module.contests(options.data_root).items():
        yield from contested(f"{section}/{name.removeprefix(f'{section}/')}", contest, options.rounds)
    if hasattr(module, "figures"):
        for name, figure in module.figures(options.data_root):
            yield f"{section}/{name.removeprefix(f'{section}/')}", figure
