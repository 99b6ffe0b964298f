"""How the other ranks of a job are started."""

import os
import subprocess
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher


class JobLauncher(_SubprocessScriptLauncher):
    """Starts every rank of this machine on the config that this job composed, in this job's run folder.

    Lightning repeats the command line instead: in a multirun every rank would then start the whole sweep again.
    """

    def _call_children_scripts(self) -> None:
        self._check_can_spawn_children()
        os.environ |= {
            "MASTER_ADDR": self.cluster_environment.main_address,
            "MASTER_PORT": str(self.cluster_environment.main_port),
            "NODE_RANK": str(self.cluster_environment.node_rank()),
            "LOCAL_RANK": str(self.cluster_environment.local_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        for rank in range(1, self.num_processes):
            environment = {**os.environ, "LOCAL_RANK": str(rank)}
            environment.pop("HYDRA_FULL_ERROR", None)  # set by our own main, which the rank runs too
            self.procs.append(subprocess.Popen(_command(rank), env=environment))


def _command(rank: int) -> list[str]:
    folder = HydraConfig.get().runtime.output_dir
    config = ["--config-path", str(Path(folder) / ".hydra"), "--config-name", "config"]
    quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
    overrides = [f"hydra.run.dir='{quoted}'", "hydra.output_subdir=null", f"hydra.job.name=rank{rank}"]
    return [sys.executable, "-m", "inception_zoo.app", *config, *overrides]
