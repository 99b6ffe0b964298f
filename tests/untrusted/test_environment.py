"""Untrusted configs, repositories and folders: nobody but the user names a variable, a program, a place or an address."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import SMALL, lines
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from tools import commands
from tools.hostile_configs import FINE, ONLY_TYPED, PLACES, SHELL, a_file_passes_no_other_variable_target_or_secret, nested

from inception_zoo.config import CONF
from inception_zoo.config.hydra_patches import _checked, _here
from inception_zoo.config.targets import AGENT, VARIABLE, own, refused_in_file, trust_words
from inception_zoo.data.fashion_mnist import fashion_mnist
from inception_zoo.errors import ZooError, imported, in_quotes
from inception_zoo.system.places import READ_ONLY
from inception_zoo.system.programs import commit_of, find_program

SECRET = "s3cr3t-value"


@pytest.fixture(autouse=True)
def calm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (VARIABLE, AGENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLE, "")  # so that it is restored: `trust_words` sets it
    for name in ("AWS_SECRET_ACCESS_KEY", "DATABASE", "TOKEN"):
        monkeypatch.setenv(name, SECRET)
    yield
    assert not list(tmp_path.rglob("pwned*"))


test_a_file_passes_no_other_variable_target_or_secret = a_file_passes_no_other_variable_target_or_secret


def word(key, value):
    """Return the override that sets a key; JSON is Hydra's syntax, too, but for the quotes of keys."""
    if isinstance(value, dict):
        return f"+{key}={{{','.join(f'{name}: {quoted(each)}' for name, each in value.items())}}}"
    return f"+{key}={quoted(value)}"


def quoted(value):
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}: {quoted(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(quoted, value)) + "]"
    return in_quotes(value) if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("key", ONLY_TYPED)
def test_a_value_that_only_the_user_sets(key, monkeypatch):
    value = ONLY_TYPED[key]
    node = nested(key, value)
    messages = refused_in_file(node)
    assert messages and all("\n" not in each and " must not come from a file; " in each for each in messages)
    assert SECRET not in str(messages)
    named = [each.partition("=")[0] for each in messages]
    assert all(name.startswith(key) or key.startswith("hydra.sweeper.") for name in named)
    if ".env_set." in named[0] and key in named:
        assert f"set it in the environment: {key.rpartition('.')[2]}=… " in messages[0]
    elif ".env_set." not in named[0]:
        assert f"{VARIABLE}={','.join(sorted(named))} " in messages[0]
    assert refused_in_file([word(key, value)])  # as an override of a saved sweep or an agent
    monkeypatch.setenv(AGENT, "abc")
    trust_words([word(key, value)])
    assert own() == set()
    monkeypatch.delenv(AGENT)
    trust_words([word(key, value)])  # typed: now it is allowed, here and in the processes that inherit the environment
    if key in ("hydra.run.dir", "hydra.sweep.dir"):  # what is typed is not looked at
        return
    assert refused_in_file([word(key, value)]) == [] and os.environ[VARIABLE]


@pytest.mark.parametrize("key", FINE)
def test_what_a_file_may_set(key):
    assert refused_in_file(nested(key, FINE[key])) == []
    if "${zoo" not in str(FINE[key]) and "params" not in key:
        assert refused_in_file([word(key, FINE[key])]) == []


def merged(table):
    found = {}
    for key, value in table.items():
        node = found
        *path, last = key.split(".")
        for name in path:
            node = node.setdefault(name, {})
        node[last] = {**node[last], **value} if isinstance(node.get(last), dict) and isinstance(value, dict) else value
    return found


def written(table, folder=Path("conf")):
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment/theirs.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(merged(table))}")


def is_refused(done, keys):
    said = lines(done.stderr)
    assert done.returncode == 2 and all(line.startswith("error: ") for line in said), done.stderr
    missing = [key for key in keys if not any(line.startswith((f"error: {key}=", f"error: {key}.")) for line in said)]
    assert not missing, (missing, done.stderr)
    assert not Path("outputs").exists() and not Path("multirun").exists() and SECRET not in done.stderr


COMPOSED = [key for key in ONLY_TYPED if not key.startswith(("hydra.searchpath", "hydra.sweeper.params", "hydra.sweeper.jobs"))]


