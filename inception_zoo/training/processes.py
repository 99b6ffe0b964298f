"""Start and end of the other ranks of a job."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from omegaconf import DictConfig, OmegaConf

from inception_zoo.errors import ZooError
from inception_zoo.runs.folders import quoted
from inception_zoo.runs.results import REASON, record_end
from inception_zoo.system.terminal import ENDING, tell

PATIENCE = 15  # seconds that rank 0 may wait for a failed rank
STOPPED = tuple(128 + number for number in (signal.SIGINT, *ENDING))  # exit statuses after a signal, which ends all ranks
_ranks: list["Rank"] = []  # ranks of the current job, without rank 0


class Rank(subprocess.Popen):
    """Process of a rank other than 0."""

    def __init__(self, number: int, cfg: DictConfig, private: Path, folder: Path) -> None:
        self.number, self.place = number, private / f"rank{number}.txt"
        environment = {**os.environ, "LOCAL_RANK": str(number), REASON: str(self.place)}
        environment.pop("HYDRA_FULL_ERROR", None)  # set by `app.main`; the rank runs it, too
        with tempfile.TemporaryFile("w+", encoding="utf-8") as config:  # it has no name: nothing is left of it after SIGKILL
            config.write(OmegaConf.to_yaml(cfg))
            config.seek(0)
            super().__init__(_command(folder, number), env=environment, stdin=config)

    @property
    def fault(self) -> str | None:
        """Message that says why the rank failed; None if it runs, has finished or was asked to end."""
        status = self.poll()
        if not status or status in STOPPED:
            return None
        reason = self.place.read_text(errors="replace") if self.place.exists() else ""
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"rank {self.number} of this job {f'failed: {reason}' if reason else how}"


class JobLauncher(_SubprocessScriptLauncher):
    """Launcher that starts the ranks of this machine with the resolved config of the job, in its run folder.

    Lightning's launcher repeats the command line. In a multirun, every rank would then start the whole sweep again.
    """

    def __init__(self, environment: ClusterEnvironment, processes: int, nodes: int, cfg: DictConfig, folder: Path) -> None:
        super().__init__(environment, processes, nodes)
        self.cfg, self.folder = cfg, folder

    def _call_children_scripts(self) -> None:
        self._check_can_spawn_children()
        os.environ |= {
            "MASTER_ADDR": self.cluster_environment.main_address,
            "MASTER_PORT": str(self.cluster_environment.main_port),
            "NODE_RANK": str(self.cluster_environment.node_rank()),
            "LOCAL_RANK": str(self.cluster_environment.local_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        self._private = tempfile.TemporaryDirectory(prefix="inception_zoo_")
        _ranks.extend(Rank(n, self.cfg, Path(self._private.name), self.folder) for n in range(1, self.num_processes))
        # `self.procs` stays empty: if one of its processes fails, Lightning kills this process, and the sweep with it.
        threading.Thread(target=_watch, args=[list(_ranks), self.folder], daemon=True).start()


def _command(folder: Path, rank: int) -> list[str]:
    overrides = [f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null", f"hydra.job.name=rank{rank}"]
    return [sys.executable, "-m", "inception_zoo.app", "--config-name", "job", *overrides]  # `app.main` reads it from stdin


def _watch(ranks: list[Rank], folder: Path) -> None:
    """Kill the job if a rank has failed and this process would wait for it forever."""
    while not (faults := [rank.fault for rank in ranks if rank.fault]):
        if all(rank.poll() is not None for rank in ranks):
            return
        time.sleep(1)
    time.sleep(PATIENCE)
    if ranks[0] in _ranks:
        tell(f"error: {faults[0]}; rank 0 waited {PATIENCE} s for it")
        record_end(folder, faults[0])
        for rank in ranks:
            rank.kill()
        os.kill(os.getpid(), signal.SIGKILL)


def has_failed_rank() -> bool:
    """Return True if a rank that this job started has failed."""
    return any(rank.fault for rank in _ranks)


def kill_ranks() -> None:
    """Kill the ranks that this job started."""
    for rank in _ranks:
        rank.kill()


def end_ranks(error: BaseException | None) -> BaseException | None:
    """Wait for the ranks that this job started. Terminate them if the job failed, or if they do not end in time.

    Args:
        error: the error that ended the job, if any.

    Returns:
        `error`. If it only reports a lost connection, the failure of the other rank instead.
    """
    ranks = list(_ranks)
    _ranks.clear()
    if isinstance(error, Exception) and is_of_the_group(error):
        until = time.monotonic() + 5
        while not any(rank.fault for rank in ranks) and time.monotonic() < until:
            time.sleep(0.1)
        if fault := next((rank.fault for rank in ranks if rank.fault), None):
            error = ZooError(fault)
    for process in ranks:
        try:
            if error:
                process.terminate()
            process.wait(timeout=3 if isinstance(error, Exception) else 30)  # after a failure a rank may wait forever
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return error


def is_of_the_group(error: Exception) -> bool:
    """Return whether an error concerns the connection to the other ranks."""
    return isinstance(error, torch.distributed.DistError) or bool(re.search("(?i)gloo|nccl|connection", str(error)))
