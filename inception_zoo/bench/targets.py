"""The targets that the project has set itself on a CPU of two cores, and what was measured of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inception_zoo.bench.turns import Figure, Figures

NAMES = {
    "googlenet_bn": "GoogLeNet",
    "inception_v3": "Inception-v3",
    "inception_v4": "Inception-v4",
    "inception_resnet_v2_slim": "Inception-ResNet-v2",
}
PEERS = {
    "googlenet_bn": ("torchvision",),
    "inception_v3": ("torchvision", "timm"),
    "inception_v4": ("timm",),
    "inception_resnet_v2_slim": ("timm",),
}
SHARE = "share of the GEMM peak"
PEER = "whoever else is in the contest"


@dataclass(frozen=True)
class Target:
    """A bound on a ratio of two figures, on a figure, or on its share of the GEMM peak. Of several pairs the worst counts."""

    name: str
    sense: str  # ">=" or "<="
    bound: float
    pairs: Sequence[tuple[str, str | None]]  # (figure, what it is divided by: another figure, PEER, SHARE, or nothing)

    def measured(self, figures: Figures) -> Figure | None:
        """The worst of the pairs; None where one was not measured."""
        found = [_measured(figures, *pair) for pair in self.pairs]
        known = [each for each in found if each]
        if len(known) < len(found):
            return None
        return (min if self.sense == ">=" else max)(known, key=lambda figure: figure.median)

    def verdict(self, figures: Figures) -> str:
        measured = self.measured(figures)
        if measured is None:
            return "not measured"
        met = measured.median >= self.bound if self.sense == ">=" else measured.median <= self.bound
        return "met" if met else "missed"


def _measured(figures: Figures, figure: str, over: str | None) -> Figure | None:
    if figure not in figures:
        return None
    if over is None:
        return figures[figure]
    if over == SHARE:
        share = figures[figure].share
        return None if share is None else Figure("share", [share])
    if over == PEER:
        group = figure.rpartition("/")[0]
        over = next((name for name in figures if name.rpartition("/")[0] == group and name != figure), over)
    return figures[figure].over(figures[over]) if over in figures else None


def _against(section: str, name: str, how: str) -> list[tuple[str, str]]:
    return [(f"{section}/{name}/inception_zoo", f"{section}/{name}/{peer}{how}") for peer in PEERS[name]]


def _training() -> Iterator[Target]:
    shipped = dict(zip(NAMES, (3.0, 2.5, 2.3, 2.3), strict=True))
    for name, bound in shipped.items():
        yield Target(f"training {NAMES[name]}, peers as shipped", ">=", bound, _against("training", name, ""))
    for name in NAMES:
        yield Target(f"training {NAMES[name]}, peers tuned", ">=", 1.10, _against("training", name, " tuned"))
    tuned = [pair for name in NAMES for pair in _against("training", name, " tuned")]
    tuned.append(("training/tutorial/inception_zoo", "training/tutorial/d2l tuned"))
    yield Target("training, the worst of all against tuned", ">=", 1.0, tuned)
    for name in ("inception_v3", "inception_v4"):
        yield Target(f"training {NAMES[name]}, share of GEMM peak", ">=", 0.85, [(f"training/{name}/inception_zoo", SHARE)])
    outside = "training/inception_v3 outside convolutions"
    yield Target(
        "time outside convolutions, V3, over torchvision's",
        "<=",
        0.8,
        [(f"{outside}/inception_zoo", f"{outside}/torchvision tuned")],
    )


def _memory() -> Iterator[Target]:
    for mode, saved, time in (("lean", 0.50, 1.05), ("minimal", 0.15, 1.40)):
        for name in NAMES:
            pairs = [(f"memory/{name}/saved/{mode}", f"memory/{name}/saved/{peer}") for peer in PEERS[name]]
            yield Target(f"saved for backward, {mode}, {NAMES[name]}, over peer's", "<=", saved, pairs)
        for name in NAMES:
            pairs = [(f"memory/{name}/speed/plain", f"memory/{name}/speed/{mode}")]
            yield Target(f"time of {mode}, {NAMES[name]}, over plain", "<=", time, pairs)
    for name in NAMES:
        pairs = [(f"memory/{name}/peak/{mode}", f"memory/{name}/peak/plain") for mode in ("lean", "minimal")]
        yield Target(f"peak memory of lean and minimal, {NAMES[name]}, over plain", "<=", 0.999, pairs)


def _evaluation() -> Iterator[Target]:
    for name in NAMES:
        pairs = _against("evaluation/folded", name, " tuned")
        yield Target(f"evaluation {NAMES[name]}, folded, peers tuned", ">=", 1.10, pairs)
    int8 = _against("evaluation/int8", "inception_v3", " tuned")
    yield Target("evaluation Inception-v3, int8, peers tuned", ">=", 1.7, int8)
    yield Target("points of accuracy lost in int8", "<=", 0.5, [("evaluation/int8/points lost", None)])


def _speedruns() -> Iterator[Target]:
    goals = (("speedrun", 0.888, 50), ("speedrun_full", 0.888, 30), ("speedrun_937", 0.937, 4))
    for experiment, accuracy, part in goals:
        yield Target(f"{experiment}, test accuracy", ">=", accuracy, [(f"{experiment}/test accuracy/inception_zoo", None)])
        times = f"{experiment}, time over the tutorial's ten epochs (1/{part})"
        yield Target(times, "<=", 1 / part, [(f"{experiment}/time/inception_zoo", PEER)])


TARGETS = (
    *_training(),
    *_memory(),
    *_evaluation(),
    Target("run.py over a bare PyTorch loop", ">=", 0.97, [("framework/loop/inception_zoo", "framework/loop/bare PyTorch")]),
    Target(
        "two processes over one with two threads",
        ">=",
        0.95,
        [("framework/processes/2 processes", "framework/processes/1 process")],
    ),
    Target("Fashion-MNIST at 96 px over the tutorial's DataLoader", ">=", 20, [("data/fashion_mnist_96/inception_zoo", PEER)]),
    Target("JPEG folder at 299 px over torchvision's, a core", ">=", 1.5, [("data/jpeg_299/inception_zoo", PEER)]),
    Target("stream over folder", ">=", 1.0, [("data/stream/inception_zoo", PEER)]),
    Target("run.py --help, s", "<=", 1.0, [("startup/run.py --help", None)]),
    Target("run.py --cfg job, s", "<=", 1.0, [("startup/run.py --cfg job", None)]),
    Target("first training step of make run, s", "<=", 10.0, [("startup/first step of make run", None)]),
    Target("import of create_model beyond torch's, s", "<=", 0.3, [("startup/import create_model beyond torch", None)]),
    *_speedruns(),
)
