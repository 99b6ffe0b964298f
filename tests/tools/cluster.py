"""A job on several hosts: how it starts, what it prints, and the weights that it trains."""

import hashlib
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from conftest import ROOT, SMALL
from safetensors.torch import load_file
from tools.hosts import Host, wait_for

EPOCHS, STEPS = 6, 8
JOB = [*SMALL, "logger=csv", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=1", "hydra.run.dir=run"]
JOB += [f"trainer.max_epochs={EPOCHS}", f"trainer.limit_train_batches={STEPS}", "trainer.timeout_minutes=0.25"]
SECONDS = 240  # largest duration of a job
PORT = "29500"
TORCHRUN = Path(sys.executable).parent / "torchrun"


def command(launcher: str, host: Host, first: Host, count: int) -> tuple[list[object], dict[str, str]]:
    """Return the command that starts a host's part of a job, without overrides, and its environment."""
    ends = [f"--nnodes={count}", "--nproc-per-node=1"]
    if launcher == "by hand":
        address = {"MASTER_ADDR": first.address, "MASTER_PORT": PORT, "NODE_RANK": str(host.number)}
        return [sys.executable, ROOT / "run.py"], address
    if launcher == "torchrun":
        static = [f"--node-rank={host.number}", f"--master-addr={first.address}", f"--master-port={PORT}"]
        return [TORCHRUN, *ends, *static, ROOT / "run.py"], {}
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={first.address}:{PORT}", "--rdzv-id=job"]
    return [TORCHRUN, *ends, *meeting, ROOT / "run.py"], {}


@dataclass
class Cluster:
    """Hosts, and the job that they run together."""

    hosts: list[Host]
    launcher: str = "by hand"
    started: list = field(default_factory=list)

    def start(
        self, *words: str, only: Host | None = None, env: dict[str, str] | None = None, script: Path | None = None
    ) -> None:
        """Start the job on all hosts, or on one of them, with more overrides."""
        for host in self.hosts if only is None else [only]:
            line, names = command(self.launcher, host, self.hosts[0], len(self.hosts))
            line = [script if script and word == ROOT / "run.py" else word for word in line]
            own = [*JOB, f"trainer.num_nodes={len(self.hosts)}", *words]
            self.started.append(host.start([*line, *own], {"OMP_NUM_THREADS": "1", **names, **(env or {})}))

    def end(self) -> list[int]:
        """Wait for all processes, and return their exit statuses."""
        until = time.monotonic() + SECONDS
        statuses = [process.wait(max(1, until - time.monotonic())) for process in self.started]
        self.started.clear()
        return statuses

    def wait_for_a_checkpoint(self) -> None:
        assert wait_for((self.run / "checkpoints/last.ckpt").exists, 90), self.output()

    @property
    def run(self) -> Path:
        return self.hosts[0].disk / "run"

    def output(self) -> str:
        return "\n".join(f"{host.log}:\n{host.log.read_text()}" for host in self.hosts)

    def message(self, host: Host) -> str:
        """Return the line with which the job ended on a host."""
        told = [line for line in host.log.read_text().splitlines() if "error: " in line or "trainer.timeout_minutes)" in line]
        line = told[-1].partition("error: ")[2] or told[-1].partition("] ")[2] if told else ""
        return line.replace(f"{host.work}/", "")


def weights(run: Path) -> str:
    """Return a digest of the trained weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(load_file(run / "model.safetensors").items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()[:8]


def copied(folder: Path) -> Path:
    """Return the script of a copy of this project whose code differs by a comment."""
    for name in ("inception_zoo", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", folder)
    with (folder / "inception_zoo" / "models.py").open("a") as file:
        file.write("# changed\n")
    return folder / "run.py"
