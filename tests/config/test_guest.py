"""Importing the package has no side effects outside it; only the entry points install patches."""

import json
import subprocess
import sys

import pytest
from conftest import SMALL
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from inception_zoo import load_model
from inception_zoo.architecture.nets import ALIASES, ZOO
from inception_zoo.architecture.plan import plan_of
from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.config import CONF
from inception_zoo.config.hydra_patches import install

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def test_another_hydra_application_has_hydras_own_sweeper(tmp_path):
    (tmp_path / "plain.py").write_text(
        "import hydra\n"
        "from hydra.core.hydra_config import HydraConfig\n"
        "@hydra.main(version_base='1.3', config_path=None)\n"
        "def main(cfg):\n"
        "    print(HydraConfig.get().sweeper._target_)\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "plain.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == [BASIC], done.stderr


def test_importing_the_application_patches_nothing():
    code = (
        "import copy, logging, sys\n"
        "from hydra.core import utils\n"
        "from hydra.core.config_store import ConfigStore\n"
        "from hydra._internal import hydra, logging_config\n"
        "def state():\n"
        "    return (sys.excepthook, logging.getLogRecordFactory(), '__deepcopy__' in vars(ConfigStore), utils._save_config,\n"
        "            hydra.Hydra, logging_config.configure_logging, copy.deepcopy(ConfigStore.instance().repo))\n"
        "before = state()\n"
        "import inception_zoo.app\n"
        "assert state() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def composed(*overrides):
    install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


@pytest.mark.parametrize(
    ("words", "sweeper"),
    [
        ([], "GridSweeper"),
        (["sweep=optuna"], "OptunaSweeper"),
        (["sweep=blocks"], "BlockSweeper"),
        (["sweep=learning_rate"], "GridSweeper"),
        (["hydra/sweeper=optuna"], "OptunaSweeper"),
    ],
)
def test_a_sweep_chooses_its_sweeper(words, sweeper):
    assert composed(*words).hydra.sweeper._target_ == f"hydra_plugins.inception_zoo_sweeper.{sweeper}"


def test_every_network_and_block_has_a_file_and_every_file_is_one():
    own = {"base", "inception_v3_residual17"}
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} == {*ZOO, *ALIASES} | own
    assert {path.stem for path in (CONF / "block").glob("*.yaml")} == set(BLOCKS)


def test_a_network_of_ones_own_is_described_swept_and_saved(cli, zoo, tmp_path):
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/my_net.yaml").write_text("defaults: [googlenet_bn]\nblocks: {grid14: residual}\nwidth: 0.25\n")
    mine = ["--config-dir", "mine"]
    described = json.loads(cli("describe", "my_net", "blocks.grid7=expanded", "--json", *mine).stdout)
    assert described["swapped"] == "grid14=residual, grid7=expanded"
    small = [word for word in SMALL if not word.startswith("model.width")]
    done = zoo("-m", *mine, *small, "model=googlenet_bn,my_net", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    assert "my_net" in done.stdout and "grid14=residual" in done.stdout
    saved = load_model(tmp_path / "sweep/1/checkpoints/best.ckpt")
    assert saved.plan.swapped == "grid14=residual" and saved.plan.choices.width == 0.25


def test_a_network_file_of_somebody_elses_runs_no_code(cli, tmp_path):
    (tmp_path / "theirs/model").mkdir(parents=True)
    (tmp_path / "theirs/model/net.yaml").write_text("defaults: [googlenet]\nblocks: {grid14: their_code.block}\n")
    (tmp_path / "their_code.py").write_text("open('ran', 'w')\n")
    done = cli("describe", "net", "--config-dir", "theirs")
    command = "INCEPTION_ZOO_TARGETS=their_code.block inception-zoo describe net --config-dir theirs"
    assert done.returncode == 2 and done.stderr.startswith(
        "error: model.blocks.grid14=their_code.block is not on the allow-list"
    )
    assert done.stderr.strip().endswith(command)
    assert not (tmp_path / "ran").exists()


def test_a_recombination_is_a_file():
    cfg = composed("model=inception_v3_residual17")
    by_words = composed("model=inception_v3", "model.blocks.grid17=residual")
    assert cfg.model == by_words.model
    assert plan_of(OmegaConf.to_container(cfg.model, resolve=True)).swapped == "grid17=residual"
