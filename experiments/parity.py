"""Measure the table of experiments/parity.md and write it: python experiments/parity.py COMMIT."""

import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from summary import BEGIN, END, provenance

from inception_zoo.bench.parity import PAIRS, prove

PEERS = "torchvision", "timm", "pretrainedmodels", "pytorch-fid", "torch-fidelity", "torch-lucent", "facenet-pytorch", "keras"


def main(commit: str) -> None:
    """Compare every network with its peer and replace the table in parity.md."""
    lines = [
        "| layout, network | ours | load | export | round trip | evaluation | training | endpoints |",
        "| --- | --- |" + " --- |" * 6,
    ]
    for name, pair in PAIRS.items():
        proof = prove(name)
        exact = "exact" if proof.round_trip else "**differs**"
        export = largest(proof.back) if proof.back else "–"
        figures = largest(proof.evaluation), largest(proof.training), str(len(proof.training))
        lines.append(f"| {name} | `{pair.net}` | yes | {export} | {exact} | {' | '.join(figures)} |")
        print(lines[-1], flush=True)
    page = Path(__file__).with_suffix(".md")
    table = "\n".join(lines)
    peers = ", ".join(f"{name} {version(name)}" for name in PEERS)
    text = f"{BEGIN}\n{table}\n\n{provenance(commit)[:-1]}; {peers}.\n{END}"
    page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: text, page.read_text(), flags=re.DOTALL))


def largest(differences: Mapping[str, float]) -> str:
    """Return the largest difference with one digit, or 0."""
    worst = max(differences.values())
    return f"{worst:.0e}" if worst else "0"


if __name__ == "__main__":
    main(*sys.argv[1:])
