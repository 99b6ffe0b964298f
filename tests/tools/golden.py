"""Prove that a refactoring leaves every loss bit-equal: record short trainings of a checkout, or compare two recordings.

    python tests/tools/golden.py CHECKOUT OUT.json
    python tests/tools/golden.py --compare BEFORE.json AFTER.json

A recording holds the loss of every training step and the final test metrics, as text with every digit. Compare recordings of
the same machine only: another kind of CPU rounds differently and trains a different network.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

COMMON = ["logger=csv", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.max_epochs=1"]
COMMON += ["trainer.log_every_n_steps=1"]
LIMITS = ["trainer.limit_train_batches=20", "trainer.limit_val_batches=3", "trainer.limit_test_batches=3"]
DIGITS = ["data=digits", "data.image_size=32", "data.batch_size=32", "model.stem=small", "model.width=0.25"]
JOBS = {
    "quickstart": ["experiment=quickstart", f"data.root={Path(__file__).resolve().parents[2] / 'data'}"],
    "residual": [*DIGITS, "model=inception_resnet_v2", "model.drop_path=0.1", "augmentation.mixup=0.2"],
    "lean": [*DIGITS, "model=inception_v3", "model.memory=lean"],
    "ema": [
        *DIGITS,
        "model=bn_inception",
        "callbacks=ema",
        "callbacks.ema.decay=0.9",
        "callbacks.ema.warmup=false",
        "optimizer=muon",
    ],
    "two processes": [*DIGITS, "model=googlenet_bn", "trainer.devices=2"],
}
COLUMNS = (
    "train/loss",
    "val/loss",
    "val/top1",
    "test/loss",
    "test/top1",
    "test/top5",
    "test/macro",
    "test/ece",
    "test_raw/loss",
)


def figures(checkout: Path, words: list[str]) -> dict[str, list[str]]:
    """Return the values of COLUMNS that one run logs, as text."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, checkout / "run.py", *words, *COMMON, *LIMITS, "hydra.run.dir=run"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: {done.stderr[-2000:]}")
        with Path(folder, "run/csv/version_0/metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    return {name: found for name in COLUMNS if (found := [row[name] for row in rows if row.get(name)])}


def main() -> None:
    if sys.argv[1] == "--compare":
        before, after = (json.loads(Path(name).read_text()) for name in sys.argv[2:])
        wrong = [f"{job}, {name}" for job in before for name in before[job] if before[job][name] != after[job].get(name)]
        sys.exit("differ: " + "; ".join(wrong) if wrong else print(f"{len(before)} jobs are bit-equal"))
    checkout, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    found = {}
    for name, words in JOBS.items():
        found[name] = figures(checkout, words)
        print(name, {key: values[-1] for key, values in found[name].items()}, flush=True)
    out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
