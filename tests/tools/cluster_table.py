"""Write the rows that the tests of hosts have recorded into docs/cluster.md: `python tests/tools/cluster_table.py FILE`."""

import json
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
PIPE, ESCAPED = "|", "\\|"
BEGIN, END = "<!-- hosts: written by `make test-hosts` -->", "<!-- end -->"


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    missing = [name for name in ("Ray", "SLURM") if not any(row[0].startswith(name) for row in rows)]
    if missing:
        sys.exit(f"{PAGE.name} is unchanged, since the cases of {', '.join(missing)} were skipped; see their reasons above")
    rows.sort(key=lambda row: [row[0].startswith(name) for name in ("Ray", "SLURM")])  # the files of tests run in parallel
    lines = ["| case | seconds | ends with | weights |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {case} | {seconds} | {message.replace(PIPE, ESCAPED)} | {f'`{digest}`' if digest else ''} |"
        for case, seconds, message, digest in rows
    ]
    when = f"{len(rows)} cases on {date.today()}, Linux {platform.release().partition('-')[0]}, torch {version('torch')}."
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join([*lines, "", when]) + f"\n{END}{after}")


if __name__ == "__main__":
    main()
