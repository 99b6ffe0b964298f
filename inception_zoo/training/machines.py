"""Processes of a job that something else than the job has started, such as one process on each of several machines.

They meet before the data are read, and watch each other's heartbeat. torch.distributed alone waits in C++, where Python
handles no signal, and its timeout does not distinguish a process that is lost from one that is busy.
"""

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psutil
from lightning import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.distributed import TCPStore

from inception_zoo.errors import ZooError, one_line
from inception_zoo.runs.results import record_end
from inception_zoo.system.ranks import is_first
from inception_zoo.system.terminal import ENDING
from inception_zoo.training.processes import has_failed_rank, is_of_the_group, kill_ranks

MINUTES = 5.0  # default of trainer.timeout_minutes
BEAT = 2.0  # seconds between heartbeats
SILENT = 10.0  # seconds after which a rank counts as unreachable
REPORT = 30.0  # seconds between log lines about what is waited for
RESTARTS = 3  # largest number of restarts by SLURM with which a job that has lost a machine is queued again
INTERFACE = "GLOO_SOCKET_IFNAME"  # network interface that gloo uses
log = logging.getLogger(__name__)


@contextmanager
def meeting(trainer: Trainer, folder: Path, minutes: float) -> Iterator[Callable[[], None]]:
    """Wait until the processes on all machines have started, and watch them while the block runs.

    Args:
        trainer: the Trainer.
        folder: the run folder.
        minutes: time after which a process that cannot be reached ends the job.

    Yields:
        A function that waits until all processes have called it.

    Raises:
        ZooError: a process cannot be reached.
    """
    strategy = trainer.strategy
    starts_ranks = isinstance(strategy.launcher, _SubprocessScriptLauncher)
    if not isinstance(strategy, ParallelStrategy) or trainer.world_size == 1 or (starts_ranks and trainer.num_nodes == 1):
        yield lambda: None
        return
    environment = strategy.cluster_environment
    assert environment is not None
    step = trainer.num_devices if starts_ranks else 1  # a process that starts the ranks of its machine speaks for them
    ranks = range(0, trainer.world_size, step)
    if trainer.num_nodes > 1 and INTERFACE not in os.environ:
        if interface := interface_to(environment.main_address):
            os.environ[INTERFACE] = interface
        elif not environment.main_address.startswith(("127.", "localhost")):
            where = f"MASTER_ADDR={environment.main_address} has no network interface here, as for a loopback address"
            log.warning(f"{where}; if other machines cannot connect, set its network address, or {INTERFACE}")
    peers = Peers(trainer.global_rank, ranks, environment.main_address, environment.main_port, folder, minutes)
    try:
        peers.wait_until("here")
        yield lambda: peers.wait_until("ready")
    except Exception as error:
        if isinstance(error, ZooError) or not is_of_the_group(error) or (reason := peers.lost(error)) is None:
            raise
        raise ZooError(reason) from error
    finally:
        peers.close()


