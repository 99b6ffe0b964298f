"""Types for editors and mypy: complete annotations of the public names, and choices that are named in one way only."""

import importlib
import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
from omegaconf import OmegaConf

import inception_zoo
from inception_zoo.architecture.choices import ADAPT, LOADING, Adapt, Choices, Options
from inception_zoo.models import create_model

ROOT = Path(inception_zoo.__file__).parents[1]
DOCUMENTED = re.findall(r"^::: (\S+)", (ROOT / "docs/reference/api.md").read_text(), re.M)
PUBLIC = sorted({*DOCUMENTED, *(f"inception_zoo.{name}" for name in inception_zoo.__all__)})


def found(path):
    """Return the object of a dotted path: a module, or a name in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def functions_of(path):
    """Yield the public functions and methods of a documented object, which this package has written."""
    thing = found(path)
    within = vars(thing).items() if inspect.ismodule(thing) or inspect.isclass(thing) else [("", thing)]
    for name, each in within:
        each = getattr(each, "fget", None) or getattr(each, "__func__", each)
        own = getattr(each, "__module__", "").startswith("inception_zoo") and (not name.startswith("_") or name == "__init__")
        if own and inspect.isclass(each) and inspect.ismodule(thing) and each.__module__ == path:
            yield from functions_of(f"{path}.{name}")
        elif own and inspect.isfunction(each):
            yield each


@pytest.mark.parametrize("path", PUBLIC)
def test_public_names_are_annotated(path):
    if inspect.isclass(found(path)):
        get_type_hints(found(path))
    for function in functions_of(path):
        hints = get_type_hints(function)
        named = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
        assert {"return", *named} <= set(hints), f"{function.__qualname__}: {sorted({'return', *named} - set(hints))}"


def test_the_check_sees_functions_and_methods():
    seen = {function.__qualname__ for path in PUBLIC for function in functions_of(path)}
    assert seen >= {
        "create_model",
        "load_weights",
        "Inception.endpoints",
        "Inception.__init__",
        "Plan.sizes",
        "Plan.stride",
        "look",
    }


def without_none(hint):
    parts = [part for part in get_args(hint) if part is not NoneType] if NoneType in get_args(hint) else [hint]
    return Union[tuple(parts)]  # noqa: UP007 -- built from a list


def test_choices_have_one_set_of_names_types_and_defaults():
    options, choices = get_type_hints(Options), get_type_hints(Choices)
    assert list(options) == list(choices)
    assert {key: without_none(hint) for key, hint in options.items()} == {k: without_none(h) for k, h in choices.items()}
    conf = OmegaConf.load(ROOT / "conf/model/base.yaml")
    usual = {f.name: f.default for f in fields(Choices) if f.default is not MISSING}
    assert {key: conf[key] for key in usual} == usual and conf.blocks == {"all": None}
    assert list(conf) == ["name", "num_classes", "in_channels", *choices, *LOADING]


def test_create_model_has_the_loading_options_of_conf():
    signature = inspect.signature(create_model).parameters
    named = {key: each.default for key, each in signature.items() if each.kind is each.KEYWORD_ONLY}
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in named.items()} == LOADING
    assert get_args(Adapt) == tuple(ADAPT)
    literal = {key for key, hint in get_type_hints(Choices).items() if get_origin(without_none(hint)) is Literal}
    assert literal == {"norm", "stem", "activation", "head", "init"}


RIGHT = """
from inception_zoo import create_model, load_weights
def block(c_in: int, c_out: int, level: int) -> list[str]:
    return [f"1x1 {c_out}"]
model = create_model("inception_v3", 10, norm="group", stem="small", blocks={"grid17": "residual", "grid8": block}, aux=None)
load_weights(model, "x.pth", adapt=["head"])
"""
WRONG = """
from inception_zoo import create_model, load_model
create_model("inception_v3", stme="small")
create_model("inception_v3", stem="smal")
create_model("inception_v3", width="1")
create_model("inception_v3", memory="leen")
load_model("x", trsut=True)
"""
FOUND = (
    'keyword argument "stme"',
    "\"Literal['smal']\"",
    'Argument "width"',
    "\"Literal['leen']\"",
    'keyword argument "trsut"',
)


@pytest.mark.slow
def test_mypy_finds_a_wrong_choice(tmp_path):
    from mypy import api

    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "mypy.ini").write_text("[mypy]\nignore_missing_imports = true\nfollow_imports = silent\n")
    words = ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache")]
    output, errors, _ = api.run([*words, str(tmp_path / "right.py"), str(tmp_path / "wrong.py")])
    lines = [line for line in output.splitlines() if ": error: " in line]
    assert not errors and not any("right.py" in line for line in lines), output
    assert len(lines) == len(FOUND) and all(text in line for text, line in zip(FOUND, lines, strict=True)), output
