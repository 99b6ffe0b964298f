"""Figures as tables."""

from collections.abc import Iterable, Iterator, Mapping

from rich import box
from rich.table import Table

from inception_zoo.bench.targets import Target
from inception_zoo.bench.turns import Figure, Figures

Row = tuple[str, ...]
UNITS = {"bytes": (2**30, "GiB"), "bytes/image": (2**20, "MiB/image"), "FLOP/s": (1e9, "GFLOP/s"), "bytes/s": (1e9, "GB/s")}
OURS = ("inception_zoo", "plain", "with", "fused", "64")  # labels of the figure that the others of a group are compared with
SENSE = {">=": "≥", "<=": "≤"}
COLUMNS = ("figure", "contender", "median", "spread", "unit", "share of GEMM peak", "ours / row")
TARGET_COLUMNS = ("target", "bound", "measured", "spread", "verdict")
STYLES = {"missed": "bold red", "not measured": "dim"}  # of the row of a target, by its verdict


def rows(figures: Figures, section: str) -> Iterator[Row]:
    """Yield one row per figure of a section. The last cell is our figure of the same group divided by this row's figure."""
    for name, figure in figures.items():
        if not name.startswith(f"{section}/"):
            continue
        group, _, label = name.rpartition("/")
        ours = next((figures[f"{group}/{each}"] for each in OURS if f"{group}/{each}" in figures), None)
        over = ours.over(figure).median if ours and figure.median else None
        ratio = "–" if over is None else f"{over:.2f}" if over >= 0.1 else f"{over:.3f}"
        share = f"{figure.share:.0%}" if figure.share is not None else "–"
        low, high = number(min(figure.values), figure.unit), number(max(figure.values), figure.unit)
        spread = f"{low} to {high}" if len(figure.values) > 1 else "–"
        yield group.removeprefix(f"{section}/"), label, number(figure.median, figure.unit), spread, unit(figure), share, ratio


def target_rows(targets: Iterable[Target], figures: Figures) -> Iterator[Row]:
    """Yield a row per target, with its bound, the measured value, the spread and the verdict."""
    for target in targets:
        measured = target.measured(figures)
        value, spread = "–", "–"
        if measured:
            value = f"{measured.median:.3f}"
            if len(measured.values) > 1:
                spread = f"{min(measured.values):.3f} to {max(measured.values):.3f}"
        yield target.name, f"{SENSE[target.sense]} {target.bound:.3g}", value, spread, target.verdict(figures)


def median(figure: Figure) -> str:
    """Return the median of a figure, with its unit."""
    return f"{number(figure.median, figure.unit)} {unit(figure)}"


def unit(figure: Figure) -> str:
    """Return the unit in which a figure is printed."""
    return UNITS.get(figure.unit, (1, figure.unit))[1]


def number(value: float, unit: str) -> str:
    """Return a value in its printed unit: three significant digits, and from 100 on a whole number."""
    value /= UNITS.get(unit, (1, unit))[0]
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(title: str, columns: Row, every: Iterable[Row]) -> Table:
    """Return a table for the terminal, with texts aligned left and numbers right."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="left" if column in ("figure", "contender", "target", "unit", "verdict") else "right")
    for row in every:
        made.add_row(*row, style=STYLES.get(row[-1]))
    return made


def provenance_line(run: Mapping) -> str:
    """Return hardware, versions, commit, date and rounds in one line."""
    hardware, versions = run["hardware"], run["versions"]
    device = hardware["gpu"] or f"{hardware['cpu']}, {hardware['cores']} cores"
    names = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{device}, {hardware['threads']} threads; {names}; commit {run['commit']}; {run['date']}; rounds: {run['rounds']}"
