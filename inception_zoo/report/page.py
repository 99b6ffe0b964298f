"""Runs → the page: a template, its style and scripts, Plotly, and all data as one block of JSON."""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import mean
from typing import Any

from inception_zoo import __version__
from inception_zoo.errors import ZooError, check_installed
from inception_zoo.report.collect import Run, as_words, collect, is_place
from inception_zoo.report.details import network_key, network_picture, read_details

NETWORKS = 12  # drawn at most
DETAILS = 8_000_000  # bytes of tables and pictures at most, spent on the best runs first
SHOWN_ELSEWHERE = ("model", "block", "seed")  # in columns of their own


def write_report(folders: Sequence[Path], out: Path, warn: Callable[[str], None]) -> str:
    """Write the page of every run in and beneath `folders`; `warn` gets a line for each thing that is left out.

    Returns:
        What is on the page, in one line.

    Raises:
        ZooError: Plotly is missing, `out` cannot be written, or there is no run.
    """
    check_installed("plotly", "report", "inception-zoo report")
    if not out.parent.is_dir():
        raise ZooError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise ZooError(f"--out {out} is a folder; give the name of a file, such as {out}/report.html")
    runs = collect(folders, warn)
    data = page_data(runs, warn)
    try:
        out.write_text(page(data, " ".join(map(str, folders))), encoding="utf-8")
    except OSError as error:
        raise ZooError(f"--out {out} cannot be written: {error.strerror}") from None
    groups = len({run["group"] for run in data["runs"]})
    return f"{len(runs)} run{'s' * (len(runs) != 1)} in {groups} group{'s' * (groups != 1)}"


def page_data(runs: Sequence[Run], warn: Callable[[str], None]) -> dict[str, Any]:
    """All that the page knows, as plain data; rows of `runs` refer to `networks` by number."""
    groups = sorted(grouped(runs), key=lambda group: -mean(run.accuracy for run in group))
    base = dict(runs[0].config)
    rows = {run: _row(run, base) for run in runs}
    for number, group in enumerate(groups):
        for run in group:
            rows[run]["group"] = number
    leaders = [max(group, key=lambda run: run.accuracy) for group in groups]
    room = DETAILS
    for run in dict.fromkeys([*leaders, *(run for group in groups for run in group)]):
        if room > 0:
            rows[run]["details"] = read_details(run, warn)
            room -= len(json.dumps(rows[run]["details"]))
    pictures, distinct = _networks(leaders, warn)
    keys = {run: network_key(run) for run in runs}
    for run, row in rows.items():
        row["network"] = distinct.get(keys[run] or "")
    return {
        "runs": list(rows.values()),
        "varying": varying(runs),
        "config": base,
        "networks": pictures,
        "distinct": len({key for key in keys.values() if key}),
    }


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ only in `seed`, and in where they wrote, together; a run without a config stays alone."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        flat = {key: value for key, value in as_words(run.composed).items() if key != "seed" and not is_place(key)}
        groups.setdefault(json.dumps(flat, sort_keys=True) if flat else str(run.folder), []).append(run)
    return list(groups.values())


def varying(runs: Sequence[Run]) -> list[str]:
    """The words of the command lines that differ between runs, but for those that have a column of their own."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [
        key
        for key in keys
        if key not in SHOWN_ELSEWHERE
        and not key.startswith("model.blocks.")
        and not is_place(key)
        and len({_said(run, key) for run in runs}) > 1
    ]


def _said(run: Run, key: str) -> str | None:
    """The run's word, or what its config has where the word was left out."""
    return run.overrides.get(key, run.config.get(key))


def _row(run: Run, base: dict[str, str]) -> dict[str, Any]:
    """`config` holds what differs from `base`; null: the key is not there."""
    differs = {key: run.config.get(key) for key in (*base, *run.config) if run.config.get(key) != base.get(key)}
    return {
        "name": run.name,
        "folder": str(run.folder),
        "state": run.state,
        "reason": run.reason,
        "seed": run.seed,
        "started": run.started,
        "model": run.model,
        "swapped": run.swapped,
        "size": run.image_size,
        **{key: _digits(value) for key, value in run.figures.items()},
        "curves": {name: [epochs, list(map(_digits, values))] for name, (epochs, values) in run.curves.items()},
        "overrides": {key: _said(run, key) for key in run.overrides},
        "config": differs,
        "resolved": run.is_resolved,
    }


def _digits(value: float | None) -> float | int | None:
    """Six digits, of counts all."""
    return value if value is None or value == int(value) else float(f"{value:.6g}")


def _networks(leaders: Sequence[Run], warn: Callable[[str], None]) -> tuple[list[str], dict[str, int]]:
    """Pictures of distinct networks, the best groups' first, and which of them a key has."""
    pictures: list[str] = []
    numbers: dict[str, int] = {}
    tried: set[str] = set()
    for run in leaders:
        key = network_key(run)
        if key is None or key in tried or len(tried) == NETWORKS:
            continue
        tried.add(key)
        try:
            pictures.append(network_picture(run))
            numbers[key] = len(pictures) - 1
        except ZooError as error:
            warn(f"{run.folder}: its network is not drawn: {error}")
    return pictures, numbers


def page(data: dict[str, Any], source: str) -> str:
    """The HTML. Its policy lets it load nothing and run only its own two scripts."""
    from plotly.offline import get_plotlyjs

    own = files(__package__)
    style = (own / "page.css").read_text(encoding="utf-8")
    charts = _script(get_plotlyjs())
    script = _script("\n".join((own / name).read_text(encoding="utf-8") for name in ("charts.js", "page.js")))
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_fingerprint(charts)} {_fingerprint(script)}"
    )
    parts = {
        "policy": policy,
        "style": style,
        "source": escape(source),
        "made": datetime.now().astimezone().strftime("%-d %B %Y, %H:%M"),
        "version": __version__,
        # No `<` in the block: neither a tag nor a comment can begin in it.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "plotly": charts,
        "script": script,
    }
    template = (own / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)


def _script(text: str) -> str:
    """JavaScript as it may stand in HTML, its line ends as a browser reads them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _fingerprint(script: str) -> str:
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
