"""Tests share helpers through conftest.py and tests/tools, never by importing another test."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_test_is_imported():
    files = sorted(TESTS.rglob("*.py"))
    imports = [(file.name, name) for file in files for name in _imported(ast.parse(file.read_text("utf-8")))]
    assert ("fuzz.py", "tools.examples") in imports
    assert [(file, name) for file, name in imports if name.rpartition(".")[2].startswith("test_")] == []


def _imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
