"""What must hold whatever is written: generated rows, choices and configs, by Hypothesis.

The suite repeats the same examples; `make fuzz` draws new ones.
"""

import os
import re
from collections.abc import Mapping
from functools import cache

from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from inception_zoo import create_model
from inception_zoo.architecture.choices import VALID
from inception_zoo.architecture.nets import ZOO, find_net
from inception_zoo.architecture.notation import Conv, Lrn, Pool, parse, show
from inception_zoo.architecture.plan import make_plan, plan_of
from inception_zoo.architecture.variants import BLOCKS, REDUCTIONS
from inception_zoo.config import CONF
from inception_zoo.config.check import check
from inception_zoo.config.hydra_patches import install
from inception_zoo.errors import ZooError
from inception_zoo.runs.results import flattened

FUZZ = "INCEPTION_ZOO_FUZZ" in os.environ
ENDPOINTS = [(name, block) for name, net in ZOO.items() for block in make_plan(net).blocks]


def examples(count):
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    phases = [Phase.explicit, Phase.generate, Phase.shrink]
    how = {"derandomize": not FUZZ, "database": None, "deadline": None, "phases": phases, "suppress_health_check": slow}
    return settings(max_examples=count, **how)


# Rows

kernels = st.tuples(st.integers(1, 9), st.integers(1, 9))
strides = st.integers(1, 3)
convs = st.builds(Conv, kernels, strides, st.sampled_from(["", "v"]), st.integers(1, 64))
pools = st.builds(Pool, st.sampled_from(["max", "avg"]), kernels, strides, st.sampled_from(["", "v", "c"]))
ops = st.one_of(convs, pools).filter(lambda op: op.edge or (op.kernel[0] % 2 and op.kernel[1] % 2))
steps = st.one_of(st.tuples(ops), st.lists(ops, min_size=2, max_size=3).map(tuple), st.just((Lrn(),)))
rows = st.lists(steps, min_size=1, max_size=4).map(tuple)

marks = st.sampled_from([*"0123456789x/vc|> -٣é", "max", "avg", "lrn", "3x3 64", "1x1 8", " > ", " | ", "99999999", "9" * 5000])
texts = st.one_of(st.text(max_size=20), st.lists(marks, max_size=8).map("".join))


@examples(200)
@given(rows)
def test_a_row_that_is_shown_reads_as_itself(row):
    assert parse(show(row)) == row


@examples(100)
@given(rows, st.sampled_from([" ", "  ", "\t"]))
def test_a_row_is_shown_in_one_way_however_it_was_spaced(row, space):
    loose = re.sub(r" ?([>|]) ?", rf"{space}\1{space}", show(row)).replace(" ", space)
    assert show(parse(loose)) == show(row)


@examples(300)
@given(texts)
@example("3x3 00")
@example("3x3 ٠")
@example("3x3 " + "9" * 5000)
def test_any_text_is_a_row_or_an_error_that_shows_it(text):
    try:
        row = parse(text)
    except ZooError as error:
        assert text in str(error) or repr(text) in str(error)
    else:
        assert parse(show(row)) == row
        assert all(op.width > 0 for step in row for op in step if isinstance(op, Conv))


# Blocks


@st.composite
def blocks(draw):
    """A network, one of its endpoints, and rows for it that give the channels that are due, or nearly so."""
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
    residual = {"rows": written, "scale": draw(st.sampled_from([0.1, 1.0])), "shortcut": draw(st.booleans())}
    return name, block.name, draw(st.sampled_from([written, residual]))


def planned(name, **choices):
    """A plan and its shapes at the usual size, or None where they are refused."""
    try:
        plan = make_plan(find_net(name), 10, **choices)
        shapes = plan.shapes(plan.net.image_size)
    except ZooError as error:
        assert str(error) == " ".join(str(error).split()), "an error is one line"
        return None
    assert all(side > 0 for shape in shapes.values() for side in shape)
    return plan


