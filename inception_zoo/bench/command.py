"""The `bench` command: measure sections, print and save each figure at once, and compare with targets and older results."""

from collections.abc import Sequence
from pathlib import Path

from inception_zoo.bench import tables
from inception_zoo.bench.machine import Disturbance, provenance
from inception_zoo.bench.options import Options
from inception_zoo.bench.results import DISTURBED, Results, different, read, read_older
from inception_zoo.bench.sections import ON_DATA, USUAL, measure
from inception_zoo.bench.targets import of_machine, read_targets
from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import check_file
from inception_zoo.system.records import write_json
from inception_zoo.system.terminal import console, tell


def run(sections: Sequence[str], options: Options, keep: Path | None, old: Path | None) -> None:
    """Measure sections; print their tables and the targets.

    Args:
        sections: names in `sections.SECTIONS`.
        options: rounds, networks, input and data folder.
        keep: results file to create or update. Each new figure replaces the older one of the same name. With the usual
            options, figures that a section no longer measures are deleted at the end of the section.
        old: results file to compare with, or a folder of them; see `read_older`.

    Raises:
        ZooError: options do not fit together, or a file or folder is missing or invalid.
    """
    if keep:
        check_file(f"--json {keep}", keep)
    before = read_older(old) if old else None
    results = read(keep, "--json") if keep and keep.exists() else Results()
    targets = read_targets(keep.parent if keep else Path())
    options.cases()
    if options.are_usual and set(sections) & set(ON_DATA):
        options.fashion_mnist()
    out = console(128)
    results.add(provenance(options.rounds))
    out.print(tables.provenance_line(results.runs[-1]), highlight=False)
    for section in sections:
        tell(f"measuring {section} …")
        measured, disturbance = Results([results.runs[-1]]), Disturbance()
        try:
            for name, figure in measure(section, options):
                measured.put(name, figure)
                results.put(name, figure)
                tell(f"  {name}: {tables.median(figure)}")
            if options.are_usual:
                results.drop_others(section, measured.figures)
            for words in disturbance.words():
                tell(f"warning: {section}: {words}: the machine was shared or throttled; repeat the section later")
                results.runs[-1].setdefault(DISTURBED, []).append(f"{section}: {words}")
        except SystemExit:  # Ctrl-C or another signal
            tell(f"interrupted in {section}; figures measured before: {len(measured.figures)}")
            raise
        finally:  # an error or Ctrl-C must not lose the figures that were measured
            if keep:
                results.save(keep)
            if measured.figures:
                out.print(*tables.of_section(section, measured.figures))
    judged = list(tables.target_rows(of_machine(targets, results.runs), results.figures))
    if not set(USUAL) <= set(sections):
        judged = [row for row in judged if row[-1] != "not measured"]
    if judged:
        out.print(tables.table("targets", tables.TARGET_COLUMNS, judged))
    if before:
        for warning in different(results, before):
            tell(f"warning: {warning}")
        out.print(tables.table("compared with the older results", tables.COMPARED, tables.compared(results, before)))


def run_fit(network: str, gib: float, image_size: int | None, keep: Path | None) -> None:
    """Print the largest training batch that fits into `gib` GiB, for each memory mode and tuned peer.

    Args:
        network: name in the zoo.
        gib: memory limit in GiB.
        image_size: pixels; None: the network's usual input.
        keep: JSON file to write the batches to.

    Raises:
        ZooError: the machine has less memory than `gib`, or the network cannot take such images.
    """
    from inception_zoo.bench.memory import fit, memory_of_device

    if gib * 2**30 > (there := memory_of_device()):
        raise ZooError(f"--fit {gib:g}: this machine has {there / 2**30:.0f} GiB; give less")
    found = {}
    for label, batch in fit(network, gib, image_size):
        found[label] = batch
        tell(f"{network} {label}: {f'batch {batch} within {gib:g} GiB' if batch else 'not even batch 1 fits'}", stdout=True)
    if keep:
        write_json(keep, {"network": network, "gib": gib, "batch": found})
