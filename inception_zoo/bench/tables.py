"""Figures as tables."""

from collections.abc import Iterable, Iterator, Mapping

from rich import box
from rich.table import Table

from inception_zoo.bench.results import DISTURBED, Results
from inception_zoo.bench.targets import Target
from inception_zoo.bench.turns import Figure, Figures

Row = tuple[str, ...]
TIME = "s/image"
PROFILE, STEP, BYTES, CALLS = "profile", "step", ", bytes", ", calls"  # parts of the names of its figures
PROFILED = "ms/image (interval), share of the limit by GEMM peak and bandwidth; MiB/image; calls/step"
UNITS = {
    TIME: (1e-3, "ms/image"),
    "bytes": (2**30, "GiB"),
    "bytes/image": (2**20, "MiB/image"),
    "FLOP/s": (1e9, "GFLOP/s"),
    "bytes/s": (1e9, "GB/s"),
}
OURS = ("inception_zoo", "plain", "with", "fused", "64")  # labels of the figure that the others of a group are compared with
TEXTS = ("figure", "kind", "contender", "ours / contender", "target", "unit", "verdict")  # columns that are aligned left
SENSE = {">=": "≥", "<=": "≤"}
COLUMNS = ("figure", "contender", "median", "spread", "unit", "share of GEMM peak", "ours / row")
COMPARED = ("figure", "ours / contender", "old", "new", "new interval", "verdict")
BETTER, WORSE, EQUAL = "better", "worse", "no difference shown"
TARGET_COLUMNS = ("target", "bound", "measured", "spread", "verdict")
STYLES = {"missed": "bold red", WORSE: "bold red", "undecided": "yellow", "not measured": "dim"}  # of a row, by its verdict


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


def compared(new: Results, old: Results) -> Iterator[Row]:
    """Yield a row per figure that both results have.

    Where another library is a contender, our ratio to it is compared: the speed of a machine changes from hour to hour, the
    ratios within one run hardly do. A difference is shown if the intervals of the two ratios do not overlap.
    """
    for name, figure in new.figures.items():
        group, _, label = name.rpartition("/")
        before, ours = old.figures.get(name), f"{group}/{OURS[0]}"
        if before is None or min(*before.values, *figure.values) <= 0 or label == OURS[0]:
            continue
        if label.startswith(OURS[0]) or ours not in new.figures or ours not in old.figures:
            values = (number(each, figure.unit) for each in (before.median, figure.median))
            yield group, label, *values, _interval(figure), f"in {unit(figure)}: not a ratio"
            continue
        now, then = (figures[ours].over(each) for figures, each in ((new.figures, figure), (old.figures, before)))
        (low, high), (least, most) = now.interval, then.interval
        up, down = (BETTER, WORSE) if figure.unit.endswith("/s") else (WORSE, BETTER)
        single = min(len(now.values), len(then.values)) == 1
        verdict = "single values" if single else up if low > most else down if high < least else EQUAL
        yield group, label, f"{then.median:.3f}", f"{now.median:.3f}", f"{low:.3f} to {high:.3f}", verdict


def of_section(section: str, figures: Figures) -> list[Table]:
    """Return the tables of a section: one, but for `profile` one per network."""
    if section != PROFILE:
        return [table(section, COLUMNS, rows(figures, section))]
    return [table(f"profile of {name}: {PROFILED}", *profile(figures, name)) for name in profiled(figures)]


def profiled(figures: Figures) -> list[str]:
    """Return the names of the networks that `profile` measured, each with its input if it is unusual."""
    steps = [name.split("/")[1] for name in figures if name.startswith(f"{PROFILE}/")]
    return list(dict.fromkeys(name.removesuffix(f" {STEP}") for name in steps if name.endswith(f" {STEP}")))


def profile(figures: Figures, name: str) -> tuple[Row, list[Row]]:
    """Return the columns and rows of a network's profile: a row per kind of operation, and a column per contender."""
    start = f"{PROFILE}/{name} "
    longer = tuple(f"{PROFILE}/{other} " for other in profiled(figures) if other.startswith(f"{name} "))  # another input
    mine = {key.removeprefix(start): each for key, each in figures.items() if key.startswith(start)}
    mine = {key: each for key, each in mine.items() if not (longer and f"{start}{key}".startswith(longer))}
    times = [key.rpartition("/") for key, each in mine.items() if each.unit == TIME]
    labels, found = list(dict.fromkeys(label for _, _, label in times)), []
    for kind in dict.fromkeys(kind for kind, _, _ in times):
        every = [mine[f"{kind}/{label}"] for label in labels]
        moved, calls = (mine.get(f"{kind}{what}/{labels[0]}") for what in (BYTES, CALLS))
        facts = number(moved.median, moved.unit) if moved else "–", f"{calls.median:.0f}" if calls else "–"
        best = min(every[1:], key=lambda each: each.median, default=None)
        found.append((kind, *map(_profiled, every), *facts, _ratio(every[0], best) if best and min(best.values) > 0 else "–"))
    return ("kind", *labels, "our MiB", "our calls", "ours / best peer's"), found


def _profiled(figure: Figure) -> str:
    share = f" {figure.share:.0%}" if figure.share else ""
    return f"{number(figure.median, figure.unit)} ({_interval(figure, '–')}){share}"


def _interval(figure: Figure, between: str = " to ") -> str:
    return between.join(number(each, figure.unit) for each in figure.interval)


def _ratio(ours: Figure, other: Figure) -> str:
    ratio = ours.over(other)
    low, high = ratio.interval
    return f"{ratio.median:.2f}" if high < 1 or low > 1 else f"{ratio.median:.2f} undecided"


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
        made.add_column(column, justify="left" if column in TEXTS else "right")
    for row in every:
        made.add_row(*row, style=STYLES.get(row[-1]))
    return made


def provenance_line(run: Mapping, section: str = "") -> str:
    """Return hardware, versions, commit, date and rounds in one line, and what disturbed a section; all sections if empty."""
    hardware, versions = run["hardware"], run["versions"]
    device = hardware["gpu"] or f"{hardware['cpu']}, {hardware['cores']} cores"
    names = ", ".join(f"{name} {number}" for name, number in versions.items())
    facts = f"{device}, {hardware['threads']} threads; {names}; commit {run['commit']}; {run['date']}; rounds: {run['rounds']}"
    disturbed = [f"shared or throttled machine: {each}" for each in run.get(DISTURBED, ()) if each.startswith(section)]
    return "; ".join([facts, *disturbed])
