"""Every option of lightning.Trainer, with edge values: it is built, or refused in one line that names its key."""

import copy
from inspect import signature

import pytest
import yaml
from conftest import SMALL, lines
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning import Trainer
from omegaconf import OmegaConf

from inception_zoo import ZooError
from inception_zoo.config import CONF, hydra_patches
from inception_zoo.config.check import check
from inception_zoo.config.composed import plain
from inception_zoo.training.components import build_trainer
from inception_zoo.training.trainer_errors import check_monitors

VALUES = ("0", "null", "1", "0.5", "1000000000", "-1", "nonsense")
WORDS = [*SMALL, "logger=csv", "trainer.accelerator=cpu", "trainer.precision=32-true"]
KEYS = [key for key in signature(Trainer).parameters if key != "default_root_dir"]


@pytest.fixture(scope="module")
def composed():
    hydra_patches.install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", WORDS, return_hydra_config=True)


@pytest.fixture
def built(composed, tmp_path):
    """Check a config with one more option and build its Trainer; return the error message, or None."""

    def build(key, value):
        cfg = copy.deepcopy(composed)
        cfg.hydra.runtime.output_dir = str(tmp_path)
        OmegaConf.update(cfg, f"trainer.{key}", yaml.safe_load(value), force_add=True)
        HydraConfig.instance().set_config(cfg)
        cfg = OmegaConf.masked_copy(cfg, [name for name in cfg if name != "hydra"])
        try:
            check(plain(cfg))
            check_monitors(plain(cfg))
            build_trainer(cfg, tmp_path, [], {})
        except ZooError as error:
            return str(error)
        finally:
            HydraConfig.instance().cfg = None
        return None

    return build


@pytest.mark.parametrize("key", KEYS)
def test_an_option_is_built_or_refused_with_its_key(key, built):
    for value in VALUES:
        refused = built(key, value)
        assert refused is None or (f"trainer.{key}" in refused and len(lines(refused)) == 1), (value, refused)


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_an_option_that_is_built_works_or_is_refused_before_training(key, built, zoo, tmp_path):
    for number, value in enumerate(VALUES):
        if built(key, value) is not None:
            continue
        fast = [word for word in WORDS if not word.startswith(f"trainer.{key}=")]
        if key in ("max_epochs", "max_steps"):
            fast += ["+trainer.max_time=00:00:00:20"]
        done = zoo(*fast, f"++trainer.{key}={value}", f"hydra.run.dir={tmp_path}/{number}", timeout=120)
        assert "Traceback" not in done.stderr, (value, done.stderr)
        assert done.returncode == 0 or f"trainer.{key}" in lines(done.stderr)[-1], (value, done.stderr)
        assert done.returncode == 0 or not (tmp_path / f"{number}/checkpoints").exists(), "refused after training"
