"""Paths in documents exist, and architecture.md shows the layers that import-linter checks."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").rglob("*.md")])
PATH = re.compile(r"(?<![\w./-])(?:inception_zoo|hydra_plugins|conf|tests)/[\w./-]*\w\.(?:py|yaml|cpp|html|js|css)\b")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
GENERATED = {"config.md", "cli.md"}  # pages that docs/generate/pages.py writes into docs/reference
EXAMPLES = {"conf/block/slim.yaml"}  # a file that the reader creates


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_paths_in_documents_exist(document):
    text = document.read_text("utf-8")
    paths = {ROOT / path for path in PATH.findall(text) if path not in EXAMPLES}
    links = {document.parent / link for link in LINK.findall(text) if "://" not in link and not link.startswith("mailto:")}
    found = paths | links
    missing = sorted(str(path) for path in found if not path.exists() and path.name not in GENERATED)
    assert not missing, f"{document.name} names files that do not exist: {missing}"


def test_documents_are_found():
    assert {"README.md", "CHANGELOG.md", "SECURITY.md", "architecture.md"} <= {path.name for path in DOCUMENTS}
    assert PATH.findall("`tests/system/test_docs.py`, see [x](inception_zoo/app.py)") == [
        "tests/system/test_docs.py", "inception_zoo/app.py",
    ]  # fmt: skip


def test_the_map_of_the_rooms_is_true():
    """Each path in backticks exists, in the package or in the repository; the diagram lists the layers in order."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = set(re.findall(r"`([\w./]+(?:/|\.py|\.yaml|\.toml))`", text))
    missing = sorted(path for path in named if not any((root / path).exists() for root in (ROOT, ROOT / "inception_zoo")))
    assert len(named) > 30 and not missing
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"][0]
    layers = [room.strip() for line in contract["layers"] for room in line.split("|")]
    picture = text.split("```")[1].partition(" │\n")[2]
    assert re.findall(r"(\w+)(?:/|\.py)", picture) == layers
