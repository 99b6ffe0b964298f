"""Every option of lightning.Trainer, with edge values: it is built, or refused in one line that names its key."""

import copy
import csv
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
from inception_zoo.config.unknown_keys import wrong_overrides
from inception_zoo.runs.results import read_results
from inception_zoo.training.components import build_trainer
from inception_zoo.training.trainer_errors import check_limits, check_monitors

VALUES = ("0", "null", "1", "0.5", "1000000000")
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


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_spawn_find_unused_parameters_true"])
def test_strategies_that_lose_the_results_are_refused(name, built):
    valid = name.replace("_spawn", "").replace("_fork", "").replace("_notebook", "")
    assert f"trainer.strategy={name} loses the results of its processes; use trainer.strategy={valid}" in built(
        "strategy", name
    )


class Batches:
    """Data of 20 training batches, 8 validation batches and 4 test batches."""

    def train_dataloader(self):
        return range(20)

    def val_dataloader(self):
        return range(8)

    def test_dataloader(self):
        return range(4)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("fit", {"limit_train_batches": 0.04}, "limit_train_batches=0.04 of the 20 batches is less than one"),
        ("fit", {"limit_val_batches": 0.1}, "limit_val_batches=0.1 of the 8 batches is less than one"),
        ("fit", {"limit_test_batches": 0.2}, "limit_test_batches=0.2 of the 4 batches is less than one"),
        ("fit", {"overfit_batches": 0.04}, "overfit_batches=0.04 of the 20 batches is less than one"),
        ("fit", {"val_check_interval": 21}, "val_check_interval=21 is more than the 20 batches of an epoch"),
        ("fit", {"val_check_interval": 4, "limit_train_batches": 3}, "val_check_interval=4 is more than the 3 batches"),
        ("fit", {"limit_train_batches": 0}, "limit_train_batches=0 trains nothing"),
        ("test", {"limit_test_batches": 0}, "limit_test_batches=0 tests nothing"),
        ("fit", {"limit_val_batches": 0, "limit_test_batches": 0, "limit_train_batches": 0.05}, None),
        ("fit", {"val_check_interval": 21, "check_val_every_n_epoch": None}, None),
        ("test", {"limit_train_batches": 0}, None),
    ],
)
def test_limits_that_leave_nothing_are_refused(task, options, message):
    config = {"task": task, "trainer": options}
    if message is None:
        check_limits(config, Batches())
        return
    with pytest.raises(ZooError, match=f"^trainer.{message}"):
        check_limits(config, Batches())


def test_callbacks_need_the_validation_that_they_watch():
    stop = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}
    scheduler = {"_target_": "inception_zoo.training.schedules.cosine"}
    off = {"trainer": {"limit_val_batches": 0}, "sweep": {"trial": None}, "scheduler": scheduler}
    config = {"callbacks": {"stop": stop}, **off}
    with pytest.raises(ZooError, match=r"callbacks\.stop\.monitor=val/loss needs a validation"):
        check_monitors(config)
    with pytest.raises(ZooError, match="by which a search compares its trials"):
        check_monitors({**config, "callbacks": {}, "sweep": {"trial": 3}})
    plateau = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
    with pytest.raises(ZooError, match=r"^scheduler\.monitor=val/loss needs a validation"):
        check_monitors({**config, "callbacks": {}, "scheduler": plateau})
    check_monitors({**config, "trainer": {"limit_val_batches": 1}})


def test_a_glob_of_networks_and_keys_that_exist():
    hydra_patches.install()
    assert wrong_overrides(["-m", "model=glob(inception_v*)"], keys=False) == []
    for word in ("+seed=2", "+trainer.default_root_dir=x"):
        (message,) = wrong_overrides([word])
        assert message.startswith(f"'{word.split('=')[0]}': the key is in the config already; write ")


def test_a_run_without_test_has_its_profile_and_its_loss_by_step(zoo, tmp_path):
    words = ["+trainer.profiler=simple", "trainer.limit_test_batches=0", "trainer.log_every_n_steps=1", "logger=csv"]
    done = zoo(*SMALL, *words, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "FIT Profiler Report" in done.stdout and (tmp_path / "run/fit-profile.txt").is_file()
    results = read_results(tmp_path / "run")
    assert results["tested"] == "checkpoints/best.ckpt" and not [key for key in results if key.startswith("test/")]
    assert (tmp_path / "run/model.safetensors").is_file() and not (tmp_path / "run/confusion.csv").exists()
    with (tmp_path / "run/csv/version_0/metrics.csv").open(newline="") as file:
        steps = [float(row["train/loss_step"]) for row in csv.DictReader(file) if row["train/loss_step"]]
    assert len(steps) == 2 and sum(steps) / 2 == pytest.approx(results["train/loss"], rel=1e-6)


@pytest.mark.parametrize("words", [["logger=csv", "~logger.csv"], ["logger=none"]], ids=" ".join)
def test_a_run_without_loggers(words, zoo):
    done = zoo(*SMALL, *words, "trainer.precision=bf16-true", "trainer.accelerator=cpu", "model=googlenet")
    assert done.returncode == 0, done.stderr
    assert "no logger: left out callbacks.learning_rate" in done.stdout + done.stderr


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
