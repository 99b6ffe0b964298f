"""`ckpt=` takes the config of its run: what is taken, what the command line replaces, and what a file may not choose."""

import json
import sys
from copy import deepcopy
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict, read_write

from inception_zoo import ZooError, create_model
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.config import CONF, hydra_patches
from inception_zoo.config.check import check
from inception_zoo.errors import messages_of
from inception_zoo.redaction import redacted
from inception_zoo.saved_config import not_saved, recover
from inception_zoo.weights.saving import save_model

RUN = ["model=inception_v3", "model.width=0.25", "data=digits", "data.image_size=80", "data.flip=0.25", "optimizer=sgd"]


@pytest.fixture(autouse=True)
def hydra(monkeypatch, tmp_path):
    """Compose in an empty folder, as `app.main` does; afterwards Hydra is as it was."""
    hydra_patches.install()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INCEPTION_ZOO_TARGETS", raising=False)
    before = HydraConfig.instance().cfg
    yield
    HydraConfig.instance().cfg = before


@cache
def _composed(*words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*words, "hydra.mode=RUN"], return_hydra_config=True)


def composed(words, folder):
    """Return the config of a command whose run folder is `folder`, as `check_composed` receives it."""
    cfg = deepcopy(_composed(*words))
    with read_write(cfg), open_dict(cfg):
        cfg.hydra.run.dir = cfg.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_readonly(cfg.hydra, False)
    return cfg


def resolved(cfg):
    HydraConfig.instance().set_config(cfg)  # the folder may have another name now
    return OmegaConf.to_container(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), resolve=True)


def saved(words, folder, **changes):
    """Write the checkpoints of a run, without weights, and return the folder."""
    config = {**redacted(resolved(composed(words, folder))), **changes}
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("best.ckpt", "last.ckpt"):
        torch.save({"hyper_parameters": config, "state_dict": {}}, folder / "checkpoints" / name)
    return folder


def recovered(words, folder):
    """Return the resolved config of a command, its log lines and the overrides that describe it."""
    cfg = composed(words, folder)
    said = recover(cfg, cfg.hydra, folder)
    assert cfg.hydra.runtime.choices.model == cfg.model.name  # in the default name of the run folder
    return resolved(cfg), said, list(cfg.hydra.overrides.task)


def test_metrics_that_a_test_leaves_out_are_named(tmp_path):
    metric = "+metrics.sure={_target_: torchmetrics.MeanMetric}"
    old = saved([*RUN, metric], tmp_path / "old")
    assert recovered(["task=test", f"ckpt={old}"], tmp_path / "new")[1][1:] == [
        "config: a test does not take the metrics of the run (sure); repeat their overrides"
    ]
    assert len(recovered(["task=test", f"ckpt={old}", metric], tmp_path / "new")[1]) == 1


def test_a_resumed_run_has_the_whole_config_in_its_new_folder(tmp_path):
    part = "+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss}"
    words = [
        *RUN,
        "logger=csv",
        "~callbacks.throughput",
        part,
        "trainer.devices=2",
        "+trainer.profiler=simple",
        "layer_decay=0.5",
    ]
    old = saved([*words, "callbacks.best.dirpath='${hydra:runtime.output_dir}/best'"], tmp_path / "old")
    config, said, overrides = recovered([f"ckpt={old}", "trainer.max_epochs=20"], tmp_path / "new")
    wanted = resolved(composed([*words, "trainer.max_epochs=20"], tmp_path / "new"))
    wanted["callbacks"]["best"]["dirpath"] = f"{tmp_path}/new/best"
    assert config == {**wanted, "ckpt": f"{old}/checkpoints/last.ckpt"}
    assert list(config["callbacks"]) == list(wanted["callbacks"])  # the first checkpoint callback selects the tested one
    assert said == [f"config: from {old}/checkpoints/last.ckpt; trainer.max_epochs=20 from the command line"]
    assert overrides == [f"ckpt={old}", "trainer.max_epochs=20"]  # the folder has no overrides.yaml


def test_a_test_takes_network_data_and_seed_only(tmp_path):
    mine = ["+callbacks.mine={_target_: my.Mine}", "+logger.mine={_target_: my.Logger}", "trainer.limit_test_batches=2"]
    old = saved([*RUN, *mine, "seed=7", "data.eval_batch_size=10"], tmp_path / "old")
    config, said, _ = recovered(["task=test", f"ckpt={old}", "data.eval_batch_size=20"], tmp_path / "new")
    wanted = resolved(composed(["task=test", *RUN[:-1], "seed=7", "data.eval_batch_size=20"], tmp_path / "new"))
    assert config == {**wanted, "augmentation": config["augmentation"], "ckpt": f"{old}/checkpoints/best.ckpt"}
    check(config)
    assert said[0].endswith("; data.eval_batch_size=20 from the command line")
    assert not (tmp_path / "new").exists()


