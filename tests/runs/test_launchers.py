"""Parallel jobs with every launcher that runs on one machine; the overrides that a W&B agent passes."""

import json
import pickle
import re
import shutil
import tempfile
import time
from datetime import datetime, timedelta

import joblib
import pytest
import yaml
from conftest import ROOT, SMALL, processes_of
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from inception_zoo.config import CONF
from inception_zoo.config.hydra_patches import install

# A user-defined block. Every job imports it; it writes the process id and the number of threads to a file.
NOTES = """
import json, os, pathlib, torch

def noted(c_in, c_out, level):
    pathlib.Path(f"{os.getpid()}.json").write_text(json.dumps(torch.get_num_threads()))
    return [f"1x1 {c_out}"]
"""
LAUNCHERS = {
    "joblib": (["hydra.launcher.n_jobs=2"], {}, max(joblib.cpu_count() // 2, 1)),
    "submitit_local": ([], {"OMP_NUM_THREADS": "1"}, 1),  # it does not divide the cores among jobs
    "ray": (["hydra.launcher.init.address=local", "hydra.launcher.init.num_cpus=2"], {}, 1),
}


@pytest.fixture
def ray_folder(monkeypatch):
    """Create a folder with a short path for Ray's sockets."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    yield folder
    shutil.rmtree(folder)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("submitit_local", "ray")]


# Ray's own processes take most of a minute; submitit polls its jobs.
@pytest.mark.parametrize("launcher", ["joblib", *SLOW])
def test_two_jobs_at_a_time(launcher, zoo, tmp_path, ray_folder, monkeypatch):
    options, environment, threads = LAUNCHERS[launcher]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "my_blocks.py").write_text(NOTES)
    words = [f"hydra/launcher={launcher}", *options, "seed=1,2", "model.blocks.inception_5b=my_blocks.noted"]
    done = zoo("-m", *words, *SMALL, "logger=csv", env=environment)
    assert done.returncode == 0, done.stderr
    (sweep,) = tmp_path.glob("multirun/*/*")  # one folder, although each worker formats the time itself
    jobs = [json.loads((sweep / name / "results.json").read_text()) for name in ("0", "1")]
    assert [(job["seed"], job["state"]) for job in jobs] == [(1, "finished"), (2, "finished")]
    started = [datetime.fromisoformat(job["started"]) for job in jobs]
    assert max(started) < min(at + timedelta(minutes=job["minutes"]) for at, job in zip(started, jobs, strict=True))
    assert [json.loads(path.read_text()) for path in tmp_path.glob("*.json")] == [threads] * 2  # two processes
    deadline = time.monotonic() + 20
    while (left := processes_of(ray_folder) + processes_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


# Keys and values as in the search space of a W&B sweep.
CHOSEN = [
    ("optimizer.lr", 1e-05),
    ("optimizer.lr", 3.0000000000000004e-05),
    ("model.aux", False),
    ("data.batch_size", 64),
    ("aux_weight", "null"),
    ("model.activation", "silu"),
    ("optimizer.betas", [0.9, 0.999]),
    ("model.adapt", ["head", "input"]),
    ("model.blocks.grid14", "residual_parallel"),
    ("model.blocks.inception_4b", ["1x1 192", "1x1 128 > 3x3 384"]),
    ("data.root", "/data/my photos"),
    ("model.weights", "timm:inception_v4.tf_in1k"),
]


@pytest.mark.parametrize(("key", "value"), CHOSEN)
def test_what_an_agent_passes_is_what_the_job_gets(key, value):
    found = OmegaConf.to_container(composed_by_agent({key: value}))
    for name in key.split("."):
        found = found[name]
    expected = None if value == "null" else value
    assert found == expected and type(found) is type(expected)


def test_a_worker_sends_the_result_of_a_job_without_its_config():
    """Else the command of a sweep needs 0.2 MiB more for each job."""
    install()
    cfg = OmegaConf.create({"seed": 1})
    job = JobReturn(overrides=["seed=1"], cfg=cfg, hydra_cfg=cfg, _return_value=0.5, status=JobStatus.COMPLETED)
    sent = pickle.loads(pickle.dumps(job))
    assert (sent.cfg, sent.hydra_cfg, sent.overrides, sent.return_value) == (None, None, ["seed=1"], 0.5)
    assert job.cfg is cfg


def test_the_search_of_the_documentation_composes():
    """The sweep.yaml of docs/cluster.md composes, with the first or smallest value of every parameter."""
    (text,) = re.findall("```yaml\n(program: run.py.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)
    search = yaml.safe_load(text)
    first = {
        key: node.get("value", [*node.get("values", []), node.get("min")][0]) for key, node in search["parameters"].items()
    }
    config = composed_by_agent(first, search["command"])
    assert search["metric"]["name"] == config.callbacks.best.monitor
    assert (config.model.name, config.optimizer.lr, config.aux_weight) == ("googlenet", 0.0001, None)
    assert config.logger.wandb.offline is False


def composed_by_agent(chosen, command=("${args_no_hyphens}",)):
    words = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    macros = {"${env}": [], "${interpreter}": [], "${program}": [], "${args_no_hyphens}": words["args_no_hyphens"]}
    install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [word for part in command for word in macros.get(part, [part])])
