"""SLURM on several hosts of one machine: munged and slurmctld on the first host, slurmd on each."""

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.commands import environment
from tools.hosts import Host, wait_for

# `linuxproc` needs no cgroups, and `config_overrides` gives each host one CPU, whatever the machine has. A job that is queued
# again waits until its credential has expired, by default for 120 s. That must be later than KillWait, after which the srun of
# the earlier attempt kills the job step of its number, which must not be that of the new attempt.
CONF = """
ClusterName=test
SlurmctldHost=host0
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=10
KillWait=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
ProctrackType=proctrack/linuxproc
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5
SlurmdTimeout={seconds}
ReturnToService=2
PartitionName=all Nodes=ALL Default=YES
"""
PROGRAMS = ["munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "sinfo", "squeue"]


@dataclass
class Slurm:
    """A SLURM cluster, and the sweep in the folder `sweep` that runs on it."""

    hosts: list[Host]
    folder: Path  # of SLURM's files

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start_node(self, host: Host) -> None:
        """Start slurmd. Its tasks end with it."""
        host.start(["slurmd", "-D", "-N", f"host{host.number}"], self.env)

    def ask(self, *command: str) -> str:
        """Run a command of SLURM on the first host, and return what it prints."""
        line = ["ip", "netns", "exec", self.hosts[0].name, *command]
        done = subprocess.run(line, env=environment(self.env), capture_output=True, text=True, timeout=30)
        return done.stdout + done.stderr

    def states(self) -> list[str]:
        """Return the state of each node, such as `idle` and `down*`."""
        return self.ask("sinfo", "--noheader", "--Node", "--format=%t").split()

    @property
    def sweep(self) -> Path:
        return self.hosts[0].work / "sweep"

    def output(self) -> str:
        """Return the output of all tasks, daemons and commands."""
        files = [*sorted(self.sweep.glob(".submitit/*/*.out")), *(host.log for host in self.hosts)]
        return "\n".join(f"{file}:\n{file.read_text()}" for file in files)


@contextmanager
def slurm(hosts: list[Host], folder: Path, seconds: int = 300) -> Iterator[Slurm]:
    """Yield a cluster whose nodes are ready. Its processes are killed at the end.

    Args:
        hosts: the nodes, which share a disk.
        folder: for the configuration, the key and the state.
        seconds: after which a node that does not answer is down; 300 is SLURM's default.
    """
    cluster = Slurm(hosts, folder)
    for host in hosts:
        (folder / f"host{host.number}").mkdir(parents=True)
    nodes = "".join(f"NodeName=host{each.number} NodeAddr={each.address} CPUs=1\n" for each in hosts)
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, seconds=seconds) + nodes)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # else slurmd looks for cgroups; a namespace shows none
    (folder / "key").touch(0o600)
    (folder / "key").write_bytes(secrets.token_bytes(64))
    files = {
        "socket": "munge.socket",
        "key-file": "key",
        "pid-file": "munged.pid",
        "seed-file": "seed",
        "log-file": "munged.log",
    }
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    try:
        hosts[0].start(["munged", "--foreground", "--force", *options])  # all hosts reach its socket, which is on their disk
        assert wait_for((folder / "munge.socket").exists, 10), cluster.output()
        hosts[0].start(["slurmctld", "-D", "-c"], cluster.env)
        for host in hosts:
            cluster.start_node(host)
        assert wait_for(lambda: cluster.states() == ["idle"] * len(hosts), 30), cluster.output()
        yield cluster
    finally:
        for process in [process for host in hosts for process in host.processes]:
            process.kill()
            process.wait()


def why_impossible() -> str | None:
    """Return the reason why SLURM cannot be started here; None if it can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    return f"{', '.join(missing)} not installed (Debian: slurmd slurmctld slurm-client munge)" if missing else None
