"""Generate pages of the site: config keys, command line, experiments, security, changelog. Run by mkdocs-gen-files."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import mkdocs_gen_files  # noqa: E402
from config_keys import CONF, keys_of, meaning_of, meanings, title  # noqa: E402
from links import COPIED  # noqa: E402


def write(name: str, text: str) -> None:
    with mkdocs_gen_files.open(name, "w") as page:
        page.write(text)


def config_page() -> str:
    """Return a table of keys for every file in conf/."""
    page = [
        "# Configuration keys",
        "",
        "Generated from `conf/` and its comments. Set a key with `KEY=VALUE`; add one that is not",
    ]
    page += ["listed, where a library class takes it, with `+KEY=VALUE`; remove one with `~KEY`.", ""]
    known = meanings()
    for folder in sorted({path.parent for path in CONF.rglob("*.yaml")}, key=lambda path: (path != CONF, path)):
        group = folder.relative_to(CONF).as_posix()
        page += ["## Top-level keys" if folder == CONF else f"## {group}", ""]
        for path in sorted(folder.glob("*.yaml")):
            page += [f"### {path.stem if folder == CONF else f'{group}={path.stem}'}", "", cell(title(path)), ""]
            if keys := [key for key in keys_of(path) if key.value]:
                page += ["| key | default | meaning |", "| --- | --- | --- |"]
                page += [
                    f"| `{key.key}` | {code(key.value)} | {cell(key.meaning or meaning_of(key.key, known))} |" for key in keys
                ]
                page += [""]
    return "\n".join(page)


def code(value: str) -> str:
    return f"`{cell(value)}`" if value else ""


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def command_page() -> str:
    """Return the help of every command, as Typer writes it."""
    command = [sys.executable, "-m", "typer", "inception_zoo.cli.main", "utils", "docs", "--name", "inception-zoo"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


write("reference/config.md", config_page())
write("reference/cli.md", command_page())
for source, target in COPIED.items():
    write(target, (ROOT / source).read_text("utf-8"))
for picture in (ROOT / "experiments").rglob("*.*"):
    if picture.suffix in (".svg", ".png"):
        with mkdocs_gen_files.open(picture.relative_to(ROOT).as_posix(), "wb") as page:
            page.write(picture.read_bytes())
