"""Hypothesis strategies: rows, blocks, choices and configs, for the properties and for `make fuzz`."""

import os
from functools import cache

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from inception_zoo.architecture.choices import VALID
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.notation import ACT, LRN, Conv, Depthwise, Pool, show
from inception_zoo.architecture.plan import make_plan
from inception_zoo.architecture.variants import BLOCKS, REDUCTIONS
from inception_zoo.config import CONF
from inception_zoo.config.hydra_patches import install

FUZZ = "INCEPTION_ZOO_FUZZ" in os.environ
ENDPOINTS = [(name, block) for name, net in ZOO.items() for block in make_plan(net).blocks]


def examples(count):
    """Return Hypothesis settings for `count` examples: the same ones each time, or new ones under INCEPTION_ZOO_FUZZ."""
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    phases = [Phase.explicit, Phase.generate, Phase.shrink]
    how = {"derandomize": not FUZZ, "database": None, "deadline": None, "phases": phases, "suppress_health_check": slow}
    return settings(max_examples=count, **how)


# Rows

kernels = st.tuples(st.integers(1, 9), st.integers(1, 9))
strides = st.integers(1, 3)
paddings = st.sampled_from(["", "v", "s"])
dilations = st.integers(1, 3)
convs = st.builds(
    lambda groups, each, *args, **others: Conv(*args, groups * each, groups, **others),
    *(st.integers(1, 4), st.integers(1, 16), kernels, strides, paddings),
    dilation=dilations,
    linear=st.booleans(),
)
depthwise = st.builds(Depthwise, kernels, strides, paddings, dilation=dilations)
edges = st.sampled_from([("max", "s"), *((kind, edge) for kind in ("max", "avg") for edge in ("", "v", "c"))])
pools = st.builds(lambda kind, kernel, stride: Pool(kernel, stride, kind[1], kind[0]), edges, kernels, strides)
ops = st.one_of(convs, depthwise, pools).filter(lambda op: op.edge or (op.span[0] % 2 and op.span[1] % 2))
alone = st.sampled_from([(LRN,), (ACT,)])
steps = st.one_of(st.tuples(ops), st.lists(ops, min_size=2, max_size=3).map(tuple), alone)
rows = st.lists(steps, min_size=1, max_size=4).map(tuple)

marks = st.sampled_from(
    [*"0123456789x/vcsdgl|> -٣é", "max", "avg", "lrn", "act", "3x3g", "3x3 64", "1x1 8", " > ", " | ", "99999999", "9" * 5000]
)
texts = st.one_of(st.text(max_size=20), st.lists(marks, max_size=8).map("".join))


# Blocks


@st.composite
def blocks(draw):
    """Draw a network, one of its endpoints, and rows with the right number of output channels, or one close to it."""
    name, block = draw(st.sampled_from(ENDPOINTS))
    stride = 2 if block.kind == "reduction" else 1
    count = draw(st.integers(1, min(3, block.c_out)))
    shares = [block.c_out // count] * (count - 1) + [block.c_out - block.c_out // count * (count - 1)]
    edge = draw(st.sampled_from(["v", ""]))
    written = []
    for share in shares:
        kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 7), (5, 5)] if stride == 1 else [(3, 3)]))
        start = [] if draw(st.booleans()) else [(Conv((1, 1), 1, "", draw(st.integers(1, 32))),)]
        written.append(show((*start, (Conv(kernel, stride, edge if stride > 1 else "", share),))))
    if draw(st.booleans()):
        written[draw(st.integers(0, count - 1))] = show(draw(rows))
    residual = {"rows": written, "scale": draw(st.sampled_from([0.1, 1.0]))}
    residual |= {key: draw(st.booleans()) for key in ("shortcut", "project")}
    return name, block.name, draw(st.sampled_from([written, residual]))


# Choices and configs

plain = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), texts),
    st.sampled_from(["", "nan", "1e400", 0, -1, 1, 0.5, 10**30, float("inf"), float("nan")]),
)
keys = st.one_of(st.text(max_size=5), st.integers(0, 3), st.sampled_from(["rows", "scale", "shortcut", "relu", "project"]))
values = st.recursive(plain, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)))
variants = st.sampled_from([*BLOCKS, *REDUCTIONS, "os.path.join", "math.pi", "nothing.here", ".", "x."])
CHOICES = {
    "blocks": st.dictionaries(st.sampled_from(["all", "grid17", "grid14", "mixed_5b", "inception_3a", 3]), variants | values),
    "width": st.floats(0, 4),
    "dropout": st.floats(0, 1),
    "drop_path": st.floats(0, 1),
    "residual_scale": st.floats(0, 1),
    "aux": st.booleans(),
    **{key: st.sampled_from(valid) for key, valid in VALID.items()},
    "freeze": st.sampled_from(["grid17", "mixed_5b", "conv_1a"]),
    "adapt": st.lists(st.sampled_from(["head", "input"]) | values, max_size=2),
    "compile": st.just(False),
    "weights": st.sampled_from(["timm:nothing", "torchvision:IMAGENET1K_V9", "none.pth", "tests"]),
    "num_classes": st.integers(-1, 5),
    "in_channels": st.integers(-1, 5),
}


def one_of_them(choices, chance=values):
    """Return a strategy: some keys with likely values, and one key with any value."""
    likely = st.fixed_dictionaries({}, optional=choices)
    return st.tuples(likely, st.sampled_from(sorted(choices)), chance).map(lambda drawn: drawn[0] | {drawn[1]: drawn[2]})


@cache
def config():
    """Return the main job's config, resolved."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config")
    del cfg.callbacks, cfg.logger, cfg.trainer.default_root_dir  # they depend on the run folder
    return OmegaConf.to_container(cfg, resolve=True) | {"callbacks": {}, "logger": {}}


def with_value(node, dotted, value):
    """Return a copy of the config with one value replaced."""
    name, _, rest = dotted.partition(".")
    return {**node, name: with_value(node[name], rest, value) if rest else value}
