"""Phrases of the project's old dialect stay out of the package, the configs and the documentation."""

import ast
import re

from conftest import ROOT

FOLDERS = ("inception_zoo", "hydra_plugins", "conf", "docs", "experiments")
SUFFIXES = {".py", ".md", ".yaml", ".html", ".js", ".cpp"}
FILES = sorted(
    path for folder in (*FOLDERS, "") for path in (ROOT / folder).glob("**/*" if folder else "*.md") if path.suffix in SUFFIXES
)
PHRASES = {  # → what to write
    r"(?<!there )\b(?:is|are|was) no (?:\w+ )?(?:key|option|file|folder|number|network|image|name|transform)\b": "is not a",
    r"\b(?:go|goes|went|going) on\b": "continue, resume",
    r"\b(?:made|drawn|read|measured|written) (?:again|anew)\b": "recomputed, re-initialized",
    r"\bstrangers?\b": "untrusted file",
    r"\bsaid aloud\b": "logged",
    r"\bgo(?:es)? not together\b": "cannot be combined",
    r"\bso[- ]manieth\b": "every n-th",
    r"\bin turns\b": "interleaved",
    r"\bout of sight\b": "not counted",
    r"\bof ours\b": "of this package",
}
OPENINGS = re.compile(r"(?:What|Which|Whether|How|That)\b")


def test_the_old_phrases_are_gone():
    found = []
    for path in FILES:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            for phrase, better in PHRASES.items():
                if match := re.search(phrase, line, re.IGNORECASE):
                    found.append(f"{path.relative_to(ROOT)}:{number}: '{match[0]}': write '{better}'")
    assert found == []


def test_docstrings_begin_with_what_is_done():
    found = []
    for path in (path for path in FILES if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if OPENINGS.match(text):
                    found.append(f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}: {text.splitlines()[0]}")
    assert found == []


def test_a_phrase_would_be_found():
    assert any(re.search(phrase, "modle is no key of the config") for phrase in PHRASES)
    assert any(re.search(phrase, "the run goes on") for phrase in PHRASES)