@examples(200)
@given(blocks())
def test_rows_anywhere_make_a_plan_or_an_error_that_names_the_place(chosen):
    name, endpoint, spec = chosen
    plan = planned(name, blocks={endpoint: spec})
    assert plan is None or endpoint in plan.swapped


@examples(8)
@given(blocks(), st.sampled_from(VALID["norm"]))
def test_what_can_be_planned_can_be_built_and_run(chosen, norm):
    import torch

    name, endpoint, spec = chosen
    choices = {"blocks": {endpoint: spec}, "norm": norm, "aux": False}
    plan = planned(name, **choices)
    assume(plan is not None and plan.blocks[-1].c_out < 4096)
    side = plan.min_image_size()
    with torch.device("meta"):  # shapes are computed by torch, numbers are not
        model = create_model(name, 10, **choices).eval()
        maps = model.endpoints(torch.empty(2, 3, side, side))
    assert {endpoint: tuple(found.shape[1:]) for endpoint, found in maps.items()} == plan.shapes(side)


@examples(3)
@given(blocks(), st.sampled_from(["relu", "silu", "mish"]))
def test_and_trains(chosen, activation):
    import torch

    name, endpoint, spec = chosen
    narrow = {"blocks": {endpoint: spec}, "width": 0.25, "activation": activation, "stem": "small"}
    plan = planned(name, **narrow)
    assume(plan is not None)
    side = max(plan.min_image_size(), 32)
    side = next((size for size in range(side, side + 64) if plan.fits(size)), None)
    assume(side is not None)
    outputs = create_model(name, 10, **narrow).outputs(torch.randn(2, 3, side, side))
    sum(logits.sum() for logits in (outputs.logits, *outputs.aux.values())).backward()
    assert outputs.logits.shape == (2, 10)


# Choices and configs

plain = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), texts),
    st.sampled_from(["", "nan", "1e400", 0, -1, 1, 0.5, 10**30, float("inf"), float("nan")]),
)
keys = st.one_of(st.text(max_size=5), st.integers(0, 3), st.sampled_from(["rows", "scale", "shortcut", "relu"]))
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
    """Some keys with likely values, and one with anything at all."""
    likely = st.fixed_dictionaries({}, optional=choices)
    return st.tuples(likely, st.sampled_from(sorted(choices)), chance).map(lambda drawn: drawn[0] | {drawn[1]: drawn[2]})


@examples(60)
@given(st.sampled_from(sorted(ZOO)), one_of_them(CHOICES) | st.fixed_dictionaries({}, optional=CHOICES))
def test_any_choice_makes_a_model_or_a_zoo_error(name, chosen):
    import torch

    assume(not isinstance(chosen.get("num_classes"), int) or chosen["num_classes"] < 1000)
    assume(not isinstance(chosen.get("in_channels"), int) or chosen["in_channels"] < 1000)
    try:
        with torch.device("meta"):
            create_model(name, **chosen)
    except ZooError:
        pass


@cache
def config():
    """The main job's config, every value final."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config")
    del cfg.callbacks, cfg.logger, cfg.trainer.default_root_dir  # they know the run's folder
    return OmegaConf.to_container(cfg, resolve=True) | {"callbacks": {}, "logger": {}}


def with_value(node, dotted, value):
    """A copy in which one key is another."""
    name, _, rest = dotted.partition(".")
    return {**node, name: with_value(node[name], rest, value) if rest else value}


@examples(200)
@given(st.data())
def test_any_value_of_any_key_passes_the_check_or_is_a_zoo_error(data):
    groups = [name for name, node in config().items() if isinstance(node, Mapping)]
    keys = st.lists(st.sampled_from([*flattened(config()), *groups]), min_size=1, max_size=2, unique=True)
    changed = config()
    for dotted in sorted(data.draw(keys, label="keys"), key=len, reverse=True):  # a key before its group
        changed = with_value(changed, dotted, data.draw(values, label=dotted))
    try:
        check(changed)
    except ZooError:
        return
    plan_of(changed["model"]).shapes(changed["data"]["image_size"])
