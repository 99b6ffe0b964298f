"""Several hosts on one machine: network namespaces on a bridge, each with its own address, host name and processes.

A host can have a disk of its own, which covers the working folder that the hosts otherwise share. Needs root and Linux.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tools.commands import environment

NETWORK = "10.77.0"
SLOW_LINK = Path(__file__).with_name("slow_link.py")
ETC = Path("/etc/netns")  # `ip netns exec` places these files over those of /etc


@dataclass
class Host:
    """A network namespace and the processes that were started in it."""

    number: int
    work: Path  # the working folder, under the same path on every host
    disk: Path  # where this host's working folder is, seen from outside: another place if it has a disk of its own
    size: str | None = None  # of its own disk, such as 20m; None: as large as the machine's
    folder: Path | None = None  # where its commands start; None: the working folder
    processes: list[subprocess.Popen] = field(default_factory=list)
    relays: list[subprocess.Popen] = field(default_factory=list)  # of its link; a power failure does not end them

    @property
    def name(self) -> str:
        return f"iz{os.getpid()}-{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number + 1}"

    def start(self, command: Sequence[object], env: Mapping[str, str] | None = None) -> subprocess.Popen:
        """Start a command in the working folder; its output goes to `log`. It ends with all of its processes."""
        setup = [f"hostname host{self.number}"]
        if self.size:
            setup.append(f"mount -t tmpfs -o size={self.size} tmpfs {self.work}")
        elif self.disk != self.work:
            setup.append(f"mount --bind {self.disk} {self.work}")
        script = "; ".join([*setup, f"cd {self.folder or self.work}", 'exec "$@"'])
        outside = f"ip netns exec {self.name} unshare --mount --uts --pid --fork --kill-child --mount-proc".split()
        with self.log.open("a") as log:
            words = [*outside, "sh", "-c", script, "sh", *map(str, command)]
            process = subprocess.Popen(words, stdout=log, stderr=log, env=environment(env or {}))
        self.processes.append(process)
        return process

    @property
    def log(self) -> Path:
        return self.work.with_name(f"host{self.number}.log")

    def link(self, state: str) -> None:
        """Set its link `up` or `down`."""
        _run("ip", "-n", _hub(), "link", "set", f"port{self.number}", state)

    def slow_down(self, rate: str) -> None:
        """Limit the rate of its link in both directions, such as `20mbit`."""
        limit = ["root", "tbf", "rate", rate, "burst", "64kbit", "latency", "400ms"]
        _run("ip", "netns", "exec", self.name, "tc", "qdisc", "add", "dev", "eth0", *limit)
        _run("ip", "netns", "exec", _hub(), "tc", "qdisc", "add", "dev", f"port{self.number}", *limit)

    def delay(self, seconds: float, loss: float, seed: int = 0) -> None:
        """Delay the frames of its link by this time, in each direction, and lose a random share of them."""
        port, end, wire = (f"{name}{self.number}" for name in ("port", "end", "wire"))
        _run("ip", "-n", _hub(), "link", "add", end, "type", "veth", "peer", "name", wire)
        _run("ip", "-n", _hub(), "link", "set", port, "nomaster")  # the relay connects `port` with `end`
        # Else the kernel hands over 64 kB at a time, which would be lost together.
        _run("ip", "-n", self.name, "link", "set", "eth0", "gso_max_segs", "1")
        _run("ip", "-n", _hub(), "link", "set", wire, "gso_max_segs", "1", "master", "bridge", "up")
        _run("ip", "-n", _hub(), "link", "set", end, "up")
        relay = [sys.executable, SLOW_LINK, "relay", port, end, seconds, loss, seed]
        with self.log.open("a") as log:
            words = ["ip", "netns", "exec", _hub(), *map(str, relay)]
            self.relays.append(subprocess.Popen(words, stdout=log, stderr=log))

    def ping(self, other: "Host", count: int) -> tuple[float, float]:
        """Return the median round trip to another host in seconds, and the share of lost echoes; see `slow_link`."""
        words = ["ip", "netns", "exec", self.name, sys.executable, SLOW_LINK, "ping", other.address, count]
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=True)
        seconds, lost = map(float, done.stdout.split())
        return seconds, lost

    def kill(self) -> None:
        """End the host as a power failure does, without closing its connections."""
        self.link("down")
        for process in self.processes:
            process.kill()  # unshare's children are killed with it


@contextmanager
def hosts(count: int, folder: Path, own_disks: bool = False, names: str = "all") -> Iterator[list[Host]]:
    """Yield connected hosts, and remove them with all of their processes at the end.

    Args:
        count: number of hosts.
        folder: of the working folder and the logs.
        own_disks: give each host a working folder of its own, under the same path.
        names: that a host can resolve: `all`; `none`, not even its own; or `loopback`, its own only, as Debian sets it up.
    """
    work = folder / "work"
    work.mkdir()
    made = [Host(n, work, folder / f"disk{n}" if own_disks else work) for n in range(count)]
    try:
        _run("ip", "netns", "add", _hub())
        _run("ip", "-n", _hub(), "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", _hub(), "link", "set", "bridge", "up")
        for host in made:
            host.disk.mkdir(exist_ok=True)
            _run("ip", "netns", "add", host.name)
            _run("ip", "-n", _hub(), "link", "add", f"port{host.number}", "type", "veth", "peer", "eth0", "netns", host.name)
            _run("ip", "-n", _hub(), "link", "set", f"port{host.number}", "master", "bridge", "up")
            _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            _run("ip", "-n", host.name, "link", "set", "eth0", "up")
            _run("ip", "-n", host.name, "link", "set", "lo", "up")
            lines = [f"{each.address} host{each.number}" for each in made] if names == "all" else []
            lines = [f"127.0.1.1 host{host.number}"] if names == "loopback" else lines
            (ETC / host.name).mkdir(parents=True, exist_ok=True)
            (ETC / host.name / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        yield made
    finally:
        for host in made:
            for process in [*host.processes, *host.relays]:
                process.kill()
                process.wait()
            _run("ip", "netns", "delete", host.name, check=False)
            shutil.rmtree(ETC / host.name, ignore_errors=True)
        _run("ip", "netns", "delete", _hub(), check=False)
        with suppress(OSError):
            ETC.rmdir()


def why_impossible() -> str | None:
    """Return the reason why hosts cannot be made here; None if they can."""
    if os.name != "posix" or os.geteuid():
        return "network namespaces need root"
    missing = [name for name in ("ip", "tc", "unshare") if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: iproute2, util-linux)"
    probe = f"iz{os.getpid()}-probe"
    if _run("ip", "netns", "add", probe, check=False):
        return "this kernel or container allows no network namespaces"
    _run("ip", "netns", "delete", probe)
    return None


def wait_for(condition, seconds: float) -> bool:
    """Wait until a condition holds; return False after this time."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.2)
    return condition()


def _hub() -> str:
    return f"iz{os.getpid()}-hub"


def _run(*command: str, check: bool = True) -> int:
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.returncode
