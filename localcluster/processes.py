"""Processes of the cluster: started with a log and a record, stopped by exactly that record, also after a crash."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_KILL_S = 60
_PORTS = (15000, 30000)
"""Below the range of outgoing connections (net.ipv4.ip_local_port_range) and of node ports."""
_PORT_TRIES = 1000
_libc = ctypes.CDLL(None, use_errno=True)


class StartFailed(RuntimeError):
    """A process ended, or did not become ready in time; the text ends with its log."""


class StopFailed(RuntimeError):
    """A process did not end although it was killed; its record is kept."""


@dataclass(frozen=True, slots=True)
class Record:
    """A process as it was started: the start time tells it from a later one with the same pid."""

    name: str
    pid: int
    start_time: int
    """Clock ticks since boot, field 22 of /proc/PID/stat."""


class Processes:
    """Named processes below one directory: ``NAME.log`` and ``NAME.pid`` of each."""

    def __init__(self, directory: Path, *, detached: bool = False) -> None:
        """Not ``detached``: the processes die with this one, however it ends.

        The kernel takes the thread that starts a process for its parent: start them from one that lives as long.
        """
        self.directory = directory
        self.detached = detached
        directory.mkdir(parents=True, exist_ok=True)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        """Start ``command`` in a session of its own, with its output appended to ``NAME.log``."""
        with self.log(name).open("ab") as output:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **env} if env is not None else None,
                start_new_session=True,
                preexec_fn=None if self.detached else functools.partial(_die_with_parent, os.getpid()),
            )
        self._children[name] = child
        record = Record(name, child.pid, _start_time(child.pid) or 0)
        # Renamed into place: a record that is there is whole, whenever this process is killed.
        incoming = self._record_path(name).with_suffix(".pid-new")
        incoming.write_text(json.dumps(asdict(record)))
        incoming.rename(self._record_path(name))

    def wait_until(self, name: str, ready: Callable[[], bool], timeout_s: float = 60) -> None:
        """Wait until ``ready`` says so; raises StartFailed if ``name`` ends first or time runs out."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.is_running(name):
                child = self._children.get(name)
                status = child.returncode if child is not None else "unknown"
                raise StartFailed(f"{name} ended (status {status}); {self.log(name)} ends:\n{self.tail(name)}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{name} not ready in {timeout_s:.0f} s; {self.log(name)} ends:\n{self.tail(name)}")
            time.sleep(0.05)

    def is_running(self, name: str) -> bool:
        """The process of that name, ours or of an earlier life of this directory, is alive."""
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            return False
        record = self._record(name)
        return record is not None and _is_alive(record)

    def names(self) -> list[str]:
        """Names of all processes on record."""
        return sorted(path.stem for path in self.directory.glob("*.pid"))

    def pid(self, name: str) -> int | None:
        """Its pid, if it is on record and alive."""
        record = self._record(name)
        return record.pid if record is not None and _is_alive(record) else None

    def stop(self, name: str, timeout_s: float = 10, sig: signal.Signals = signal.SIGTERM) -> None:
        """End the process group: politely, then at once. Does nothing if it is gone already.

        Raises StopFailed, and keeps the record, if the kernel does not end it.
        """
        record = self._record(name)
        if record is not None and _is_alive(record):
            _signal_group(record.pid, sig)
            deadline = time.monotonic() + timeout_s
            while _is_alive(record) and time.monotonic() < deadline:
                self._reap(name)
                time.sleep(0.02)
            if _is_alive(record):
                self._kill(record)
        self._reap(name)
        self._record_path(name).unlink(missing_ok=True)

    def stop_all(self) -> None:
        """Everything on record, the last started first. Raises StopFailed at the end for what would not go."""
        names = [name for name in reversed(self._children) if self._record_path(name).exists()]
        failures = []
        for name in [*names, *(name for name in self.names() if name not in names)]:
            try:
                self.stop(name)
            except StopFailed as error:
                failures.append(str(error))
        if failures:
            raise StopFailed("; ".join(failures))

    def log(self, name: str) -> Path:
        """Where its output goes."""
        return self.directory / f"{name}.log"

    def tail(self, name: str, characters: int = 2000) -> str:
        """The end of its log."""
        path = self.log(name)
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    def _record_path(self, name: str) -> Path:
        return self.directory / f"{name}.pid"

    def _record(self, name: str) -> Record | None:
        try:
            return Record(**json.loads(self._record_path(name).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _kill(self, record: Record) -> None:
        _signal_group(record.pid, signal.SIGKILL)
        # Only its disappearance says that its ports and files are free; seen to take over 10 s on a busy machine.
        deadline = time.monotonic() + _KILL_S
        while _is_alive(record):
            if time.monotonic() > deadline:
                raise StopFailed(f"{record.name} (pid {record.pid}) is still there {_KILL_S} s after SIGKILL")
            self._reap(record.name)
            time.sleep(0.02)

    def _reap(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            child.poll()


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago, and that the kernel gives to no outgoing connection.

    From the kernel's own range, a client that retries while its server is down may come from the server's very port,
    which the server then cannot have back.
    """
    for _ in range(_PORT_TRIES):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((address, random.randrange(*_PORTS)))
            return int(probe.getsockname()[1])
    raise OSError(f"no free port of {address} among {_PORT_TRIES} tries from {_PORTS[0]} to {_PORTS[1]}")


def kept_port(path: Path, address: str = "127.0.0.1") -> int:
    """The port that ``path`` remembers; a free one the first time."""
    if not path.exists():
        incoming = path.with_suffix(".port-new")
        incoming.write_text(str(free_port(address)))
        incoming.rename(path)
    return int(path.read_text())


def is_listening(address: str, port: int) -> bool:
    """Somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((address, port)) == 0


def _die_with_parent(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        os.kill(os.getpid(), signal.SIGKILL)


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" and not _has_threads(pid) else int(fields[19])


def _has_threads(pid: int) -> bool:
    """Threads outlive a killed process's first one for a while, and hold its ports and locks until they end."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_alive(record: Record) -> bool:
    return _start_time(record.pid) == record.start_time


def _signal_group(pid: int, sig: signal.Signals) -> None:
    try:
        os.killpg(pid, sig)
    except (ProcessLookupError, PermissionError):
        return
