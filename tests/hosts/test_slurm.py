"""SLURM on two hosts: a job on both, an array over both, and what happens to a job that is queued again or loses a node."""

import json
import re
import sys
import time

import pytest
from conftest import ROOT
from tools import host_fixtures, hosts
from tools.cluster import JOB, SECONDS, weights
from tools.hosts import wait_for
from tools.slurm import slurm, why_impossible

from inception_zoo.runs.results import read_results

record, undisturbed = host_fixtures.record, host_fixtures.undisturbed
pytestmark = pytest.mark.hosts
WORDS = ["-m", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.sweep.dir=sweep"]
WORDS += [word for word in JOB if not word.startswith("hydra.run.dir=")]
BOTH = [*WORDS, "trainer.num_nodes=2"]


@pytest.fixture
def cluster(tmp_path, request):
    """Yield SLURM on two hosts. The parameter is the time in seconds after which a node that does not answer is down."""
    if why := hosts.why_impossible() or why_impossible():
        pytest.skip(why)
    with hosts.hosts(2, tmp_path) as two, slurm(two, tmp_path / "slurm", getattr(request, "param", 300)) as made:
        yield made


def start(cluster, *words):
    return cluster.hosts[0].start([sys.executable, ROOT / "run.py", *words], {**cluster.env, "OMP_NUM_THREADS": "1"})


def ended(cluster, command, undisturbed):
    """Wait for a sweep of one job on two nodes, and return the weights."""
    assert command.wait(SECONDS) == 0, cluster.output()
    results = read_results(cluster.sweep / "0")
    assert (results["state"], results["world_size"]) == ("finished", 2)
    assert weights(cluster.sweep / "0") == undisturbed
    return weights(cluster.sweep / "0")


def wait_for_a_checkpoint(cluster):
    assert wait_for((cluster.sweep / "0/checkpoints/last.ckpt").exists, 90), cluster.output()


@pytest.mark.parametrize("words", [BOTH, [*WORDS, "trainer.num_nodes=auto", "hydra.launcher.nodes=2"]], ids=["2", "auto"])
def test_a_job_on_two_nodes(cluster, undisturbed, record, request, words):
    begun = time.monotonic()
    digest = ended(cluster, start(cluster, *words), undisturbed)
    case = f"SLURM, a job on two nodes, `trainer.num_nodes={request.node.callspec.id}`"
    record(case, time.monotonic() - begun, "finished", digest)


def test_an_array_over_two_nodes(cluster, record):
    begun = time.monotonic()
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "seed=1,2,3,4"]
    assert start(cluster, *WORDS, *short).wait(SECONDS) == 0, cluster.output()
    jobs = json.loads((cluster.sweep / "results.json").read_text())
    assert [(job["state"], job["overrides"]["seed"]) for job in jobs] == [("finished", seed) for seed in "1234"]
    assert len((cluster.sweep / "results.csv").read_text().splitlines()) == 5
    nodes = re.findall(r"Starting with .*hostname=(\w+)", cluster.output())
    assert len(nodes) == 4 and {*nodes} == {"host0", "host1"}
    shares = f"finished, {nodes.count('host0')} on host0 and {nodes.count('host1')} on host1"
    record("SLURM, an array of four jobs over two nodes", time.monotonic() - begun, shares, "")


def test_a_requeued_job_resumes(cluster, undisturbed, record):
    command, begun = start(cluster, *BOTH), time.monotonic()
    wait_for_a_checkpoint(cluster)
    assert cluster.ask("scontrol", "requeue", "1") == ""
    digest = ended(cluster, command, undisturbed)
    assert cluster.output().count("] checkpoint: ") == 1
    story = "resumed from last.ckpt, finished"
    record("SLURM, `scontrol requeue` of a job on two nodes", time.monotonic() - begun, story, digest)


@pytest.mark.parametrize("cluster", [60, 300], indirect=True, ids=["until it is down", "and is back before"])
def test_a_job_that_loses_a_node_is_queued_again_and_resumes(cluster, undisturbed, record, request):
    command = start(cluster, *BOTH)
    wait_for_a_checkpoint(cluster)
    begun = time.monotonic()
    cluster.hosts[1].kill()
    assert wait_for(lambda: read_results(cluster.sweep / "0")["state"] == "failed", 60), cluster.output()
    seconds, reason = time.monotonic() - begun, read_results(cluster.sweep / "0")["reason"]
    assert reason.startswith("rank 1 on host1 cannot be reached for 0.25 minutes")
    if "until" in request.node.callspec.id:
        assert wait_for(lambda: "down*" in cluster.states(), 150), cluster.output()
    cluster.hosts[1].link("up")
    cluster.start_node(cluster.hosts[1])
    digest = ended(cluster, command, undisturbed)
    assert "asking SLURM to run this job again" in cluster.output()
    when = "until SLURM knows that it is down" if "until" in request.node.callspec.id else "and is back before SLURM knows"
    story = f"{reason}; queued again, and resumed when host1 is back"
    record(f"SLURM, host1 loses its power, {when}", seconds, story, digest)
