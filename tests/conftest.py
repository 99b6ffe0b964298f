import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
IMAGENET = ("override /data: imagenet", "- inception_v3_imagenet")  # by itself, or by the experiment that it starts from
RECIPES = [p for p in (ROOT / "conf/experiment").glob("*.yaml") if any(line in p.read_text() for line in IMAGENET)]


# scikit-learn's digits with a small network: a job of seconds
SMALL = ["data=digits", "data.image_size=32", "data.batch_size=32", "model.width=0.25", "model.stem=medium", "trainer=smoke"]


def lines(text):
    return [line for line in text.splitlines() if line.strip()]


def processes_of(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(command)
    return found


def wandb_run(folder):
    """Config and summary of the W&B run of a run folder, read back with W&B's own reader."""
    return json.loads(_inspected(folder, "--summary"))


def wandb_records(folder):
    """Every record of the W&B run of a run folder, in order."""
    return list(map(json.loads, _inspected(folder).splitlines()))


def _inspected(folder, *flags):
    (run,) = folder.glob("wandb/offline-run-*")
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", *flags, "--json", run]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def zoo(tmp_path):
    """Runs `python run.py` as a user does, in an empty folder; the data of the checkout is given by its path."""

    def run(*overrides, script=(str(ROOT / "run.py"),), timeout=300, env=()):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA", "PL_"))}
        # Files, not pipes: a pipe would wait for every process that a job left behind.
        with (tmp_path / "stdout.txt").open("w+") as out, (tmp_path / "stderr.txt").open("w+") as err:
            command, where = [sys.executable, *script, *overrides], {**environment, "COLUMNS": "200", **dict(env)}
            done = subprocess.run(
                command, cwd=tmp_path, env=where, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=timeout
            )
        texts = [(tmp_path / f"{name}.txt").read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(command, done.returncode, *texts)

    return run


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory):
    """A folder like ImageNet's: three classes, 24 JPEGs of each for training, 7 for validation; a colour tells the class."""
    root, generator = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 7)):
        for label, name in enumerate(("n01440764", "n01443537", "n01484850")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = generator.integers(60, 140, 2)
                pixels = generator.integers(0, 128, (height, width, 3), dtype=np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(folder / f"{name}_{number}.JPEG")
    return root


@pytest.fixture
def fashion_mnist_root():
    """Folder of the real Fashion-MNIST; `make data` puts it there."""
    from inception_zoo.data.fashion_mnist import find

    folder = find(ROOT / "data")
    assert folder, "no Fashion-MNIST: run `make data`"
    return str(folder)
