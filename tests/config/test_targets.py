"""Allow-list of `_target_`: exact names of shipped classes and similar ones, extended by an environment variable."""

import inspect
import json
import sys
from importlib import import_module

import pytest
from conftest import SMALL, lines
from omegaconf import OmegaConf

from inception_zoo import ZooError
from inception_zoo.app import CONF
from inception_zoo.config.allowed import TARGETS
from inception_zoo.config.targets import (
    AGENT,
    COMMAND,
    VARIABLE,
    own,
    refused_in_file,
    refused_targets,
    refused_words,
    trust_words,
    walk,
)


def found(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_all_that_we_ship_is_allowed():
    configs = {path: OmegaConf.to_container(OmegaConf.load(path)) for path in CONF.rglob("*.yaml")}
    targets = {target for config in configs.values() for key, target in walk(config) if key.endswith("_target_")} - {"???"}
    assert len(targets) > 30 and targets <= TARGETS.keys()


def test_all_that_is_allowed_is_a_class_or_function_of_that_very_name():
    for path in TARGETS:
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


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Create the modules `my_parts`, which has a class, and `torn`, which fails; nothing is trusted."""
    (tmp_path / "my_parts.py").write_text("class MyAdam:\n    class Inner: ...\n    size = 3\n\ndef rows(): ...\n")
    (tmp_path / "torn.py").write_text("import not_installed_here\n")
    (tmp_path / "shut.py").write_text("raise OSError('closed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("my_parts", "torn", "shut"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in (AGENT, COMMAND, VARIABLE):
        monkeypatch.setenv(name, "")  # restored after the test, also where a test sets it
    monkeypatch.delenv(AGENT)


def test_the_message_names_the_key_the_near_name_and_the_whole_command(parts, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/inception-zoo", "data", "show", "--config-dir", "my conf"])
    config = {"callbacks": {"best": [{"_target_": "lightning.pytorch.callbacks.ModelChekpoint"}]}}
    near = "lightning.pytorch.callbacks.ModelCheckpoint"
    assert refused_targets(config) == [
        "callbacks.best.0._target_=lightning.pytorch.callbacks.ModelChekpoint is not on the allow-list; "
        f"did you mean '{near}'?; if you trust it, allow its exact name: {VARIABLE}=lightning.pytorch.callbacks.ModelChekpoint "
        "inception-zoo data show --config-dir 'my conf'"
    ]


def test_the_command_has_all_names_that_it_needs_and_no_secret(parts, monkeypatch):
    monkeypatch.setenv(VARIABLE, "my_parts.MyAdam")
    trust_words(["ckpt=last", "+logger.w.api_key=abcdefghi", "hydra.run.dir='a b'"], "python", "run.py")
    config = {"optimizer": {"_target_": "new.One"}, "model": {"blocks": {"grid8": "new.two", "grid7": "residual"}}}
    command = """python run.py ckpt=last '+logger.w.api_key=***' 'hydra.run.dir='"'"'a b'"'"''"""
    door = f"; if you trust it, allow its exact name: {VARIABLE}=my_parts.MyAdam,new.One,new.two {command}"
    assert refused_targets(config) == [
        f"optimizer._target_=new.One is not on the allow-list{door}",
        f"model.blocks.grid8=new.two is not on the allow-list{door}",
    ]


def test_the_environment_allows_exact_names_and_a_config_cannot_set_it(parts, monkeypatch):
    config = {"optimizer": {"_target_": "my_parts.MyAdam"}, "callbacks": {"x": {"_target_": "my_parts.MyAdam.Inner"}}}
    monkeypatch.setenv(VARIABLE, " my_parts.MyAdam, my_parts.rows ")
    (message,) = refused_targets(config)
    assert message.startswith("callbacks.x._target_=my_parts.MyAdam.Inner is not on the allow-list")
    assert refused_targets({"model": {"blocks": {"all": "my_parts.rows", "grid7": "residual", "grid8": ["1x1 8"]}}}) == []
    (message,) = refused_in_file({"hydra": {"job": {"env_set": {VARIABLE: "os.system", "OMP_NUM_THREADS": "1"}}}})
    assert message.startswith(f"hydra.job.env_set.{VARIABLE}=os.system must not come from a file; set it in the environment")


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


# An override → the names that typing it allows
TYPED = {
    "optimizer._target_=my_parts.MyAdam": {"my_parts.MyAdam"},
    "+callbacks.mine._target_=my_parts.rows": {"my_parts.rows"},
    "+callbacks.mine={_target_: my_parts.rows, name: not.this}": {"my_parts.rows"},
    "++callbacks.mine={_target_:'my_parts.rows',inner:{_target_:my_parts.MyAdam.Inner}}": {
        "my_parts.rows",
        "my_parts.MyAdam.Inner",
    },
    "+trainer.plugins=[{_target_: a.B}, {x: [{_target_: c.D}]}]": {"a.B", "c.D"},
    "optimizer._target_=a.B,choice(c.D,torch.optim.SGD)": {"a.B", "c.D"},
    "+callbacks.mine={_target_: a.B},{_target_: c.D}": {"a.B", "c.D"},
    "model.blocks.grid8=my_parts.rows": {"my_parts.rows"},
    "+model.blocks={all: my.two, x: {rows: ['1x1 8'], scale: 0.2}}": {"my.two"},
    "model.blocks.all=residual,my.pack.four": {"my.pack.four"},
    "optimizer._target_=${oc.env:NAME}": set(),
    "ckpt=my.three": set(),
    "logger.wandb.notes=my.three": set(),
    "-m": set(),
}


@pytest.mark.parametrize("word", TYPED)
def test_what_was_typed_is_trusted(word, parts, monkeypatch):
    trust_words([word])
    assert own() == TYPED[word]


@pytest.mark.parametrize("word", TYPED)
def test_what_an_agent_of_wandb_runs_was_not_typed(word, parts, monkeypatch):
    monkeypatch.setenv(AGENT, "abc123")
    trust_words([word], "python", "run.py")
    messages = refused_words([word])
    assert own() == set() and len(messages) == len(TYPED[word])
    assert all(message.endswith(f"{VARIABLE}={','.join(sorted(TYPED[word]))} wandb agent abc123") for message in messages)


def test_the_words_of_a_sweep_to_resume_are_not_typed(parts, tmp_path, mistake):
    sweep = tmp_path / "my sweep"
    sweep.mkdir()
    words = ["-m", "seed=1,2", "optimizer._target_=my_parts.MyAdam", "model.blocks.all=my_parts.rows", *SMALL]
    asked = {"argv": words, "cwd": str(tmp_path), "jobs": ["0", "1"], "fails_again": True}
    (sweep / "sweep.json").write_text(json.dumps(asked))
    done = mistake("-m", f"sweep.resume={sweep}")
    first, second = lines(done.stderr)
    command = f"{VARIABLE}=my_parts.MyAdam,my_parts.rows inception-zoo run -m 'sweep.resume={sweep}'"
    assert done.returncode == 2 and first.startswith("error: optimizer._target_=my_parts.MyAdam is not on the allow-list; ")
    assert first.endswith(command) and second.endswith(command) and [path.name for path in sweep.iterdir()] == ["sweep.json"]


UNFOUND = {
    "my_prts.MyAdam": "no module 'my_prts' in {folder} or among the installed packages; start in the module's folder",
    "my_parts.MyAdm": "my_parts has no 'MyAdm'; did you mean 'MyAdam'?",
    "my_parts.Strange": "my_parts has no 'Strange'; it has MyAdam, rows",
    "my_parts.MyAdam.Outer": "MyAdam has no 'Outer'; it has Inner",
    "my_parts.MyAdam.size": "not a class or function; name one",
    "torn.Thing": "module torn imports 'not_installed_here', which is not installed; install it",
    "shut.Thing": "module shut fails with OSError: closed",
}


@pytest.mark.parametrize("name", UNFOUND)
def test_a_typed_name_that_cannot_be_imported_is_one_line(name, parts, tmp_path):
    message = UNFOUND[name].format(folder=tmp_path)
    trust_words([f"optimizer._target_={name}"])
    assert refused_targets({"optimizer": {"_target_": name}}) == [f"optimizer._target_={name}: {message}"]
    assert refused_words(["-m", f"+model.blocks.all=residual,{name}"]) == [f"model.blocks.all={name}: {message}"]


EVIL = "{_target_: os.mkdir, _args_: [ran]}"
HIDDEN_CALLS = {
    "in a group": f"optimizer: {EVIL}",
    "in a list": f"trainer: {{plugins: [{EVIL}]}}",
    "by reference": "optimizer: {_target_: '${trainer.precision}'}\ntrainer: {precision: os.mkdir}",
    "in a text": "callbacks: {x: '${oc.create:\"{_target_: os.mkdir, _args_: [ran]}\"}'}",
    "in a text of a text": "logger: {csv: {name: '\\${oc.create:\"{_target_: os.mkdir, _args_: [ran]}\"}'}}",
    "Hydra's callbacks": f"hydra: {{callbacks: {{x: {EVIL}}}}}",
    "Hydra's launcher": "hydra: {mode: MULTIRUN, launcher: {_target_: os.mkdir}}",
    "Hydra's sweeper": "hydra: {mode: MULTIRUN, sweeper: {_target_: os.mkdir}}",
    "Hydra's logging": "hydra: {job_logging: {handlers: {console: {class: os.mkdir, path: ran, formatter: null}}}}",
    "a block": "model: {blocks: {inception_3a: evil.block}}",
    "the environment": f"hydra: {{job: {{env_set: {{INCEPTION_ZOO_TARGETS: os.mkdir}}}}}}\noptimizer: {EVIL}",
}


@pytest.mark.parametrize("case", HIDDEN_CALLS)
def test_a_strangers_config_has_nothing_called(case, mistake, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "evil.py").write_text("open('ran', 'w')\n")  # even an import would run it
    (tmp_path / "conf/experiment/stranger.yaml").write_text(f"# @package _global_\n{HIDDEN_CALLS[case]}\n")
    before = set(tmp_path.rglob("*"))
    done = mistake("--config-dir", "conf", "experiment=stranger", *SMALL)
    assert done.returncode == 2 and all(line.startswith("error: ") for line in lines(done.stderr)), done.stderr
    assert any(
        word in done.stderr
        for word in ("is not on the allow-list", "must not come from a file", "must not contain '${'", "must have a _target_")
    ), done.stderr
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "stdout.txt", tmp_path / "stderr.txt"}


def test_each_job_of_a_sweep_is_looked_at(mistake, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    for name, line in HIDDEN_CALLS.items():
        if "Hydra" not in name and "text" not in name and name != "the environment":  # those end the sweep as they are read
            (tmp_path / f"conf/experiment/{name.replace(' ', '_')}.yaml").write_text(f"# @package _global_\n{line}\n")
    jobs = sorted(path.stem for path in tmp_path.glob("conf/experiment/*"))
    words = ["-m", "--config-dir", "conf", f"experiment={','.join(jobs)}", "hydra.sweep.dir=sweep"]
    done = mistake(*words, *SMALL)
    assert done.returncode == 1 and not list(tmp_path.rglob("ran")), done.stderr
    results = [json.loads((tmp_path / f"sweep/{number}/results.json").read_text()) for number in range(len(jobs))]
    assert {result["state"] for result in results} == {"failed"} and len(jobs) == 4


def test_a_job_of_a_sweep_may_not_log_by_what_it_likes(mistake, tmp_path):
    logging = HIDDEN_CALLS["Hydra's logging"]
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/stranger.yaml").write_text(f"# @package _global_\n{logging}\n")
    done = mistake("-m", "--config-dir", "conf", "experiment=quickstart,stranger", "seed=-1", *SMALL)
    assert done.returncode != 0 and "logging.handlers.console.class=os.mkdir must not come from a file" in done.stderr
    assert not list(tmp_path.rglob("ran"))


def test_a_callback_of_ones_own_is_typed_or_allowed(mistake, tmp_path):
    (tmp_path / "my_parts.py").write_text("def fail():\n    raise ValueError('called')\n")
    (tmp_path / "conf/callbacks").mkdir(parents=True)
    (tmp_path / "conf/callbacks/mine.yaml").write_text("defaults: [default]\nmine: {_target_: my_parts.fail}\n")
    filed = ["--config-dir", "conf", "callbacks=mine", *SMALL, "logger=csv"]
    closed = mistake(*filed)
    assert closed.returncode == 2 and f"{VARIABLE}=my_parts.fail inception-zoo run --config-dir conf" in closed.stderr
    allowed = mistake(*filed, env={VARIABLE: "my_parts.fail"}.items())
    typed = mistake(*SMALL, "logger=csv", "+callbacks.mine._target_=my_parts.fail")
    for opened in (allowed, typed):
        assert opened.returncode == 2 and "error: callbacks.mine: " in opened.stderr and "called" in opened.stderr
