"""Property tests by Hypothesis over generated rows, choices and configs.

The test suite repeats the same examples; `make fuzz` generates new ones.
"""

import re
from collections.abc import Mapping

from hypothesis import assume, example, given
from hypothesis import strategies as st
from tools.examples import CHOICES, blocks, config, examples, one_of_them, rows, texts, values, with_value

from inception_zoo import create_model
from inception_zoo.architecture.choices import VALID
from inception_zoo.architecture.nets import ZOO, find_net
from inception_zoo.architecture.notation import Conv, parse, show
from inception_zoo.architecture.plan import make_plan, plan_of
from inception_zoo.config.check import check
from inception_zoo.errors import ZooError
from inception_zoo.runs.results import flattened

# Rows


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


def planned(name, **choices):
    """Return a valid plan, or None if the choices raise a ZooError."""
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
    with torch.device("meta"):  # torch computes shapes, but no values
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


@examples(200)
@given(st.data())
def test_any_value_of_any_key_passes_the_check_or_is_a_zoo_error(data):
    groups = [name for name, node in config().items() if isinstance(node, Mapping)]
    keys = st.lists(st.sampled_from([*flattened(config()), *groups]), min_size=1, max_size=2, unique=True)
    changed = config()
    for dotted in sorted(data.draw(keys, label="keys"), key=len, reverse=True):  # longest first: a key before its group
        changed = with_value(changed, dotted, data.draw(values, label=dotted))
    try:
        check(changed)
    except ZooError:
        return
    plan_of(changed["model"]).shapes(changed["data"]["image_size"])
