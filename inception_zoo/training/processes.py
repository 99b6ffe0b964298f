"""How the other ranks of a job are started, compared with the first, and ended."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from omegaconf import DictConfig, OmegaConf

from inception_zoo.errors import ZooError
from inception_zoo.runs.results import REASON, flattened, record_failure
from inception_zoo.runs.sweeps import quoted

PATIENCE = 15  # seconds for which the first rank may wait for one that has failed
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit statuses of a rank that was asked to end, as all of them are then
_ranks: list["Rank"] = []  # the others of the job that runs


class Rank(subprocess.Popen):
    """A process of the job beside the first."""

    def __init__(self, number: int, config: Path, folder: Path) -> None:
        self.number, self.place = number, config.parent / f"rank{number}.txt"
        environment = {**os.environ, "LOCAL_RANK": str(number), REASON: str(self.place)}
        environment.pop("HYDRA_FULL_ERROR", None)  # set by our own main, which the rank runs too
        super().__init__(_command(config, folder, number), env=environment)

    @property
    def fault(self) -> str | None:
        """Why it ended by itself, if it failed."""
        status = self.poll()
        if not status or status in STOPPED:
            return None
        reason = self.place.read_text() if self.place.exists() else ""
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"process {self.number} of this job {f'failed: {reason}' if reason else how}"


class JobLauncher(_SubprocessScriptLauncher):
    """Starts every rank of this machine on the resolved config of this job, in this job's run folder.

    Lightning repeats the command line instead: in a multirun every rank would then start the whole sweep again.
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
        # For them alone, and not in the run folder, as it may hold secrets.
        self._config = tempfile.TemporaryDirectory(prefix="inception_zoo_")
        config = Path(self._config.name) / "job.yaml"
        OmegaConf.save(self.cfg, config)
        _ranks.extend(Rank(number, config, self.folder) for number in range(1, self.num_processes))
        # `self.procs` stays empty: Lightning kills this process, and a sweep with it, as soon as one of those has failed.
        threading.Thread(target=_watch, args=[list(_ranks), self.folder], daemon=True).start()


def _command(config: Path, folder: Path, rank: int) -> list[str]:
    overrides = [f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null", f"hydra.job.name=rank{rank}"]
    where = ["--config-path", str(config.parent), "--config-name", config.stem]
    return [sys.executable, "-m", "inception_zoo.app", *where, *overrides]


def _watch(ranks: list[Rank], folder: Path) -> None:
    """Kill the job where a rank has failed and this one does not learn of it: it would wait for ever."""
    while not (faults := [rank.fault for rank in ranks if rank.fault]):
        if all(rank.poll() is not None for rank in ranks):
            return
        time.sleep(1)
    time.sleep(PATIENCE)
    if ranks[0] in _ranks:
        print(f"error: {faults[0]}, and the first waited {PATIENCE} s for it", file=sys.stderr)
        record_failure(folder, faults[0])
        for rank in ranks:
            rank.kill()
        os.kill(os.getpid(), signal.SIGKILL)


def end_ranks(error: BaseException | None) -> BaseException | None:
    """Wait for the ranks that this job started; end them where the job failed or they do not end by themselves.

    Returns:
        `error`; or, where that only says that another rank is gone, what happened to that.
    """
    ranks = list(_ranks)
    _ranks.clear()
    if isinstance(error, Exception) and _is_of_the_group(error):
        until = time.monotonic() + 5
        while not any(rank.fault for rank in ranks) and time.monotonic() < until:
            time.sleep(0.1)
        if fault := next((rank.fault for rank in ranks if rank.fault), None):
            error = ZooError(fault)
    for process in ranks:
        try:
            if error:
                process.terminate()
            process.wait(timeout=3 if isinstance(error, Exception) else 30)  # what has failed may wait for ever
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return error


def _is_of_the_group(error: Exception) -> bool:
    """Whether an error is of the connection to the other ranks."""
    return isinstance(error, torch.distributed.DistError) or bool(re.search("(?i)gloo|nccl|connection", str(error)))


class SameConfig(Callback):
    """Stops a job whose processes were given different configs, and counts those processes.

    Args:
        config: plain containers.
        results: gets `config_sha256`, and `world_size` as torch.distributed has it.
    """

    def __init__(self, config: Mapping[str, Any], results: dict[str, Any]) -> None:
        self.values, self.results = flattened(config), results

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        digest = hashlib.sha256(json.dumps(self.values, sort_keys=True, default=str).encode()).hexdigest()
        world_size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self.results |= {"world_size": world_size, "config_sha256": digest}
        if world_size == 1:
            return
        digests: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(digests, digest)
        if len(set(digests)) == 1:
            return
        every: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(every, self.values)
        for rank, theirs in enumerate(every):
            for key in sorted(theirs.keys() | every[0].keys()):
                if theirs.get(key) != every[0].get(key):
                    raise ZooError(
                        f"the processes of this job differ: {key}={every[0].get(key)} on rank 0 and {theirs.get(key)} on rank "
                        f"{rank}; start them all with the same command"
                    )
