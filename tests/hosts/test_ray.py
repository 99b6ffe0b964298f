"""Sweeps on a Ray cluster of two hosts. `make test-hosts` runs this."""

import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
from conftest import ROOT, SMALL
from tools import commands, host_fixtures
from tools.cluster import Cluster, weights
from tools.hosts import Host, wait_for

from inception_zoo.runs.results import read_results

cluster, record = host_fixtures.cluster, host_fixtures.record
pytestmark = pytest.mark.hosts
# A user-defined block, which notes the host of each attempt of a job.
NOTES = """
import pathlib, socket, time
from hydra.core.hydra_config import HydraConfig
def noted(c_in, c_out, level):
    number = HydraConfig.get().job.get("num", "alone")
    pathlib.Path(f"{number}-{time.time_ns()}-{socket.gethostname()}.note").touch()
    return [f"1x1 {c_out}"]
"""
JOB = [*SMALL, "logger=csv", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.max_epochs=40"]
JOB += ["trainer.limit_train_batches=8", "model.blocks.inception_5b=my_blocks.noted"]
RAY = f"{sys.executable} -m ray.scripts.scripts start --num-cpus=1 --object-store-memory=100000000"
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
SECONDS = 300  # largest duration of a sweep; Ray waits 90 s for the answer of a lost host


@dataclass
class Ray:
    """A Ray cluster of two hosts that share a disk; the folders of Ray itself are not shared."""

    cluster: Cluster
    folders: Path

    def job(self, number: int) -> Path:
        return self.cluster.hosts[0].work / "sweep" / str(number)

    def sweep(self, *words: str) -> Popen:
        """Start Ray on both hosts, and then a sweep on the first one, among whose processes Ray has to be."""
        first, other = self.cluster.hosts
        (first.work / "my_blocks.py").write_text(NOTES)
        run = ["-m", "hydra/launcher=ray", "hydra.launcher.init.address=auto", "hydra.sweep.dir=sweep", *JOB, *words]
        wait = f'until [ -e both ]; do sleep 0.2; done; {sys.executable} {ROOT}/run.py "$@"'
        script = f"{RAY} --head --include-dashboard=false --node-ip-address={first.address} && {wait}"
        started = self._start(first, "sh", "-c", script, "sh", *run)
        self._start(other, *f"{RAY} --block --address={first.address}:6379 --node-ip-address={other.address}".split())
        (first.work / "both").touch()
        return started

    def _start(self, host: Host, *command: str) -> Popen:
        started = host.start(command, {**SETTINGS, "RAY_TMPDIR": str(self.folders / str(host.number))})
        assert wait_for(lambda: "Ray runtime started" in host.log.read_text(), 60), self.cluster.output()
        return started

    def places(self, number: int) -> list[str]:
        """Return the hosts that have worked on a job, in order of time."""
        notes = sorted(path.stem for path in self.cluster.hosts[0].work.glob(f"{number}-*.note"))
        return [*dict.fromkeys(note.split("-")[2] for note in notes)]


@pytest.fixture
def short_folder():
    """Create a folder whose path is short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def ray(short_folder, cluster):  # in this order: the hosts end before their folder is removed
    """Make a Ray cluster on two hosts."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'inception-zoo[cluster]'")
    return Ray(cluster(), short_folder)


def test_a_sweep_uses_both_hosts(ray, record):
    begun = time.monotonic()
    assert ray.sweep("seed=1,2,3,4", "trainer.max_epochs=1").wait(SECONDS) == 0, ray.cluster.output()
    results = [read_results(ray.job(number)) for number in range(4)]
    assert [(each["seed"], each["state"]) for each in results] == [(seed, "finished") for seed in (1, 2, 3, 4)]
    assert {name for number in range(4) for name in ray.places(number)} == {"host0", "host1"}
    assert re.search("val top-1.*sweep folder: sweep", ray.cluster.hosts[0].log.read_text(), re.DOTALL)
    record("Ray on two hosts: four jobs", time.monotonic() - begun, "finished, on both hosts", weights(ray.job(0)))


def test_a_job_of_a_lost_host_continues_on_the_other(ray, record):
    hosts, started = ray.cluster.hosts, ray.sweep("seed=1,2")
    saved = [ray.job(number) / "checkpoints/last.ckpt" for number in (0, 1)]
    assert wait_for(lambda: all(path.exists() for path in saved), 150), ray.cluster.output()
    (lost,) = (number for number in (0, 1) if ray.places(number) == ["host1"])
    begun = time.monotonic()
    hosts[1].kill()
    assert started.wait(SECONDS) == 0, ray.cluster.output()
    seconds, results = time.monotonic() - begun, read_results(ray.job(lost))
    assert (results["state"], ray.places(lost)) == ("finished", ["host1", "host0"])
    assert results["earlier_minutes"] > 0  # it has resumed
    alone = [ROOT / "run.py", *JOB, f"seed={lost + 1}", "hydra.run.dir=alone"]
    done = commands.run(alone, hosts[0].work, {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    digest = weights(hosts[0].work / "alone")
    assert weights(ray.job(lost)) == digest
    record("Ray on two hosts: host1 loses its power", seconds, "the job continued on host0 from last.ckpt", digest)