NAMED = {
    "a key": (["seed=3"], {"seed": 3, "data.image_size": 80, "data.seed": 1}),
    "a group": (
        ["data=synthetic"],
        {"data.flip": 0.0, "data.image_size": 96, "model.name": "inception_v3", "model.width": 0.25},
    ),
    "a key below a group": (["data=synthetic", "data.flip=0.5"], {"data.flip": 0.5}),
    "a mapping": (["model={width: 0.5}"], {"model.width": 0.5, "model.name": "inception_v3"}),
    "a deleted key": (["~callbacks.progress"], {"callbacks.progress": None, "optimizer.momentum": 0.9}),
    "a group of many keys": (["recipe=modern"], {"label_smoothing": 0.1, "data.flip": 0.25, "model.width": 0.25}),
    "what the new data follow": (
        ["data=imagefolder"],
        {"data.image_size": 299, "data.num_classes": 0, "model.num_classes": 10},
    ),
    "the same group again": (["optimizer=adamw"], {"optimizer._target_": "torch.optim.AdamW", "optimizer.momentum": None}),
}


@pytest.mark.parametrize("case", NAMED)
def test_the_command_line_counts(case, tmp_path):
    words, expected = NAMED[case]
    config, _, _ = recovered([*words, f"ckpt={saved(RUN, tmp_path / 'old')}"], tmp_path / "new")
    for key, value in expected.items():
        node = config
        for name in key.split("."):
            node = node.get(name) if node else None
        assert node == value, key


def test_other_data_are_tested_at_the_size_of_the_network(tmp_path):
    old = saved(RUN, tmp_path / "old")
    for words, size in (([], 80), (["data.image_size=96"], 96)):
        config, _, _ = recovered(["task=test", f"ckpt={old}", "data=imagefolder", "data.root=photos", *words], tmp_path / "new")
        assert (config["data"]["image_size"], config["data"]["root"]) == (size, "photos")


def test_overrides_go_on_to_describe_a_resumed_run(tmp_path):
    old = saved(RUN, tmp_path / "old")
    (old / ".hydra").mkdir()
    OmegaConf.save([*RUN, "ckpt=last"], old / ".hydra/overrides.yaml")
    assert recovered([f"ckpt={old}", "seed=1"], tmp_path / "new")[2] == [*RUN, f"ckpt={old}", "seed=1"]
    assert recovered(["task=test", f"ckpt={old}"], tmp_path / "new")[2] == ["task=test", f"ckpt={old}"]
    place = "+callbacks.x._args_=[{_target_: os.system}]"
    OmegaConf.save([*RUN, place], old / ".hydra/overrides.yaml")  # would be printed in the command that resumes the run
    cfg = composed([f"ckpt={old}", "callbacks.best.dirpath=/x"], tmp_path / "new")
    recover(cfg, cfg.hydra, tmp_path / "new")
    assert not_saved(cfg.hydra) == ["callbacks.best.dirpath=/x"]


def test_a_checkpoint_does_not_go_online_where_the_environment_says_offline(tmp_path, monkeypatch):
    old = saved([*RUN, "logger=wandb", "logger.wandb.offline=false"], tmp_path / "old")
    assert recovered([f"ckpt={old}"], tmp_path / "new")[0]["logger"]["wandb"]["offline"] is False
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ZooError, match=r"logger.wandb.offline=false: a checkpoint cannot set"):
        recovered([f"ckpt={old}"], tmp_path / "new")
    assert recovered([f"ckpt={old}", "logger=wandb"], tmp_path / "new")[0]["logger"]["wandb"]["offline"] is True


def test_a_server_that_the_environment_names_too_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a")
    old = saved([*RUN, "logger=mlflow"], tmp_path / "old")
    assert recovered([f"ckpt={old}"], tmp_path / "new")[0]["logger"]["mlflow"]["tracking_uri"] == "http://a"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://b")
    with pytest.raises(ZooError, match=r"logger.mlflow.tracking_uri=http://a: a checkpoint cannot set"):
        recovered([f"ckpt={old}"], tmp_path / "new")


def test_a_run_without_a_checkpoint_starts_again_with_its_own_config(tmp_path):
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(resolved(composed(RUN, tmp_path)), tmp_path / ".hydra/resolved.yaml")
    (tmp_path / "results.json").write_text('{"state": "running"}')
    config, _, _ = recovered(["ckpt=last"], tmp_path)
    assert config == {**resolved(composed(RUN, tmp_path)), "ckpt": "last"}


