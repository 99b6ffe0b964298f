"""Tables in `architecture/nets`: grid sizes and number of lines."""

import re
from pathlib import Path

import pytest

from inception_zoo.architecture import nets
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.plan import make_plan

FOLDER = Path(nets.__file__).parent
SHAPE = re.compile(r"# (\d+)x(\d+)x(\d+)\b")
KEY = re.compile(r'"(\w+(?:\{i\})?)":')
STAGE = re.compile(r"^(STEM|GRID\d+)\b")


def shapes_by_comment(file, stages):
    """Yield (endpoints, (channels, height, width)) for each grid comment; the last key on its line names the endpoints."""
    lines = [line for line in (FOLDER / f"{file}.py").read_text().splitlines() if SHAPE.search(line)]
    names = [endpoint for endpoints in stages.values() for endpoint in endpoints]
    own = {key for line in lines for key in KEY.findall(line)}
    for line in lines:
        key = (KEY.findall(line) or [""])[-1]
        stage = variable[1].lower() if (variable := STAGE.match(line)) else key
        many = re.compile(key.replace("{i}", r"\w+"))  # an f-string covers every endpoint that has no key
        endpoints = stages.get(stage, [])[-1:] or [n for n in names if n == key or (many.fullmatch(n) and n not in own)]
        assert endpoints, f"{file}.py: no endpoint on the line '{line}'"
        height, width, channels = map(int, SHAPE.search(line).groups())
        yield endpoints, (channels, height, width)


def imported(file):
    """Yield the tables that a table file imports from, directly or not; direct imports come last."""
    for name in re.findall(
        r"from inception_zoo\.architecture\.nets\.(\w+) import (?!AUX$)", (FOLDER / f"{file}.py").read_text(), re.M
    ):
        if name in ZOO:
            yield from imported(name)
            yield name


@pytest.mark.parametrize("name", ZOO)
def test_the_grid_comments_of_a_table_are_its_shapes(name):
    """Checked at the default image size. The last grid of every stage has a comment, in this table or in an imported one."""
    shapes = make_plan(ZOO[name]).shapes(ZOO[name].image_size)
    stages = {stage: list(endpoints) for stage, endpoints in ZOO[name].stages.items()}
    written = {}
    for endpoints, shape in shapes_by_comment(name, stages):
        for endpoint in endpoints:
            assert shapes[endpoint] == shape, endpoint
            written[endpoint] = shape
    for file in imported(name):
        theirs = {stage: list(endpoints) for stage, endpoints in ZOO[file].stages.items()}
        for endpoints, shape in shapes_by_comment(file, theirs):
            written |= {endpoint: shape for endpoint in endpoints if shapes.get(endpoint) == shape}
    assert {endpoints[-1] for endpoints in stages.values()} <= written.keys()


@pytest.mark.parametrize("name", ZOO)
def test_a_table_has_at_most_forty_lines(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 40
