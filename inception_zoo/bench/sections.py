"""The sections of the bench, by name. Heavy modules load only when their section is measured."""

from collections.abc import Iterable, Sequence
from importlib import import_module

from inception_zoo.architecture.nets import ALIASES, ZOO
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Measured
from inception_zoo.errors import ZooError, did_you_mean

SPEEDRUNS = ("speedrun", "speedrun_full", "speedrun_937")  # ten minutes to hours each: measured where they are named
SECTIONS = {  # section → the function in this package
    "training": "networks.training",
    "memory": "memory.measure",
    "choices": "ablation.measure",
    "evaluation": "networks.evaluation",
    "framework": "framework.measure",
    "data": "pipelines.measure",
    "startup": "startup.measure",
    "scaling": "scaling.measure",
    "roofline": "roofline.measure",
    **{experiment: f"speedruns.{experiment}" for experiment in SPEEDRUNS},
}
USUAL = [section for section in SECTIONS if section not in SPEEDRUNS]
ON_DATA = ("evaluation", "framework", "data", "startup", "scaling", *SPEEDRUNS)  # on Fashion-MNIST
SIZED = ("training", "memory", "evaluation", "roofline")  # for any network, and any input
NAMED = (*SIZED, "scaling")  # for any network


def sorted_out(words: Iterable[str], sized: bool = False) -> tuple[list[str], list[str]]:
    """Words → sections and networks: the usual sections without a word, training and evaluation where only networks are named.

    Args:
        sized: whether a batch or an image size is given.

    Raises:
        ZooError: a word that is neither, or a section that takes no network or no size.
    """
    sections, networks = [], []
    names = [*ZOO, *ALIASES, "tutorial"]
    for word in words:
        if word in SECTIONS:
            sections.append(word)
        elif word in names:
            networks.append(ALIASES.get(word, word))
        else:
            raise ZooError(f"'{word}' is no section and no network; {did_you_mean(word, [*SECTIONS, *names])}")
    sections = sections or (["training", "evaluation"] if networks else USUAL)
    for section in sections:
        if networks and section not in NAMED:
            raise ZooError(f"{section} takes no network; leave {', '.join(networks)} out")
        if sized and section not in SIZED:
            raise ZooError(f"{section} takes no --batch and no --image-size, which are for {', '.join(SIZED)}; name those")
    return sections, networks


def one_network(words: Sequence[str], gib: float) -> str:
    """The network that `--fit` is for; ZooError unless the words are just that."""
    networks = sorted_out(words)[1]
    if len(networks) != 1 or len(words) != 1:
        raise ZooError(f"--fit {gib:g} takes one network, not '{' '.join(words)}': bench --fit {gib:g} inception_v3")
    return networks[0]


def measure(section: str, options: Options) -> Measured:
    module, _, function = SECTIONS[section].partition(".")
    yield from getattr(import_module(f"{__package__}.{module}"), function)(options)