def interface_to(address: str) -> str | None:
    """Return the network interface of this machine that reaches an address; None if it cannot be found, or is loopback.

    By default, gloo uses the interface of the host name's address. On many machines this is a loopback address, or the name
    has none, and the others could not connect.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 1))  # sends nothing
        mine = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if not mine.startswith("127.") and any(each.address == mine for each in addresses):
                return name
    return None


class Peers:
    """The processes that were started separately, known by their heartbeats in a store of rank 0.

    Args:
        rank: global rank of this process.
        ranks: ranks of all processes that were started separately.
        address: of the machine of rank 0.
        port: of the store; torch.distributed uses the same port later.
        folder: the run folder.
        minutes: time after which a process that cannot be reached ends the job.
    """

    def __init__(self, rank: int, ranks: Sequence[int], address: str, port: int, folder: Path, minutes: float) -> None:
        self.rank, self.address, self.port, self.folder, self.minutes = rank, address, port, folder, minutes
        self.state, self.error, self.closed = "here", "", threading.Event()
        now = time.monotonic()
        self.beats = {other: "" for other in ranks if other != rank}  # last heartbeat: number, state, host name
        self.seen = dict.fromkeys(self.beats, now)  # time of the last heartbeat
        self.met = False
        self.signals, theirs = socket.socketpair()
        self.signals.setblocking(False)
        theirs.setblocking(False)
        self._theirs, self._before = theirs, signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()
        threading.Thread(target=self._talk, daemon=True).start()

    def wait_until(self, state: str) -> None:
        """Wait, in Python, until all processes are in a state: `here`, or `ready` to train.

        Raises:
            ZooError: a process has not come within the time limit, or the port cannot be used.
        """
        self.state = state
        started = reported = time.monotonic()
        while left := [rank for rank, beat in self.beats.items() if not beat or (state == "ready" and " ready " not in beat)]:
            if self.error:
                raise ZooError(f"MASTER_PORT={self.port} cannot be used on this machine: {self.error}")
            now = time.monotonic()
            missing = [rank for rank in left if not self.beats[rank]]
            waited = now - started
            if missing and waited > 60 * self.minutes:
                raise ZooError(
                    f"{_named(missing)} did not connect to {self.address}:{self.port} within {self.minutes:g} minutes "
                    "(trainer.timeout_minutes); start the job on every machine with the same command and MASTER_ADDR"
                )
            if now - reported > REPORT:
                reported = now
                what = f"to connect to {self.address}:{self.port}" if missing else "to read the data"
                log.info(f"waiting for {_named(missing or left)} {what}, for {waited:.0f} s")
            time.sleep(0.2)
        self.met = True

    def lost(self, error: Exception) -> str | None:
        """Wait until a lost rank would be noticed, and return the reason for the failed connection.

        None: a rank of this machine has failed, and has its own reason.
        """
        until = time.monotonic() + SILENT + 2 * BEAT
        while time.monotonic() < until and not self._silent():
            if has_failed_rank():
                return None
            time.sleep(0.2)
        if silent := self._silent():
            return f"{self._named_with_hosts(silent)} has ended, or cannot be reached; resume from the last checkpoint"
        return f"the connection to the other ranks was lost ({one_line(error)}); resume from the last checkpoint"

    def _silent(self) -> list[int]:
        now = time.monotonic()
        return [rank for rank, seen in self.seen.items() if now - seen > SILENT]

    def _named_with_hosts(self, ranks: Sequence[int]) -> str:
        return f"{_named(ranks)} on {', '.join(sorted({self.beats[rank].split(' ')[-1] for rank in ranks}))}"

    def close(self) -> None:
        """End the watch."""
        self.closed.set()
        signal.set_wakeup_fd(self._before)
        self._watching.join()
        self.signals.close()
        self._theirs.close()

    def _talk(self) -> None:
        """Send and read heartbeats. This thread alone uses the connection, because it may block."""
        host, number = socket.gethostname(), 0
        while not self.closed.is_set():
            try:
                limit = timedelta(seconds=SILENT)
                store = TCPStore(
                    self.address, self.port, None, self.rank == 0, timeout=limit, wait_for_workers=False, multi_tenant=True
                )
                while not self.closed.is_set():
                    number += 1
                    store.set(_key(self.rank), f"{number} {self.state} {host}")
                    for rank in self.beats:
                        if store.check([_key(rank)]) and (beat := store.get(_key(rank)).decode()) != self.beats[rank]:
                            self.beats[rank], self.seen[rank] = beat, time.monotonic()
                    self.closed.wait(BEAT)
            except Exception as error:  # torch raises errors of many types
                if self.rank == 0 and not number:
                    self.error = one_line(error)
                self.closed.wait(BEAT)

    def _watch(self) -> None:
        """End this process if a peer is unreachable for too long, or after a signal while one is unreachable."""
        reported, number, now = 0.0, 0, time.monotonic()
        while not self.closed.wait(1):
            with suppress(BlockingIOError):
                number = next((each for each in self.signals.recv(64) if each in (signal.SIGINT, *ENDING)), number)
            last, now = now, time.monotonic()
            if now - last > BEAT + 1:  # this process was stopped, for example by Ctrl-Z, and perhaps the others, too
                self.seen = dict.fromkeys(self.seen, now)
            silent = self._silent()
            if not silent or not self.met:
                continue
            longest = max(now - self.seen[rank] for rank in silent)
            who = self._named_with_hosts(silent)
            if number:
                self._end(f"{signal.Signals(number).name}, while {who} cannot be reached", 128 + number)
            if longest > 60 * self.minutes:
                self._end(f"{who} cannot be reached for {self.minutes:g} minutes (trainer.timeout_minutes)", 1)
            if now - reported > REPORT:
                reported = now
                log.warning(f"{who} cannot be reached for {longest:.0f} s; the job ends after {self.minutes:g} minutes")

    def _end(self, reason: str, status: int) -> None:
        """End the process at once: its main thread may wait in C++ for ever."""
        log.error(f"{reason}; resume from the last checkpoint")
        if is_first():
            record_end(self.folder, reason, "interrupted" if status > 128 else "failed")
        if status == 1:
            queue_again()
        kill_ranks()
        os._exit(status)


def queue_again() -> None:
    """Have SLURM run this job of a sweep again when it has machines for it.

    SLURM does so by itself only if it notices the loss of a machine before this job ends. Otherwise the job would count as
    failed, and without accounting the sweep would wait for it for ever.
    """
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and restarts.isdecimal() and int(restarts) < RESTARTS:
        log.warning("asking SLURM to run this job again")
        try:
            command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
            done = subprocess.run(command, timeout=60, capture_output=True, text=True)
            reason = done.stderr.strip() if done.returncode else None
        except (OSError, subprocess.SubprocessError) as error:
            reason = one_line(error)
        if reason:
            log.warning(f"scontrol requeue: {reason}")


def _key(rank: int) -> str:
    return f"inception_zoo/heartbeat/{rank}"


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