@pytest.mark.parametrize("left", [None, "", "- [mod", "{}"])
def test_a_run_that_was_killed_before_it_recorded_its_config_starts_again_as_typed(left, tmp_path):
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    if left is not None:
        (run / ".hydra/resolved.yaml").write_text("")
        (run / ".hydra/overrides.yaml").write_text(left)
    config, said, words = recovered(["ckpt=last", *RUN], run)
    assert config == {**resolved(composed(RUN, run)), "ckpt": "last"} and words == ["ckpt=last", *RUN]
    assert said == [f"config: {run} has no checkpoint; from {', '.join(RUN)}"]


def test_a_run_that_was_killed_before_it_recorded_its_config_keeps_its_overrides(tmp_path):
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save([*RUN, "seed=5"], tmp_path / ".hydra/overrides.yaml")
    config, said, words = recovered(["ckpt=last", "seed=7"], tmp_path)
    assert config == {**resolved(composed([*RUN, "seed=7"], tmp_path)), "ckpt": "last"} and "model=inception_v3" in said[0]
    assert words == [*RUN, "ckpt=last", "seed=7"]
    for place in ("callbacks.best.dirpath=/x", "data.root=${oc.env:HOME}", "+hydra.job.chdir=true"):
        OmegaConf.save([place], tmp_path / ".hydra/overrides.yaml")
        with pytest.raises(ZooError, match="is not taken from it; repeat the whole command"):
            recovered(["ckpt=last"], tmp_path)
    with pytest.raises(ZooError, match=r"ckpt=last: there is no intact checkpoint in \S+/gone or under outputs"):
        recovered(["ckpt=last"], tmp_path / "gone")


@pytest.mark.parametrize("task", ["fit", "test"])
def test_the_file_of_the_initial_weights_may_be_gone(task, tmp_path):
    old = saved([*RUN, "model.weights=gone.pth", "model.adapt=[head]"], tmp_path / "old")
    config, _, _ = recovered([f"task={task}", f"ckpt={old}"], tmp_path / "new")
    assert config["model"]["weights"] == "gone.pth"  # recorded, and compared if the command line names another
    check(config)


OLDER = {
    "a key that is gone": ({"gone": 1}, ["gone"]),
    "an option that is gone": ({"data": {"_target_": "inception_zoo.data.ImageData", "shuffle": True}}, ["data.shuffle"]),
    "an option of a callback": (
        {"callbacks": {"memory": {"_target_": "inception_zoo.callbacks.PeakMemory", "x": 1}}},
        ["callbacks.memory.x"],
    ),
    "an option of another library": ({"callbacks": {"timer": {"_target_": "lightning.pytorch.callbacks.Timer", "x": 1}}}, []),
}


@pytest.mark.parametrize("case", OLDER)
def test_checkpoints_of_older_versions(case, tmp_path):
    changes, gone = OLDER[case]
    config, said, _ = recovered([f"ckpt={saved(RUN, tmp_path / 'old', **changes)}"], tmp_path / "new")
    assert said[1:] == [f"config: {key} of the run does not exist any more; left out" for key in gone]
    assert config["layer_decay"] == 1.0 and config["data"]["crops"] == 1  # newer keys have their defaults


