"""Allow-list of `_target_`: exact names of shipped classes and similar ones, extended by an environment variable."""

import inspect
import json
from importlib import import_module

import pytest
from conftest import SMALL, lines
from omegaconf import OmegaConf

from inception_zoo import ZooError
from inception_zoo.app import CONF
from inception_zoo.config.allowed import LOGGING, TARGETS
from inception_zoo.config.targets import (
    VARIABLE,
    own,
    refused_blocks,
    refused_logging,
    refused_targets,
    refused_variables,
    targets_in,
    trust_words,
)


def found(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_all_that_we_ship_is_allowed():
    configs = {path: OmegaConf.to_container(OmegaConf.load(path)) for path in CONF.rglob("*.yaml")}
    targets = {target for config in configs.values() for _, target in targets_in(config)} - {"???"}
    assert len(targets) > 30 and targets <= TARGETS.keys()


def test_all_that_is_allowed_is_a_class_or_function_of_that_very_name():
    for path in TARGETS.keys() | {name for name in LOGGING if "://" not in name}:
        assert callable(found(path)), path


# Arguments that a config does not pass
GIVEN = {"optimizer", "params", "steps", "epoch_steps", "args", "kwargs", "root", "augmentation", "node"}


def test_closed_tables_have_every_option_and_no_other():
    closed = {path: set(rules) for path, rules in TARGETS.items() if ... not in rules}
    assert len(closed) > 20
    for path, options in closed.items():
        parameters = set(inspect.signature(found(path)).parameters)
        assert options <= parameters | GIVEN and parameters - GIVEN <= options, path


STRANGE = [
    *("torch.load", "torch.hub.load", "joblib.load", "builtins.open", "builtins.eval", "os.system", "subprocess.Popen"),
    *("torch.optim.SGD.__init__.__globals__", "torch.optim.os.system", "torch.optim.SGD.__class__", "torch.optim", "SGD"),
    *("hydra.utils.get_method", "hydra.utils.instantiate", "hydra.utils.call", "functools.partial", "pickle.loads"),
    *(
        "torch.optim.sgd.SGD ",
        " torch.optim.SGD",
        "torch.optim.SGD,os.system",
        "",
        3,
        None,
        ["torch.optim.SGD"],
        {"a": "os.system"},
    ),
]


@pytest.mark.parametrize("target", STRANGE)
def test_what_is_not_allowed_is_refused_at_any_depth(target):
    for config in (
        {"optimizer": {"_target_": target}},
        {"optimizer": {"_target_": "torch.optim.SGD", "lr": {"_target_": target, "_args_": ["x"]}}},
        {"callbacks": {"x": [[{"y": {"_target_": target}}]]}},
    ):
        (message,) = refused_targets(config)
        assert "_target_=" in message and "is not on the allow-list" in message and "\n" not in message


def test_the_message_names_the_key_the_near_name_and_the_door():
    config = {"callbacks": {"best": [{"_target_": "lightning.pytorch.callbacks.ModelChekpoint"}]}}
    near = "lightning.pytorch.callbacks.ModelCheckpoint"
    door = f"if you trust it, set the environment variable {VARIABLE}=lightning.pytorch.callbacks.ModelChekpoint"
    assert refused_targets(config) == [
        "callbacks.best.0._target_=lightning.pytorch.callbacks.ModelChekpoint is not on the allow-list; "
        f"did you mean '{near}'?; {door}"
    ]


def test_the_environment_alone_opens_the_door_and_for_exact_names(monkeypatch):
    config = {"optimizer": {"_target_": "mine.Best"}, "callbacks": {"x": {"_target_": "mine.Best.other"}}}
    monkeypatch.setenv(VARIABLE, " mine.Best, mine.rows ")
    (message,) = refused_targets(config)
    assert message.startswith("callbacks.x._target_=mine.Best.other is not on the allow-list")
    assert refused_blocks({"all": "mine.rows", "grid7": "residual", "grid8": ["1x1 8"]}) == []
    assert refused_variables({VARIABLE: "os.system", "LD_PRELOAD": "x", "OMP_NUM_THREADS": "1"}) == [
        f"hydra.job.env_set.{name} is not allowed; set {name} in the environment" for name in (VARIABLE, "LD_PRELOAD")
    ]


@pytest.mark.parametrize("name", ["my_parts.*", "my_parts", "my-parts.Mine", "my_parts.Mine.", "my_parts:Mine"])
def test_what_is_not_a_full_name_in_the_environment_is_refused(name, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"mine.Best,{name}")
    with pytest.raises(ZooError) as error:
        refused_targets({"optimizer": {"_target_": "my_parts.Mine"}})
    assert (
        str(error.value)
        == f"{VARIABLE}={name}: not a name such as my_parts.Mine; write each name in full, patterns do not work"
    )


def test_a_pattern_in_the_environment_ends_in_one_line(mistake):
    done = mistake("data=digits", env={VARIABLE: "my_parts.*"}.items())
    assert done.returncode == 2 and done.stderr.startswith(f"error: {VARIABLE}=my_parts.*: ") and done.stderr.count("\n") == 1


def test_block_functions_are_trusted_where_they_were_typed(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    words = ["model.blocks.grid8=my.one", "+model.blocks={all: my.two, x: {rows: ['1x1 8'], scale: 0.2}}", "ckpt=my.three"]
    trust_words([*words, "model.blocks.all=residual,my.pack.four", "optimizer._target_=my.five", "-m"])
    assert own() == {"my.one", "my.two", "my.pack.four"}
    (message,) = refused_blocks({"grid7": "my.one", "grid8": "os.system"})
    assert message.startswith(
        "model.blocks.grid8=os.system is a function that is not on the allow-list; give it on the command line"
    )


def test_logging_may_name_handlers_and_streams_only():
    fine = {"handlers": {"a": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "filename": "a://b c"}}}
    for value in ("os.system", "${x}", 3, {"()": "os.system"}):
        for key in ("class", "()"):
            assert refused_logging({"handlers": {"a": {key: value}}}, "hydra.job_logging")
    for value in ("ext://os.environ", "cfg://handlers", "ext://sys.stdout.write"):
        assert refused_logging({"handlers": {"a": {"stream": [value]}}}, "hydra.job_logging")
    assert refused_logging(fine, "hydra.job_logging") == [
        "hydra.job_logging.handlers.a.filename=a://b c is not on the allow-list; if you trust it, set the environment variable "
        "INCEPTION_ZOO_TARGETS=a://b c"
    ]


EVIL = "{_target_: os.mkdir, _args_: [ran]}"
HIDDEN_CALLS = {
    "in a group": f"optimizer: {EVIL}",
    "in a list": f"trainer: {{plugins: [{EVIL}]}}",
    "by reference": "optimizer: {_target_: '${ckpt}'}\nckpt: os.mkdir",
    "in a text": "callbacks: {x: '${oc.create:\"{_target_: os.mkdir, _args_: [ran]}\"}'}",
    "in a text of a text": "logger: {csv: {name: '\\${oc.create:\"{_target_: os.mkdir, _args_: [ran]}\"}'}}",
    "Hydra's callbacks": f"hydra: {{callbacks: {{x: {EVIL}}}}}",
    "Hydra's launcher": "hydra: {mode: MULTIRUN, launcher: {_target_: os.mkdir}}",
    "Hydra's sweeper": "hydra: {mode: MULTIRUN, sweeper: {_target_: os.mkdir}}",
    "Hydra's logging": "hydra: {job_logging: {handlers: {console: {class: os.mkdir, path: ran, formatter: null}}}}",
    "a block": "model: {blocks: {inception_3a: os.mkdir}}",
    "the environment": f"hydra: {{job: {{env_set: {{INCEPTION_ZOO_TARGETS: os.mkdir}}}}}}\noptimizer: {EVIL}",
}


@pytest.mark.parametrize("case", HIDDEN_CALLS)
def test_a_strangers_config_has_nothing_called(case, mistake, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/stranger.yaml").write_text(f"# @package _global_\n{HIDDEN_CALLS[case]}\n")
    before = set(tmp_path.rglob("*"))
    done = mistake("--config-dir", "conf", "experiment=stranger", *SMALL)
    assert done.returncode == 2 and all(line.startswith("error: ") for line in lines(done.stderr)), done.stderr
    assert any(
        word in done.stderr
        for word in ("is not on the allow-list", "is not allowed", "must not contain '${'", "must have a _target_")
    ), done.stderr
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "stdout.txt", tmp_path / "stderr.txt"}


def test_each_job_of_a_sweep_is_looked_at(mistake, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    for name, line in HIDDEN_CALLS.items():
        if "Hydra" not in name:
            (tmp_path / f"conf/experiment/{name.replace(' ', '_')}.yaml").write_text(f"# @package _global_\n{line}\n")
    jobs = sorted(path.stem for path in tmp_path.glob("conf/experiment/*"))
    words = ["-m", "--config-dir", "conf", f"experiment={','.join(jobs)}", "hydra.sweep.dir=sweep"]
    done = mistake(*words, *SMALL)
    assert done.returncode == 1 and not list(tmp_path.rglob("ran")), done.stderr
    results = [json.loads((tmp_path / f"sweep/{number}/results.json").read_text()) for number in range(len(jobs))]
    assert {result["state"] for result in results} == {"failed"} and len(jobs) == 7


def test_a_job_of_a_sweep_may_not_log_by_what_it_likes(mistake, tmp_path):
    logging = HIDDEN_CALLS["Hydra's logging"]
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/stranger.yaml").write_text(f"# @package _global_\n{logging}\n")
    done = mistake("-m", "--config-dir", "conf", "experiment=quickstart,stranger", "seed=-1", *SMALL)
    assert done.returncode != 0 and "logging.handlers.console.class=os.mkdir is not on the allow-list" in done.stderr
    assert not list(tmp_path.rglob("ran"))


def test_a_callback_of_ones_own_comes_in_by_the_door(mistake, tmp_path):
    (tmp_path / "my_parts.py").write_text("def fail():\n    raise ValueError('called')\n")
    words = [*SMALL, "+callbacks.mine._target_=my_parts.fail", "logger=csv"]
    closed = mistake(*words)
    assert closed.returncode == 2 and f"if you trust it, set the environment variable {VARIABLE}=my_parts.fail" in closed.stderr
    opened = mistake(*words, env={VARIABLE: "my_parts.fail"}.items())
    assert opened.returncode == 2 and "error: callbacks.mine: " in opened.stderr and "called" in opened.stderr