def test_a_file_of_config_dir(mistake):
    written({key: ONLY_TYPED[key] for key in COMPOSED})
    is_refused(mistake("--config-dir", "conf", "experiment=theirs", *SMALL), COMPOSED)
    done = mistake("--config-dir", "conf", "-m", "experiment=theirs,quickstart", *SMALL)
    assert done.returncode != 0 and "hydra.job.env_set.CXX=" in done.stderr and not list(Path().rglob("checkpoints"))


def test_a_file_under_another_package_or_in_another_group(mistake):
    launcher = Path("conf/hydra/launcher")
    launcher.mkdir(parents=True)
    (launcher / "mine.yaml").write_text(f"defaults: [joblib]\npre_dispatch: '{SHELL}'\n")
    (Path("conf/data")).mkdir()
    (Path("conf/data/mine.yaml")).write_text(f"# @package hydra.job\nenv_set: {{CXX: '{SHELL}'}}\n")
    is_refused(mistake("--config-dir", "conf", "-m", "hydra/launcher=mine", "seed=1,2"), ["hydra.launcher.pre_dispatch"])
    is_refused(mistake("--config-dir", "conf", "data=mine"), ["hydra.job.env_set.CXX"])
    is_refused(mistake("--config-dir", "conf", "+data@hydra.job=mine"), ["hydra.job.env_set.CXX"])
    is_refused(mistake("--config-path", str(Path("conf/data").absolute()), "--config-name", "mine"), ["hydra.job.env_set.CXX"])


def test_ways_around_the_check_of_a_file(mistake, tmp_path):
    trap = tmp_path / "theirs"
    (trap / "experiment").mkdir(parents=True)
    (trap / "__init__.py").write_text("import pathlib; pathlib.Path(__file__).with_name('pwned').touch()\n")
    (trap / "experiment/by_defaults.yaml").write_text(
        "# @package _global_\ndefaults:\n- optional /experiment@zzz: ${oc.env:TOKEN}\n"
    )
    (trap / "experiment/online.yaml").write_text(
        "# @package _global_\nlogger: {mine: {_target_: inception_zoo.tracking.wandb_logger.WandbLogger, "
        "save_dir: '${hydra:runtime.output_dir}'}}\n"
    )
    (trap / "experiment/itself.yaml").write_text("# @package _global_\ndefaults: [/experiment: itself]\n")
    for name, package in (("main", "_global_"), ("below", "sweep.x")):  # Hydra imports the packages of a primary config first
        (trap / f"{name}.yaml").write_text(
            f"# @package {package}\ndefaults: [config, _self_]\nhydra: {{searchpath: ['pkg://theirs']}}\n"
        )
    where = ["--config-dir", "theirs"]
    for name in ("main", "below"):
        is_refused(mistake(*where, "--config-name", name, *SMALL), ["hydra.searchpath"])
    is_refused(mistake(*where, "experiment=by_defaults", *SMALL), ["defaults"])
    is_refused(mistake(*where, "experiment=online", *SMALL), ["logger.mine.offline"])
    looped = mistake(*where, "experiment=itself", *SMALL)
    assert lines(looped.stderr) == ["error: a config file is nested too deeply, or includes itself"]
    agent = mistake("--config-path=pkg://theirs", "--experimental-rerun=x", env={AGENT: "abc"}.items())
    flags = ["--config-path=pkg://theirs", "--experimental-rerun=x"]
    assert lines(agent.stderr) == [f"error: {flag} must not come from a file; repeat the whole command" for flag in flags]


@pytest.mark.parametrize("path", [f"file://{CONF}_theirs", f"file://{CONF}/../theirs", "pkg://hydra.confs", "pkg://theirs"])
def test_only_the_exact_folder_of_configs_is_trusted(path):
    found = ConfigResult("theirs", path, OmegaConf.create({"hydra": {"searchpath": ["pkg://theirs"]}}), {})
    for check in _here, _checked:
        with pytest.raises(ZooError, match=r"hydra\.searchpath"):
            check(found)


