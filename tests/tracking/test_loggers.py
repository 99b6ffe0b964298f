"""The loggers beside W&B and the CSV: a missing package, what they hold, and how they continue; W&B's environment."""

import os
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import loggers
from lightning.pytorch.loggers import WandbLogger as Lightnings
from omegaconf import OmegaConf

from inception_zoo.config import CONF
from inception_zoo.config.hydra_patches import install
from inception_zoo.errors import ZooError
from inception_zoo.tracking.mlflow_logger import MLFlowLogger
from inception_zoo.tracking.service import NOWHERE
from inception_zoo.tracking.tensorboard_logger import TensorBoardLogger
from inception_zoo.tracking.wandb_logger import WandbLogger, identity
from inception_zoo.training.components import check_wandb

CONFIG = {"seed": 1, "model": {"name": "googlenet", "blocks": {"all": None}}, "data": {"mean": [0.5]}}


@pytest.mark.parametrize("kind", [TensorBoardLogger, MLFlowLogger])
def test_a_missing_package_is_one_line_with_its_extra(kind, monkeypatch, tmp_path):
    monkeypatch.setattr("inception_zoo.errors.find_spec", lambda package: None)
    with pytest.raises(ZooError) as error:
        kind(save_dir=str(tmp_path), name="x")
    name = kind.__name__.removesuffix("Logger").lower()
    assert str(error.value) == f"logger={name} needs the package {name}: pip install 'inception-zoo[{name}]'"
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_continues_in_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for start, value in ((0, 0.1), (2, 0.2)):  # interrupted after step 3; resumed at step 2
        logger = TensorBoardLogger(str(tmp_path), "tensorboard")
        logger.log_hyperparams(CONFIG)
        logger.go_on(start)
        for step in range(start, 4):
            logger.log_metrics({"val/top1": value}, step)
        logger.finalize("success")
        logger.log_hyperparams(CONFIG)  # in the test
        logger.log_metrics({"test/top1": value}, 4)
        logger.finalize("success")
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(event.step, pytest.approx(event.value)) for event in read.Scalars("val/top1")]
    assert points == [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.2)]
    assert set(read.Tags()["scalars"]) == {"val/top1", "test/top1"}  # no placeholder
    data = HParamsPluginData.FromString(read.summary_metadata["_hparams_/session_start_info"].plugin_data.content)
    shown = data.session_start_info.hparams
    assert shown["model.name"].string_value == "googlenet" and shown["seed"].number_value == 1
    assert shown["data.mean"].string_value == "[0.5]"


def test_a_resumed_run_continues_in_mlflow_and_an_error_of_mlflow_is_a_warning(tmp_path, caplog):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    for seed in (1, 2):
        logger = MLFlowLogger(str(tmp_path), experiment_name="zoo", run_name="googlenet")
        logger.log_hyperparams({**CONFIG, "seed": seed})
        logger.log_metrics({"val/top1": 0.5}, seed)
        logger.finalize("success")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (run,) = client.search_runs([logger.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["seed"]) == ("googlenet", "FINISHED", "1")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val/top1")] == [1, 2]
    logger._mlflow_client = None
    logger.log_metrics({"val/top1": 0.5}, 3)
    logger.log_metrics({"val/top1": 0.5}, 4)
    assert caplog.text.count("MLflow logging failed; the run continues without it") == 1


def test_an_error_of_mlflow_before_the_training_is_a_warning(tmp_path, monkeypatch, caplog):
    def fail(logger):
        raise ConnectionError("no answer")

    monkeypatch.setattr(loggers.MLFlowLogger, "experiment", property(fail))
    logger = MLFlowLogger.__new__(MLFlowLogger)  # without the package
    vars(logger).update(note=tmp_path / "mlflow" / "run_id", is_lost=False, _initialized=False)
    for _ in range(2):
        assert logger.experiment.anything() is NOWHERE
    logger.log_hyperparams(CONFIG)
    assert caplog.text.count("MLflow logging failed; the run continues without it: ConnectionError: no answer") == 1


@pytest.fixture
def arguments(monkeypatch, tmp_path):
    """Return a function of overrides and environment → the arguments that wandb.init gets, and the config of the logger."""
    install()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)

    def make(*words, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [*words, f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        node = cfg.logger.wandb
        options = {**OmegaConf.to_container(node, resolve=True), **identity(node, cfg, cfg.hydra)}
        options = {key: value for key, value in options.items() if key not in ("_target_", "settings")}
        return WandbLogger(**options)._wandb_init | {"offline": options["offline"]}, cfg.logger

    yield make
    HydraConfig.instance().cfg = None


def test_wandb_has_our_defaults_without_an_environment(arguments):
    found, _ = arguments("seed=2")
    expected = {"project": "inception_zoo", "name": "googlenet", "group": None, "job_type": "fit", "tags": ["seed=2"]}
    assert {key: found[key] for key in expected} == expected
    assert found["offline"] is True and found["entity"] is found["notes"] is None


def test_the_environment_of_wandb_replaces_the_defaults_and_the_command_line_replaces_both(arguments):
    names = {"PROJECT": "p", "ENTITY": "e", "NAME": "n", "RUN_GROUP": "g", "JOB_TYPE": "j", "NOTES": "o", "TAGS": "a,b"}
    variables = {f"WANDB_{name}": value for name, value in {**names, "RUN_ID": "r", "MODE": "online"}.items()}
    found, _ = arguments("seed=2", **variables)
    keys = ("project", "entity", "name", "group", "job_type", "notes", "tags", "id")
    assert [found[key] for key in keys] == ["p", "e", "n", "g", "j", "o", None, None]  # W&B reads the last two itself
    assert found["offline"] is False
    typed, _ = arguments("logger.wandb.project=mine", "logger.wandb.tags=[c]", "logger.wandb.offline=true")
    assert (typed["project"], typed["tags"], typed["offline"], typed["name"]) == ("mine", ["c"], True, "n")


def test_online_on_the_command_line_counts_more_than_offline_in_the_environment(arguments):
    found, _ = arguments("logger.wandb.offline=false", WANDB_MODE="offline")
    assert found["mode"] == "online"
    assert issubclass(WandbLogger, Lightnings)


def test_wandb_that_is_disabled_needs_no_key(arguments, monkeypatch):
    _, node = arguments(WANDB_MODE="disabled")
    monkeypatch.setattr("wandb.login", lambda **options: False)
    check_wandb(node)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ZooError, match="needs an API key"):
        check_wandb(node)


def test_mlflow_has_the_name_of_the_run(arguments, tmp_path):
    hydra = SimpleNamespace(mode=None, runtime=SimpleNamespace(output_dir=str(tmp_path)))
    cfg = OmegaConf.create({"run_name": None, "model": {"name": "googlenet"}})
    node = OmegaConf.create({"_target_": "inception_zoo.tracking.mlflow_logger.MLFlowLogger", "run_name": None})
    assert identity(node, cfg, hydra) == {"run_name": "googlenet"}
    cfg.run_name = "baseline"
    assert identity(node, cfg, hydra) == {"run_name": "baseline"}
    node.run_name = "mine"
    assert identity(node, cfg, hydra) == {}