HOSTILE = {
    "a folder": ({"callbacks": {"best": {"dirpath": "/etc"}}}, "callbacks.best.dirpath=/etc: a checkpoint cannot set"),
    "a folder of no run": (
        {"trainer": {"default_root_dir": "/"}, "logger": {"x": {"save_dir": "/../etc"}}},
        "logger.x.save_dir",
    ),
    "a relative folder": ({"logger": {"csv": {"save_dir": "here"}}}, "add logger.csv.save_dir=VALUE to the command"),
    "a new option": ({"logger": {"tb": {"log_dir": "here"}}}, "add +logger.tb.log_dir=VALUE to the command"),
    "a name that leads out": ({"callbacks": {"best": {"filename": "../../x"}}}, "callbacks.best.filename=../../x"),
    "by position": ({"logger": {"tb": {"_args_": ["here"]}}}, "logger.tb._args_.0=here"),
    "a server": ({"logger": {"wandb": {"settings": {"base_url": "http://a"}}}}, "logger.wandb.settings.base_url=http://a"),
    "a proxy": (
        {"logger": {"wandb": {"settings": {"x_proxies": {"https": "a:80"}}}}},
        "logger.wandb.settings.x_proxies.https=a:80",
    ),
    "a foreign key": ({"logger": {"wandb": {"settings": {"api_key": "0" * 40}}}}, "logger.wandb.settings.api_key=000"),
    "servers by name": ({"logger": {"wandb": {"x_endpoints": {"b": "a:80"}}}}, "logger.wandb.x_endpoints.b=a:80"),
    "a folder as bytes": ({"callbacks": {"best": {"filename": b"/etc"}}}, "its config is not plain data"),
    "a cache": ({"data": {"source": {"cache": "here"}}}, "add +data.source.cache=VALUE"),
    "a remote data set": ({"data": {"root": "s3://bucket"}}, "add data.root=VALUE"),
    "a reference": ({"seed": "${oc.env:HOME}"}, "seed=${oc.env:HOME}: a checkpoint cannot set"),
    "a secret": ({"logger": {"wandb": {"api_key": "***"}}}, "logger.wandb.api_key=***: a checkpoint cannot set"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_checkpoint_chooses_no_place_address_or_secret(case, tmp_path):
    changes, message = HOSTILE[case]
    with pytest.raises(ZooError) as error:
        recovered([f"ckpt={saved(RUN, tmp_path / 'old', **changes)}"], tmp_path / "new")
    assert message in str(error.value)


def test_a_place_inside_a_strange_run_folder_stays_inside_the_new_one(tmp_path):
    old = saved(RUN, tmp_path / "old", trainer={"default_root_dir": "/"}, logger={"x": {"save_dir": "/etc/x"}})
    assert recovered([f"ckpt={old}"], tmp_path / "new")[0]["logger"]["x"]["save_dir"] == f"{tmp_path}/new/etc/x"


def test_code_of_a_checkpoint_needs_permission(tmp_path, monkeypatch):
    (tmp_path / "my.py").write_text("class Mine: ...\n\ndef rows(c_in, c_out, level):\n    return [f'1x1 {c_out}']\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = ["+callbacks.mine={_target_: my.Mine}", "model.blocks.mixed_6b=my.rows"]
    old = saved([*RUN, *mine], tmp_path / "old")
    monkeypatch.setenv("INCEPTION_ZOO_COMMAND", f"python run.py trainer.max_epochs=2 ckpt={old}")
    monkeypatch.delitem(sys.modules, "my", raising=False)
    config, _, _ = recovered(["trainer.max_epochs=2", f"ckpt={old}"], tmp_path / "new")
    with pytest.raises(ZooError) as error:
        check(config)
    how = f"INCEPTION_ZOO_TARGETS=my.Mine,my.rows python run.py trainer.max_epochs=2 ckpt={old}"
    assert all(message.endswith(how) for message in messages_of(error.value)) and len(messages_of(error.value)) == 2
    assert "my" not in sys.modules
    monkeypatch.setenv("INCEPTION_ZOO_TARGETS", "my.Mine,my.rows")
    check(config)


def test_only_what_a_checkpoint_cannot_set_is_repeated(tmp_path):
    words = ["data.root=s3://a", "model.width=0.5", "callbacks.best.dirpath=/x", "+logger.wandb.api_key=abcdefgh", "ckpt=/a"]
    assert not_saved(composed(words, tmp_path).hydra) == [words[0], words[2], "+logger.wandb.api_key=***"]


def test_saved_weights_are_tested_with_their_network(zoo, tmp_path):
    model = create_model("googlenet_bn", 10, 1, width=0.25, stem="medium")
    model.preprocessing, model.classes = Preprocessing(32, (0.3,), (0.4,), 32), list(map(str, range(10)))
    save_model(model, tmp_path / "net.safetensors")
    words = ["task=test", "ckpt=net.safetensors"]
    config, _, _ = recovered([*words, "data=digits"], tmp_path / "new")
    assert (config["ckpt"], config["model"]["weights"], config["model"]["name"]) == (None, "net.safetensors", "googlenet_bn")
    assert (config["data"]["image_size"], config["model"]["width"]) == (32, 0.25)
    for wrong in (words, [words[1], "data=digits"]):
        with pytest.raises(ZooError, match="has weights only, without the data; test it with task=test ckpt="):
            recovered(wrong, tmp_path / "new")
    done = zoo(*words, "data=digits", "trainer=smoke", "logger=none", "hydra.run.dir=tested")
    assert done.returncode == 0, done.stderr
    assert "net.safetensors" in done.stdout and "set to match the weights: data.mean=[0.3]" in done.stdout
    assert json.loads((tmp_path / "tested/results.json").read_text())["model"] == "googlenet_bn"