def test_places_in_a_composed_config(mistake):
    keys = {key: value for key, value in PLACES.items() if not key.startswith("logger.mlflow")}
    written(keys)
    done = mistake("--config-dir", "conf", "experiment=theirs", *SMALL)
    is_refused(
        done, [key for key in keys if key not in ("logger.csv.prefix", "logger.csv.name", "data.source.cache", "data.root")]
    )
    typed = [
        word(key, value) if ".settings." in key else word(key, value)[1:]
        for key, value in keys.items()
        if "$" not in str(value)
    ]
    again = mistake("--config-dir", "conf", "experiment=theirs", *SMALL, *typed, "seed=-1")
    assert again.returncode == 2 and "must not come from a file" not in again.stderr.replace("logger.csv.name", ""), (
        again.stderr
    )


def test_the_overrides_of_a_saved_sweep_and_of_an_agent(mistake, tmp_path):
    words = [
        word(key, value) for key, value in ONLY_TYPED.items() if not key.startswith(("hydra.sweep.dir", "logger.wandb.off"))
    ]
    keys = [key for key in COMPOSED if key not in ("hydra.sweep.dir", "logger.wandb.offline") and "logger.wandb.m" not in key]
    (tmp_path / "sweep").mkdir()
    asked = {
        "argv": ["-m", "--config-dir", "pkg://theirs", "seed=1,2", *words],
        "cwd": str(tmp_path),
        "jobs": ["0"],
        "fails_again": True,
    }
    (tmp_path / "sweep/sweep.json").write_text(json.dumps(asked))
    resumed = mistake("-m", "sweep.resume=sweep")
    is_refused(resumed, keys)
    assert "error: pkg://theirs must not come from a file; " in resumed.stderr
    agent = mistake(*words, env={AGENT: "abc"}.items())
    is_refused(agent, [key for key in keys if not key.startswith("logger.wandb.settings.mode")])
    fine = ["hydra.run.dir=outputs/wandb/${oc.env:WANDB_RUN_ID}", "logger.wandb.offline=false", "seed=-1"]
    allowed = mistake(*fine, *SMALL, env={AGENT: "abc", "WANDB_RUN_ID": "x"}.items())
    assert lines(allowed.stderr) == ["error: seed=-1 must be a whole number of at least 0"]


