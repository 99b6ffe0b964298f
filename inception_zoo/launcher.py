"""How the other ranks of a job are started and ended."""

import os
import subprocess
import sys
from pathlib import Path

from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from omegaconf import DictConfig, OmegaConf

_ranks: list[subprocess.Popen] = []


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
        config = self.folder / ".hydra" / "resolved.yaml"
        config.parent.mkdir(exist_ok=True)
        OmegaConf.save(self.cfg, config)
        for rank in range(1, self.num_processes):
            environment = {**os.environ, "LOCAL_RANK": str(rank)}
            environment.pop("HYDRA_FULL_ERROR", None)  # set by our own main, which the rank runs too
            self.procs.append(subprocess.Popen(_command(config, self.folder, rank), env=environment))
        _ranks.extend(self.procs)


def _command(config: Path, folder: Path, rank: int) -> list[str]:
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    overrides = [f"hydra.run.dir='{quoted}'", "hydra.output_subdir=null", f"hydra.job.name=rank{rank}"]
    where = ["--config-path", str(config.parent), "--config-name", config.stem]
    return [sys.executable, "-m", "inception_zoo.app", *where, *overrides]


def end_ranks(failed: bool) -> None:
    """Wait for the ranks that this job started; end them where the job failed or they do not end by themselves."""
    for process in _ranks:
        try:
            if failed:
                process.terminate()
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _ranks.clear()
