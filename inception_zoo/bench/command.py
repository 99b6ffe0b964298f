"""The command: what is measured is shown as it comes, kept as JSON, and compared."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from inception_zoo.bench import tables
from inception_zoo.bench.machine import provenance
from inception_zoo.bench.options import Options
from inception_zoo.bench.results import Results, compare, read
from inception_zoo.bench.sections import ON_DATA, USUAL, measure
from inception_zoo.bench.targets import read_targets
from inception_zoo.errors import ZooError


def run(sections: Sequence[str], options: Options, keep: Path | None, old: Path | None, page: bool) -> None:
    """Measure sections and print their tables, then the targets.

    Args:
        keep: a file of results. A section's older figures are replaced one by one; what is measured no more goes at its end.
        old: a file of results to compare with.
        page: write README.md and pictures beside `keep`.
    """
    if page and not keep:
        raise ZooError("--page writes its page beside the results; give --json, too")
    if keep and not keep.parent.is_dir():
        raise ZooError(f"--json {keep}: there is no folder {keep.parent}")
    before = read(old, "--compare") if old else None
    results = read(keep, "--json") if keep and keep.exists() else Results()
    targets = read_targets(keep.parent if keep else Path())
    options.cases()
    if options.are_usual and set(sections) & set(ON_DATA):
        options.fashion_mnist()
    console = Console(width=max(Console().width, 128))
    results.add(provenance(options.rounds))
    console.print(tables.provenance_line(results.runs[-1]), highlight=False)
    for section in sections:
        print(f"measuring {section} …", file=sys.stderr)
        measured = Results([results.runs[-1]])
        try:
            for name, figure in measure(section, options):
                measured.put(name, figure)
                results.put(name, figure)
                print(f"  {name}: {tables.median(figure)}", file=sys.stderr)
            if options.are_usual:
                results.drop_others(section, measured.figures)
        except KeyboardInterrupt:
            print(f"interrupted in {section}, of which {len(measured.figures)} figures are there", file=sys.stderr)
            raise
        finally:  # what was measured before an error, or Ctrl-C, is not lost
            if keep:
                results.save(keep)
            if measured.figures:
                console.print(tables.table(section, tables.COLUMNS, tables.rows(measured.figures, section)))
    judged = list(tables.target_rows(targets, results.figures))
    if not set(USUAL) <= set(sections):
        judged = [row for row in judged if row[-1] != "not measured"]
    if judged:
        console.print(tables.table("targets", tables.TARGET_COLUMNS, judged))
    if before:
        ratios, warnings = compare(results, before)
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        rows = ((name, f"{ratio:.3f}") for name, ratio in ratios.items())
        console.print(tables.table("new over old", ("figure", "ratio"), rows))
    if keep and page:
        from inception_zoo.bench.summary import write_page

        write_page(results, targets, keep.parent)
        print(f"page: {keep.parent / 'README.md'}", file=sys.stderr)


def run_fit(network: str, gib: float, image_size: int | None, keep: Path | None) -> None:
    """Print the largest batches that fit into `gib` GiB."""
    from inception_zoo.bench.memory import fit, memory_of_device

    if gib * 2**30 > (there := memory_of_device()):
        raise ZooError(f"--fit {gib:g}: this machine has {there / 2**30:.0f} GiB; give less")
    found = {}
    for label, batch in fit(network, gib, image_size):
        found[label] = batch
        print(f"{network} {label}: batch {batch} within {gib:g} GiB" if batch else f"{label}: not one image fits")
    if keep:
        keep.write_text(json.dumps({"network": network, "gib": gib, "batch": found}, indent=1) + "\n")
