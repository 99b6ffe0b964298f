"""Jobs on several hosts: how they start, and what a fault of the cluster does to them. `make test-hosts` runs all of it."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL
from PIL import Image
from safetensors.torch import load_file
from tools import commands, host_fixtures
from tools.cluster import PORT, TORCHRUN, copied, weights
from tools.hosts import wait_for

from inception_zoo.runs.results import read_results

cluster, record, undisturbed = host_fixtures.cluster, host_fixtures.record, host_fixtures.undisturbed
every = pytest.mark.hosts  # the others are the short subset of `make test`


STARTS = {
    "by hand, a shared disk": ("by hand", {}),
    "by hand, each host its own disk": ("by hand", {"own_disks": True}),
    "by hand, host names that do not resolve": ("by hand", {"names": "none"}),
    "by hand, host names that are loopback addresses": ("by hand", {"names": "loopback"}),
    "torchrun, a shared disk": ("torchrun", {}),
    "torchrun, each host its own disk": ("torchrun", {"own_disks": True}),
    "torchrun, host names that do not resolve": ("torchrun", {"names": "none"}),
    "torchrun with c10d rendezvous, a shared disk": ("c10d", {}),
    "torchrun with c10d rendezvous, each host its own disk": ("c10d", {"own_disks": True}),
}


@every
@pytest.mark.parametrize(("launcher", "options"), STARTS.values(), ids=STARTS)
def test_a_job_ends_with_the_same_weights_however_it_starts(cluster, undisturbed, record, request, launcher, options):
    job, begun = cluster(launcher=launcher, **options), time.monotonic()
    job.start()
    assert job.end() == [0, 0], job.output()
    results = read_results(job.run)
    assert (results["state"], results["world_size"]) == ("finished", 2)
    assert weights(job.run) == undisturbed
    if options.get("own_disks"):  # rank 0 has the run, the others their log
        assert not (job.hosts[1].disk / "run/checkpoints").exists()
    record(request.node.callspec.id, time.monotonic() - begun, "finished", weights(job.run))


def test_two_hosts_without_a_common_disk_or_names_train_together(cluster):
    job = cluster(own_disks=True, names="none")
    job.start("trainer.max_epochs=1", "trainer.limit_train_batches=2")
    assert job.end() == [0, 0], job.output()
    assert read_results(job.run)["state"] == "finished"
    assert "sync_dist" not in job.output()


@every
def test_hosts_that_start_in_other_folders(cluster, undisturbed, record):
    job, begun = cluster(), time.monotonic()
    run = f"hydra.run.dir={job.hosts[0].work}/run"
    job.start(run, only=job.hosts[0])
    job.hosts[1].folder = Path("/tmp")
    job.start(run, only=job.hosts[1])
    assert job.end() == [0, 0], job.output()
    assert weights(job.run) == undisturbed
    record("each host starts in another folder", time.monotonic() - begun, "finished", weights(job.run))


@every
def test_four_hosts_train_the_weights_of_one_process(cluster, record, tmp_path):
    """The network has no BatchNorm and no dropout, whose results depend on the division of the batch."""
    words = ["trainer.precision=64-true", "trainer.max_epochs=1", "trainer.limit_train_batches=20", "augmentation=none"]
    words += ["model.dropout=0", "model.aux=false", "optimizer.lr=0.01"]
    job, begun = cluster(4), time.monotonic()
    job.start(*words)
    assert job.end() == [0] * 4, job.output()
    seconds = time.monotonic() - begun
    alone = [ROOT / "run.py", *SMALL, *words, "logger=csv", "trainer.accelerator=cpu", "hydra.run.dir=alone"]
    done = commands.run(alone, tmp_path)
    assert done.returncode == 0, done.stderr
    one, four = (load_file(folder / "model.safetensors") for folder in (tmp_path / "alone", job.run))
    assert {tensor.dtype for tensor in one.values()} == {torch.float64}
    largest = max((one[name] - four[name]).abs().max().item() for name in one)
    assert 0 <= largest < 1e-12 and any((one[name] != 0).any() for name in one)
    difference = f"largest difference of a weight to one process after 20 steps: {largest:.0e}"
    record("four hosts, 64-true, by hand", seconds, difference, weights(job.run))


# Faults. Each one ends the job with one line, and the job that is resumed has the weights of an undisturbed one.


def resumed(job, undisturbed):
    for host in job.hosts:
        host.link("up")
    assert job.hosts[0].disk == job.hosts[1].disk
    job.start("ckpt=last")
    assert job.end() == [0, 0], job.output()
    assert weights(job.run) == undisturbed
    return weights(job.run)


@every
@pytest.mark.parametrize("lost", [1, 0])
def test_a_host_loses_its_power(cluster, undisturbed, record, lost):
    job = cluster()
    job.start()
    job.wait_for_a_checkpoint()
    begun = time.monotonic()
    job.hosts[lost].kill()
    left = job.hosts[1 - lost]
    assert job.started[1 - lost].wait(60) == 1, job.output()
    seconds = time.monotonic() - begun
    assert f"rank {lost} on host{lost} " in job.message(left) and "resume from the last checkpoint" in job.message(left)
    job.end()
    record(f"host{lost} loses its power", seconds, job.message(left), resumed(job, undisturbed))


@every
def test_a_link_goes_down(cluster, undisturbed, record):
    job = cluster()
    job.start()
    job.wait_for_a_checkpoint()
    begun = time.monotonic()
    job.hosts[1].link("down")
    assert job.end() == [1, 1], job.output()
    seconds = time.monotonic() - begun
    assert "rank 1 on host1 " in job.message(job.hosts[0]) and "rank 0 on host0 " in job.message(job.hosts[1])
    record("the link of host1 goes down", seconds, job.message(job.hosts[0]), resumed(job, undisturbed))


@every
def test_a_link_that_is_down_for_a_moment_is_no_fault(cluster, undisturbed, record):
    job, begun = cluster(), time.monotonic()
    job.start()
    job.wait_for_a_checkpoint()
    job.hosts[1].link("down")
    time.sleep(5)
    assert [process.poll() for process in job.started] == [None, None]
    job.hosts[1].link("up")
    assert job.end() == [0, 0], job.output()
    assert weights(job.run) == undisturbed
    record("the link of host1 is down for 5 s", time.monotonic() - begun, "finished", weights(job.run))


@every
def test_a_slow_link_is_no_fault(cluster, undisturbed, record):
    job, begun = cluster(), time.monotonic()
    job.hosts[1].slow_down("20mbit")
    job.start()
    assert job.end() == [0, 0], job.output()
    assert weights(job.run) == undisturbed
    record("the link of host1 has 20 Mbit/s", time.monotonic() - begun, "finished", weights(job.run))


@every
def test_latency_and_loss_are_no_fault(cluster, record):
    job, few = cluster(), ["trainer.max_epochs=2", "trainer.limit_train_batches=2"]  # a step may take 20 s
    first, other = job.hosts
    job.start(*few)
    assert job.end() == [0, 0], job.output()
    expected = weights(job.run)
    shutil.rmtree(job.run)
    seconds, lost = first.ping(other, 100)
    assert seconds < 0.05 and lost < 0.01
    other.delay(0.05, loss=0.01)
    first.ping(other, 100)  # until the relay has started
    seconds, lost = first.ping(other, 1000)
    assert 0.1 <= seconds < 0.15 and 0.005 < lost < 0.05, (seconds, lost)  # of a round trip
    begun = time.monotonic()
    job.start(*few)
    assert job.end() == [0, 0], job.output()
    assert weights(job.run) == expected
    case = "the link of host1 has 50 ms of latency and 1 % loss in each direction; 4 steps"
    record(case, time.monotonic() - begun, "finished, with the weights of the same job on a fast link", expected)


@every
def test_a_full_disk_on_the_first_host(cluster, record):
    job, begun = cluster(own_disks=True), time.monotonic()
    job.hosts[0].size = "3m"  # less than a checkpoint
    job.start()
    assert all(status for status in job.end()), job.output()
    assert "No space left on device" in job.message(job.hosts[0]), job.output()
    assert "rank 0 on host0" in job.message(job.hosts[1])
    record("the disk of host0 is full", time.monotonic() - begun, job.message(job.hosts[0]), "")


def images(folder, odd=""):
    for number in range(40):
        place = folder / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        name = f"{number}{odd if number == 39 else ''}.png"
        Image.fromarray(np.full((32, 32), number * 6, np.uint8)).save(place / name)


def other_numpy(folder):
    """Make the metadata of another version of NumPy, which Python finds first."""
    (folder / "numpy-9.9.9.dist-info").mkdir(parents=True)
    (folder / "numpy-9.9.9.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n")
    return {"PYTHONPATH": str(folder)}


OF_FOLDERS = ("data=imagefolder", "data.root=photos", "data.num_classes=2", "data.batch_size=8", "data.image_size=32")
DIFFERENT = {
    "another seed": "seed=1 on rank 0 (host0) and 2 on rank 1 (host1)",
    "another learning rate": "optimizer.lr=",
    "other images": "train images=",
    "another version of a library": "version of numpy=",
    "other code": "code=",
}


@every
@pytest.mark.parametrize("what", DIFFERENT)
def test_hosts_that_differ_are_refused_by_name(cluster, record, tmp_path, what):
    job, words, own = cluster(own_disks=True), (), {}
    if what == "another seed":
        own = {"words": ["seed=2"]}
    elif what == "another learning rate":
        own = {"words": ["optimizer.lr=0.005"]}
    elif what == "other images":
        words = OF_FOLDERS
        images(job.hosts[0].disk)
        images(job.hosts[1].disk, odd="x")
    elif what == "another version of a library":
        own = {"env": other_numpy(tmp_path / "site")}
    else:
        own = {"script": copied(tmp_path / "copy")}
    begun = time.monotonic()
    job.start(*words, only=job.hosts[0])
    job.start(*words, *own.pop("words", ()), only=job.hosts[1], **own)
    assert all(status for status in job.end()), job.output()
    seconds = time.monotonic() - begun
    messages = [job.message(host) for host in job.hosts]
    assert any("the ranks differ: " in each and DIFFERENT[what] in each and "(host1)" in each for each in messages), (
        job.output()
    )
    record(f"host1 has {what}", seconds, next(each for each in messages if "differ" in each), "")


@every
def test_torchrun_continues_without_a_lost_host_and_takes_it_back(cluster, record):
    job = cluster(2, "c10d")
    words = ["trainer.num_nodes=auto", "trainer.max_epochs=30", "trainer.limit_train_batches=20", "trainer.timeout_minutes=0.2"]
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={job.hosts[0].address}:{PORT}", "--rdzv-id=job"]
    meeting += ["--rdzv-conf=last_call_timeout=5", "--nnodes=1:2", "--max-restarts=3", "--nproc-per-node=1"]
    small = [*SMALL, "logger=csv", "trainer.accelerator=cpu", "trainer.precision=32-true", "hydra.run.dir=run", *words]
    line = [TORCHRUN, *meeting, ROOT / "run.py", *small]
    env, begun = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}, time.monotonic()
    first, _ = [host.start(line, env) for host in job.hosts]
    job.wait_for_a_checkpoint()
    job.hosts[1].kill()
    log = job.hosts[0].log
    assert wait_for(lambda: "trainer.num_nodes: 1\n" in log.read_text(), 90), job.output()
    assert wait_for(lambda: "checkpoint: " in log.read_text(), 30)
    since = (job.run / "checkpoints/last.ckpt").stat().st_mtime
    assert wait_for(lambda: (job.run / "checkpoints/last.ckpt").stat().st_mtime > since, 60), job.output()
    job.hosts[1].link("up")
    second = job.hosts[1].start(line, env)
    assert (first.wait(240), second.wait(30)) == (0, 0), job.output()
    results = read_results(job.run)
    assert (results["state"], results["world_size"]) == ("finished", 2)
    story = "continued on host0 from last.ckpt, then on both"
    record("torchrun --nnodes=1:2: host1 is lost, and comes back", time.monotonic() - begun, story, weights(job.run))


def test_the_number_of_machines_is_known_to_torchrun_and_slurm_only(zoo):
    done = zoo(*SMALL, "trainer.num_nodes=auto")
    assert done.returncode == 2 and "trainer.num_nodes=auto: neither torchrun nor SLURM has started this job" in done.stderr