def trapped(folder):
    """Return a repository whose config names programs in every way that git knows; each would create the file `pwned`."""
    folder.mkdir()
    run = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    trap = folder.parent / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {folder.parent}/pwned\ncat\n")
    trap.chmod(trap.stat().st_mode | stat.S_IXUSR)
    (folder / "code.py").write_text("a = 1\n")
    (folder / ".gitattributes").write_text("*.py filter=x diff=x\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*run, *words], check=True)
    hooks = folder / "hooks"
    hooks.mkdir()
    for name in ("post-index-change", "fsmonitor-watchman", "reference-transaction", "pre-commit"):
        (hooks / name).symlink_to(trap)
    config = folder / ".git/config"
    config.write_text(
        config.read_text()
        + f"[core]\nfsmonitor = {trap}\npager = {trap}\nhooksPath = {hooks}\nsshCommand = {trap}\naskPass = {trap}\n"
        f'[diff]\nexternal = {trap}\n[diff "x"]\ncommand = {trap}\ntextconv = {trap}\n'
        f'[filter "x"]\nclean = {trap}\nsmudge = {trap}\nprocess = {trap}\nrequired = true\n'
        f"[pager]\ndiff = {trap}\n[alias]\nls-files = !{trap}\n[extensions]\npartialClone = o\n"
        f'[remote "o"]\nurl = ext::{trap}\npromisor = true\n[protocol "ext"]\nallow = always\n'
    )
    return folder


def test_git_calls_nothing_that_a_repository_names(tmp_path, monkeypatch):
    folder = trapped(tmp_path / "theirs")
    for name, value in {"COUNT": "1", "KEY_0": "core.fsmonitor", "VALUE_0": f"touch {tmp_path}/pwned"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", f"{tmp_path}/trap.sh")
    os.utime(folder / "code.py", (1, 1))  # so that git compares the content, for which it would call the filter
    clean = commit_of(folder, "code.py")
    (folder / "code.py").write_text("b = 2\n")
    assert commit_of(folder, "code.py") == f"{clean}+" and len(clean) == 12
    with pytest.raises(subprocess.CalledProcessError):
        commit_of(folder, "other.py")
    for number in (folder / ".git/objects").rglob("*"):  # a promised object is not fetched with the program of the remote
        if number.is_file():
            number.unlink()
    with pytest.raises(subprocess.CalledProcessError):
        commit_of(folder, "code.py")


def test_the_trap_is_one(tmp_path):
    """The test above could not fail if git itself did not step into it."""
    folder = trapped(tmp_path / "theirs")
    (folder / "code.py").write_text("b = 2\n")
    subprocess.run(["git", "-C", folder, "describe", "--always", "--dirty"], capture_output=True)
    (tmp_path / "pwned").unlink()


def test_a_program_of_the_working_folder_is_not_found(tmp_path, monkeypatch):
    (tmp_path / "g++").write_text("#!/bin/sh\ntouch pwned\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    assert find_program("g++") is None or Path(find_program("g++")).parent != tmp_path


TRAPS = """
sitecustomize usercustomize numpy torch hydra typing json socket typer rich pandas triton tensorboard antigravity
hydra_plugins/trap inception_zoo/__init__ my_parts""".split()  # noqa: SIM905


def full_of_traps(folder):
    for name in TRAPS:
        (folder / f"{name}.py").parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(f"open({str(folder / f'pwned_{Path(name).name}')!r}, 'w')\n")
    (folder / ".env").write_text("INCEPTION_ZOO_TARGETS=os.system\nLD_PRELOAD=/x.so\n")
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-p my_parts'\n")
    (folder / "setup.cfg").write_text("[tool:pytest]\n")
    (folder / "matplotlibrc").write_text("backend: module://my_parts\n")
    (folder / "MLproject").write_text("entry_points: {main: {command: 'touch pwned'}}\n")
    (folder / "conf").mkdir()
    (folder / "conf/config.yaml").write_text("hydra: {searchpath: ['pkg://my_parts']}\n")
    (folder / "wandb").mkdir()
    (folder / "wandb/settings").write_text("[default]\nmode = online\nbase_url = http://localhost:9\n")


COMMANDS = (  # Hydra and its plugins, torch, matplotlib, which reads the file matplotlibrc
    ["run", "-m", "seed=-1,-2", "hydra/launcher=joblib", *SMALL],
    ["predict", "nothing.ckpt", "nothing.png"],
    ["describe", "googlenet", "--draw", "picture.svg"],
)
START = "from inception_zoo.cli.main import main; main()"  # what the console script does; it is in the folder of Python


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_nothing_in_the_working_folder_is_picked_up(words, tmp_path):
    full_of_traps(tmp_path)
    done = commands.run(["-P", "-c", START, *words], tmp_path, fresh=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_whole_training_picks_nothing_up(tmp_path):
    """Of two ranks, in a repository full of traps, with W&B, which asks git about a script's repository."""
    folder = trapped(tmp_path / "theirs")
    full_of_traps(folder)
    script = folder / "start.py"
    script.write_text(START)
    subprocess.run(
        ["git", "-c", "core.fsmonitor=", "-c", "filter.x.process=", "-c", "filter.x.clean=", "add", script], cwd=folder
    )
    (tmp_path / "pwned").unlink(missing_ok=True)
    words = [
        "run",
        *SMALL,
        "logger=wandb",
        "+logger.wandb.settings.save_code=true",
        "trainer.devices=2",
        "trainer.max_epochs=1",
    ]
    done = commands.run(["-P", script, *words], folder, fresh=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_ones_own_module_is_imported_when_it_is_named(tmp_path):
    (tmp_path / "my_own_module.py").write_text("def part(): pass\n")
    before = list(sys.path)
    try:
        assert imported("collections.OrderedDict") and sys.path == before
        assert imported("my_own_module.part").__name__ == "part" and sys.path[-1] == str(tmp_path)
    finally:
        sys.path[:] = before


def test_nothing_is_downloaded_to_a_folder_that_a_checkpoint_names(tmp_path, monkeypatch):
    monkeypatch.setattr("inception_zoo.data.fashion_mnist.DEBIAN", tmp_path / "none")
    monkeypatch.setenv(READ_ONLY, str(tmp_path / "theirs"))
    with pytest.raises(ZooError, match=r"is from the checkpoint, and has no Fashion-MNIST; add data.root=FOLDER"):
        fashion_mnist(str(tmp_path / "theirs"))
    from inception_zoo.data.cifar import cifar10

    with pytest.raises(ZooError, match=r"is from the checkpoint, and has no cifar10; add data.root=FOLDER"):
        cifar10(str(tmp_path / "theirs"))
    assert not list(tmp_path.iterdir())
