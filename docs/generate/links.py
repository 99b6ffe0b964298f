"""Rewrite links between files of the repository as links to pages of the site, or to the source. A hook of MkDocs."""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Source"]
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)([^)]*)\)")
COPIED = {  # file of the repository → page
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "experiments/benchmarks/README.md": "experiments/benchmarks/index.md",
    "experiments/benchmarks/avx2/README.md": "experiments/benchmarks/avx2/index.md",
    **{f"experiments/{path.name}": f"experiments/{path.name}" for path in (ROOT / "experiments").glob("*.md")},
    "experiments/README.md": "experiments/index.md",
}
ORIGINS = {page: file for file, page in COPIED.items()}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of one page."""
    name = page.file.src_uri
    folder = (ROOT / ORIGINS.get(name, f"docs/{name}")).parent
    markdown = re.sub("^```(bash|python) no-run", r"```\1", markdown, flags=re.MULTILINE)  # for tests/system/test_snippets.py
    return LINK.sub(lambda match: f"]({_led(folder, match[1], name)}{match[2]})", markdown)


def _led(folder: Path, link: str, page: str) -> str:
    path = (folder / link).resolve()
    if not path.exists():
        return link
    file = path.relative_to(ROOT).as_posix()
    own = file.removeprefix("docs/") if file.startswith("docs/") else file if path.suffix in (".svg", ".png") else None
    if target := COPIED.get(file, own):
        return "../" * page.count("/") + target
    return f"{SOURCE}/{'tree' if path.is_dir() else 'blob'}/main/{file}"
