"""Compare scores with those of pytorch-fid and torch-fidelity: python experiments/fid.py run COUNT COMMIT (hours), or write.

`run` writes experiments/results/fid.csv; `write` makes the table of experiments/fid.md from it.
"""

import csv
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from PIL import Image
from summary import BEGIN, END, provenance

from inception_zoo.bench.parity import PAIRS, peer_of
from inception_zoo.data.fashion_mnist import fashion_mnist
from inception_zoo.serving.fid import METRICS, Subsets, score

PAGE = Path(__file__).with_suffix(".md")
RESULTS = Path(__file__).parent / "results" / "fid.csv"
NAMES = ("frechet_inception_distance", "kernel_inception_distance_mean", "inception_score_mean", "precision", "recall")
SUBSETS = Subsets(100, 1000)
FEATURES = 2048


def main(command: str, *words: str) -> None:
    """Run the comparison, or write the page."""
    if command == "run":
        count, commit = words
        with RESULTS.open("w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["score", "library", "theirs", "ours", "images", "features", "provenance"])
            for row in compared(int(count)):
                rows.writerow([*row, count, FEATURES, provenance(commit)])
                file.flush()
    PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: results(), PAGE.read_text(), flags=re.DOTALL))


def compared(count: int) -> Iterator[tuple[str, str, float, float]]:
    """Yield (score, library, theirs, ours) for `count` images of each half of Fashion-MNIST's test set."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        weights = Path(folder) / "pt_inception-2015-12-05-6726825d.pth"
        torch.save(peer_of(PAIRS["pytorch-fid inception_v3"]).weights(), weights)
        pair = [write_half(Path(folder) / half, start, count) for half, start in (("first", 0), ("second", 5000))]
        ours = score(*pair, weights=weights)
        yield "fid", "pytorch-fid", pytorch_fid(pair, weights), ours.scores["fid"]
        ours = score(*pair, weights=weights, like="torch-fidelity", metrics=METRICS, subsets=SUBSETS)
        theirs = torch_fidelity(pair, weights)
        for metric, name in zip(METRICS, NAMES, strict=True):
            yield metric, "torch-fidelity", theirs[name], ours.scores[metric]


def write_half(folder: Path, start: int, count: int) -> str:
    """Write images of the test set as RGB, and return the folder."""
    folder.mkdir()
    images = fashion_mnist("data").test.images[start : start + count, 0]  # type: ignore[union-attr]
    for row, pixels in enumerate(images.numpy()):
        Image.fromarray(pixels).convert("RGB").save(folder / f"{row:05}.png")
    return str(folder)


def pytorch_fid(pair: list[str], weights: Path) -> float:
    """Return the FID of pytorch-fid."""
    from pytorch_fid import fid_score, inception

    with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: torch.load(weights)):
        return float(fid_score.calculate_fid_given_paths(pair, 50, "cpu", FEATURES, num_workers=0))


def torch_fidelity(pair: list[str], weights: Path) -> dict[str, float]:
    """Return all scores of torch-fidelity, by its names."""
    from torch_fidelity import calculate_metrics

    return calculate_metrics(
        input1=pair[0],
        input2=pair[1],
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        fid=True,
        kid=True,
        isc=True,
        prc=True,
        kid_subsets=SUBSETS.number,
        kid_subset_size=SUBSETS.size,
    )


def results() -> str:
    """Return the table of the page."""
    with RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["| score | library | library's | ours | relative difference |", "| --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        theirs, ours = float(row["theirs"]), float(row["ours"])
        difference = abs(ours / theirs - 1)
        lines.append(f"| {row['score']} | {row['library']} | {theirs:.6g} | {ours:.6g} | {difference:.0e} |")
    first = rows[0]
    end = f"{int(first['images']):,} images against as many, {int(first['features']):,} features; {first['provenance']}"
    return "\n".join([BEGIN, *lines, "", end, END])


if __name__ == "__main__":
    main(*sys.argv[1:])
