import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tools import commands

ROOT = Path(__file__).resolve().parent.parent
IMAGENET = ("override /data: imagenet", "- inception_v3_imagenet")  # directly, or through the experiment that it extends
RECIPES = [p for p in (ROOT / "conf/experiment").glob("*.yaml") if any(line in p.read_text() for line in IMAGENET)]


# scikit-learn's digits with a small network: the job takes seconds
SMALL = ["data=digits", "data.image_size=32", "data.batch_size=32", "model.width=0.25", "model.stem=medium", "trainer=smoke"]


def lines(text):
    return [line for line in text.splitlines() if line.strip()]


def run_folder(folder):
    """Return the run folder of the only job that ran in `folder`."""
    (found,) = {path.parent for path in folder.glob("outputs/*/*/.hydra")}
    return found


def processes_of(folder):
    """Return the command lines of processes that name this folder or run inside it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, where = (process / "cmdline").read_bytes(), (process / "cwd").readlink()
        except OSError:
            continue
        if str(folder).encode() in command or where.is_relative_to(folder):
            found.append(command)
    return found


def wandb_run(folder):
    """Return config and summary of the W&B run in a run folder, read with W&B's own reader."""
    return json.loads(_inspected(folder, "--summary"))


def wandb_records(folder):
    """Return all records of the W&B run in a run folder, in order."""
    return list(map(json.loads, _inspected(folder).splitlines()))


def _inspected(folder, *flags):
    (run,) = folder.glob("wandb/offline-run-*")
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", *flags, "--json", run]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def zoo(tmp_path):
    """Run `python run.py OVERRIDES` as a user does, in an empty folder."""

    def run(*overrides, script=(ROOT / "run.py",), **options):
        return commands.run([*script, *overrides], tmp_path, **options)

    return run


@pytest.fixture
def cli(zoo):
    """Run `inception-zoo ARGUMENTS` as a user does, in an empty folder."""
    return partial(zoo, script=("-m", "inception_zoo.cli"))


@pytest.fixture
def mistake(tmp_path):
    """Run the Hydra application, or `main`, in an empty folder; stdout and stderr are also written to files there."""
    from inception_zoo import app

    def run(*words, main=app.main, env=()):
        done = commands.run(["inception-zoo", *words], tmp_path, env=env, timeout=120, main=main)
        (tmp_path / "stdout.txt").write_text(done.stdout)
        (tmp_path / "stderr.txt").write_text(done.stderr)
        return done

    return run


@pytest.fixture(scope="session")
def chromium():
    """Launch the installed Chromium or Chrome, or Playwright's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome") or playwright.chromium.executable_path
        assert Path(path).exists(), "no Chromium: run `make browser`"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-background-networking"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open pages; after the test, fail if a page made a network request or logged an error."""
    faults, contexts = [], []

    def open_page(path, **options):
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: message.type in ("error", "warning") and faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        own = ("data:", "blob:", path.as_uri())
        page.on("request", lambda request: request.url.startswith(own) or faults.append(f"request: {request.url}"))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory):
    """Create an ImageNet-like folder: three classes, 24 training and 7 validation JPEGs each; the colour encodes the class."""
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
    """Return the folder of the real Fashion-MNIST, which `make data` downloads."""
    from inception_zoo.data.fashion_mnist import find

    folder = find(ROOT / "data")
    assert folder, "no Fashion-MNIST: run `make data`"
    return str(folder)


@pytest.fixture
def composed(tmp_path):
    """Return a function that composes the config of a job from overrides."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from inception_zoo.config import CONF
    from inception_zoo.config.hydra_patches import install

    install()

    def make(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [*overrides, f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])

    yield make
    HydraConfig.instance().cfg = None
