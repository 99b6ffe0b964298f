"""Several machines, as processes of this one: they meet, wait for one that is busy, and notice one that is lost."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, SMALL, lines
from tools.commands import environment

from inception_zoo import ZooError
from inception_zoo.runs.results import read_results
from inception_zoo.training import machines
from inception_zoo.training.machines import Peers

SLOW = """
import time
from inception_zoo.data.digits import digits

def source():
    time.sleep({seconds})
    return digits()
"""


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def machine(tmp_path):
    """Start the job of one of two machines."""
    port, started = free_port(), []

    def start(number, *words):
        names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(number)}
        command = [sys.executable, str(ROOT / "run.py"), *SMALL, "logger=none", "trainer.accelerator=cpu", *words]
        command += ["trainer.num_nodes=2", "trainer.precision=32-true", "hydra.run.dir=run"]
        trusted = {"INCEPTION_ZOO_TARGETS": "slow.source"}
        log = (tmp_path / f"{number}.log").open("w")
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env=environment({**names, **trusted}))
        started.append((process, log))
        return process

    yield start
    for process, log in started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        log.close()


@pytest.mark.slow
def test_machines_train_together_and_wait_for_one_that_reads_its_data(machine, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.format(seconds=12))
    words = ["data.source._target_=slow.source", "trainer.timeout_minutes=0.1"]  # 6 seconds
    first, second = machine(0, *words), machine(1, *words)
    assert (first.wait(120), second.wait(120)) == (0, 0), (tmp_path / "0.log").read_text() + (tmp_path / "1.log").read_text()
    results = read_results(tmp_path / "run")
    assert (results["state"], results["world_size"]) == ("finished", 2)


@pytest.mark.slow
def test_a_machine_alone_ends_after_the_time_limit_and_leaves_no_folder(machine, tmp_path):
    alone = machine(0, "trainer.timeout_minutes=0.05")
    assert alone.wait(60) == 2
    last = lines((tmp_path / "0.log").read_text())[-1]
    assert "rank 1 did not connect to 127.0.0.1" in last and "(trainer.timeout_minutes)" in last
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_machine_that_waits_obeys_a_signal(machine, tmp_path):
    alone = machine(0)
    until = time.monotonic() + 60
    while "no logger" not in (tmp_path / "0.log").read_text() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(5)  # it waits now
    alone.terminate()
    assert alone.wait(10) == 128 + signal.SIGTERM


def test_several_machines_need_an_address(zoo):
    done = zoo(*SMALL, "trainer.num_nodes=2")
    assert done.returncode == 2 and "set MASTER_ADDR, MASTER_PORT, NODE_RANK in the environment" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", ["time limit", "signal"])
def test_a_lost_machine_ends_the_job(machine, how, tmp_path):
    words = ["trainer.limit_train_batches=1.0", "trainer.max_epochs=999", "trainer.timeout_minutes=0.5"]
    first, second = machine(0, *words), machine(1, *words)
    until = time.monotonic() + 90
    while not (tmp_path / "run/checkpoints/last.ckpt").exists() and time.monotonic() < until:
        time.sleep(0.1)
    second.send_signal(signal.SIGSTOP)
    if how == "signal":
        time.sleep(5)
        first.terminate()
    assert first.wait(60) == (1 if how == "time limit" else 128 + signal.SIGTERM), (tmp_path / "0.log").read_text()
    results = read_results(tmp_path / "run")
    assert (
        results["state"] == ("failed" if how == "time limit" else "interrupted")
        and f"rank 1 on {socket.gethostname()} cannot be reached" in results["reason"]
    )
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


@pytest.fixture
def ended(monkeypatch):
    """Record how peers would end their process."""
    found = []
    monkeypatch.setattr(machines, "BEAT", 0.2)
    monkeypatch.setattr(machines, "SILENT", 1.0)
    monkeypatch.setattr(Peers, "_end", lambda peers, reason, status: found.append((peers.rank, reason, status)))
    return found


def two(tmp_path, minutes):
    port = free_port()
    return [Peers(rank, range(2), "127.0.0.1", port, tmp_path, minutes) for rank in (0, 1)]


def test_peers_meet_and_notice_a_silent_one(ended, tmp_path):
    first, second = two(tmp_path, 0.05)
    try:
        first.wait_until("here")
        second.wait_until("here")
        time.sleep(3.5)
        assert ended == []  # heartbeats, although nothing else happens for longer than the limit
        second.closed.set()
        time.sleep(5)
        assert {(rank, status) for rank, _, status in ended} == {(0, 1)}
        assert f"rank 1 on {socket.gethostname()} cannot be reached for 0.05 minutes" in ended[0][1]
    finally:
        second.close()
        first.close()


def test_a_signal_ends_a_process_whose_peer_is_silent(ended, tmp_path):
    first, second = two(tmp_path, 5)
    before = signal.signal(signal.SIGTERM, lambda *args: None)
    signal.set_wakeup_fd(first._theirs.fileno())
    try:
        first.wait_until("here")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2)
        assert ended == []  # the peer answers: the training saves and ends by itself
        second.closed.set()
        time.sleep(3)
        assert ended[0][0] == 0 and ended[0][1].startswith("SIGTERM, while rank 1") and ended[0][2] == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
        second.close()
        first.close()


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({"SUBMITIT_EXECUTOR": "slurm"}, "requeue 7\n"),
        ({"SUBMITIT_EXECUTOR": "slurm", "SLURM_RESTART_COUNT": "2"}, "requeue 7\n"),
        ({"SUBMITIT_EXECUTOR": "slurm", "SLURM_RESTART_COUNT": "3"}, ""),  # its machines are lost again and again
        ({"SUBMITIT_EXECUTOR": "local"}, ""),
        ({}, ""),
    ],
)
def test_slurm_is_asked_to_run_a_job_again_that_has_lost_a_machine(tmp_path, monkeypatch, variables, asked):
    program, said = tmp_path / "scontrol", tmp_path / "said"
    said.touch()
    program.write_text(f'#!/bin/sh\necho "$@" > {said}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("SUBMITIT_EXECUTOR", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_JOB_ID": "7", **variables}.items():
        monkeypatch.setenv(name, value)
    machines.queue_again()
    assert said.read_text() == asked


def test_a_refusal_of_slurm_is_logged(tmp_path, monkeypatch, caplog):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho Invalid job id >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {"SLURM_JOB_ID": "7", "SUBMITIT_EXECUTOR": "slurm", "SLURM_RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(name, value)
    machines.queue_again()
    assert "scontrol requeue: Invalid job id" in caplog.text


def test_a_port_in_use_is_reported(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        peers = Peers(0, range(2), "127.0.0.1", taken.getsockname()[1], tmp_path, 0.2)
        try:
            with pytest.raises(ZooError, match=r"MASTER_PORT=\d+ cannot be used on this machine"):
                peers.wait_until("here")
        finally:
            peers.close()
