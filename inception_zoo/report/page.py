"""Build the page: a template, its style and scripts, Plotly, and all data as one JSON block."""

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
from inception_zoo.errors import ZooError, check_installed, printable
from inception_zoo.report.collect import Run, as_words, collect, is_incidental
from inception_zoo.report.details import network_key, network_picture, read_details
from inception_zoo.system.atomic_files import check_file, write_whole

NETWORKS = 12  # maximum number of network drawings
DETAILS = 8_000_000  # maximum bytes of tables and images; the best runs come first
SHOWN_ELSEWHERE = ("model", "block", "seed")  # keys with a separate column


def write_report(folders: Sequence[Path], out: Path, warn: Callable[[str], None]) -> str:
    """Write one page with every run in `folders` and their subfolders.

    Args:
        folders: run folders, or folders above them.
        out: the HTML file.
        warn: called with one line for each run, table or drawing that is skipped.

    Returns:
        The number of runs and groups, as text.

    Raises:
        ZooError: Plotly is missing, `out` cannot be written, or no run can be read.
    """
    check_installed("plotly", "report", "inception-zoo report")
    check_file(f"--out {out}", out)
    runs = collect(folders, warn)
    data = page_data(runs, warn)
    write_whole(out.resolve(), page(data, printable(" ".join(map(str, folders)))))
    groups = len({run["group"] for run in data["runs"]})
    return f"{len(runs)} run{'s' * (len(runs) != 1)} in {groups} group{'s' * (groups != 1)}"


def page_data(runs: Sequence[Run], warn: Callable[[str], None]) -> dict[str, Any]:
    """Return all data of the page as JSON types.

    Args:
        runs: the runs, at least one.
        warn: called with one line for each table or drawing that is skipped.

    Returns:
        `runs`, one row each, with indices into `networks`; `varying` keys; `config`, from which rows store their differences;
        `networks`, SVG texts; `distinct`, the number of different networks.
    """
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
    count = len(set(filter(None, keys.values())))
    return {"runs": list(rows.values()), "varying": varying(runs), "config": base, "networks": pictures, "distinct": count}


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs that differ only in `seed` and in output paths; a run without a config is a group by itself."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        flat = {key: value for key, value in as_words(run.composed).items() if key != "seed" and not is_incidental(key)}
        groups.setdefault(json.dumps(flat, sort_keys=True) if flat else str(run.folder), []).append(run)
    return list(groups.values())


def varying(runs: Sequence[Run]) -> list[str]:
    """Return override keys with different values among the runs, without keys that have a separate column."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides if key not in SHOWN_ELSEWHERE and not is_incidental(key))
    return [key for key in keys if not key.startswith("model.blocks.") and len({_said(run, key) for run in runs}) > 1]


def _said(run: Run, key: str) -> str | None:
    """Return the value of an override, or the config value if the run does not override the key."""
    return run.overrides.get(key, run.config.get(key))


def _row(run: Run, base: dict[str, str]) -> dict[str, Any]:
    """Return the data of one run. `config` has only the keys that differ from `base`; None marks a key that the run lacks."""
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
        "resolved": bool(run.resolved),
    }


def _digits(value: float | None) -> float | int | None:
    """Round to six significant digits; keep all digits of whole numbers."""
    return value if value is None or value == int(value) else float(f"{value:.6g}")


def _networks(leaders: Sequence[Run], warn: Callable[[str], None]) -> tuple[list[str], dict[str, int]]:
    """Draw distinct networks, those of the best groups first; return the SVG texts, and key → index."""
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
    """Return the HTML text. Its content security policy allows its own two scripts and no network requests.

    Args:
        data: the result of `page_data`.
        source: title of the page, such as the folders.
    """
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
        # Without `<`, neither a tag nor a comment can start inside the block.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "plotly": charts,
        "script": script,
    }
    template = (own / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)


def _script(text: str) -> str:
    """Escape JavaScript for embedding in HTML; normalize line ends as browsers do."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _fingerprint(script: str) -> str:
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
