"""Sections of the benchmark, by name. Heavy modules are imported only when their section is measured."""

from collections.abc import Iterable, Sequence
from importlib import import_module

from inception_zoo.architecture.nets import ALIASES, ZOO
from inception_zoo.bench.options import Options
from inception_zoo.bench.turns import Measured
from inception_zoo.errors import ZooError, did_you_mean

SPEEDRUNS = ("speedrun", "speedrun_full", "speedrun_937")  # ten minutes to hours each: measured only if named
SECTIONS = {  # section → the function in this package
    "training": "networks.training",
    "profile": "profile.measure",
    "memory": "memory.measure",
    "choices": "ablation.measure",
    "evaluation": "networks.evaluation",
    "serving": "runtimes.measure",
    "framework": "framework.measure",
    "data": "pipelines.measure",
    "startup": "startup.measure",
    "scaling": "scaling.measure",
    "roofline": "projection.measure",
    "fid": "fid.measure",
    **{experiment: f"speedruns.{experiment}" for experiment in SPEEDRUNS},
}
USUAL = [
    section for section in SECTIONS if section not in ("profile", "serving", "fid", *SPEEDRUNS)
]  # the peers of fid are installed for tests only
ON_DATA = ("evaluation", "framework", "data", "startup", "scaling", "fid", *SPEEDRUNS)  # these need Fashion-MNIST
SIZED = ("training", "profile", "memory", "evaluation", "roofline")  # these take any network and any input
NAMED = (*SIZED, "serving", "scaling")  # these take any network


def sorted_out(words: Iterable[str], sized: bool = False) -> tuple[list[str], list[str]]:
    """Return the sections and the networks that command-line words name.

    Without a section they are training and evaluation if networks are named, else all usual sections.

    Args:
        words: names of sections and networks, in any order.
        sized: True if a batch or an image size is given.

    Raises:
        ZooError: a word is neither a section nor a network, or a section does not take a network or an input size.
    """
    sections, networks = [], []
    names = [*ZOO, *ALIASES, "tutorial"]
    for word in words:
        if word in SECTIONS:
            sections.append(word)
        elif word in names:
            networks.append(ALIASES.get(word, word))
        else:
            raise ZooError(f"'{word}' is neither a section nor a network; {did_you_mean(word, [*SECTIONS, *names])}")
    sections = sections or (["training", "evaluation"] if networks else USUAL)
    for section in sections:
        if networks and section not in NAMED:
            raise ZooError(f"{section} does not take a network; leave {', '.join(networks)} out")
        if sized and section not in SIZED:
            raise ZooError(f"{section} does not take --batch or --image-size; name sections that do: {', '.join(SIZED)}")
    return sections, networks


def one_network(words: Sequence[str], gib: float) -> str:
    """Return the network for `--fit`.

    Args:
        words: words of the command line.
        gib: value of `--fit`, for the error message.

    Raises:
        ZooError: the words are not exactly one network.
    """
    networks = sorted_out(words)[1]
    if len(networks) != 1 or len(words) != 1:
        raise ZooError(f"--fit {gib:g} takes one network, not '{' '.join(words)}'; try: bench --fit {gib:g} inception_v3")
    return networks[0]


def measure(section: str, options: Options) -> Measured:
    """Measure a section, and yield each figure as soon as it is known."""
    module, _, function = SECTIONS[section].partition(".")
    yield from getattr(import_module(f"{__package__}.{module}"), function)(options)
