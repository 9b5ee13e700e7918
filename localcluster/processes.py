"""Processes of the cluster: each has a log, and a record by which any later process can stop it."""

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
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_KILL_S = 60
_PORTS = (15000, 30000)
"""Below the range of outgoing connections (net.ipv4.ip_local_port_range) and of node ports."""
_PORT_TRIES = 1000
_choice = random.SystemRandom()  # a test that seeds the common generator would get another process's ports
_reservations: list[socket.socket] = []
_libc = ctypes.CDLL(None, use_errno=True)


class StartFailed(RuntimeError):
    """A process ended, or did not become ready in time; the message ends with the tail of its log."""


class StopFailed(RuntimeError):
    """A process did not end after SIGKILL; its record is kept."""


@dataclass(frozen=True, slots=True)
class Record:
    """Identity of a started process: the start time distinguishes it from a later process with the same pid."""

    name: str
    pid: int
    start_time: int
    """Clock ticks since boot, field 22 of /proc/PID/stat."""


class Processes:
    """Named processes with their files in one directory: each has ``NAME.log`` and ``NAME.pid``."""

    def __init__(self, directory: Path, *, detached: bool = False) -> None:
        """Unless ``detached``, the kernel kills the processes when this process ends in any way.

        The kernel counts the starting thread as the parent, so the thread that calls ``start`` must not end earlier.
        """
        self.directory = directory
        self.detached = detached
        directory.mkdir(parents=True, exist_ok=True)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        """Start ``command`` in its own session and append its output to ``NAME.log``.

        A predecessor that was killed ends first: it may still hold ports and locks. Raises StopFailed if it does not.
        """
        self._wait_for_end(name)
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
        # Renamed into place: an existing record is complete, even if this process is killed now.
        incoming = self._record_path(name).with_suffix(".pid-new")
        incoming.write_text(json.dumps(asdict(record)))
        incoming.rename(self._record_path(name))

    def wait_until(self, name: str, ready: Callable[[], bool], timeout_s: float = 60) -> None:
        """Poll ``ready`` until it is true. Raises StartFailed if the process ends first or ``timeout_s`` has passed."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.is_running(name):
                child = self._children.get(name)
                status = child.returncode if child is not None else "unknown"
                raise StartFailed(f"{name} ended (status {status}); end of {self.log(name)}:\n{self.tail(name)}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{name} not ready in {timeout_s:.0f} s; end of {self.log(name)}:\n{self.tail(name)}")
            time.sleep(0.05)

    def is_running(self, name: str) -> bool:
        """Whether the process is alive; it may have been started by an earlier user of this directory."""
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            return False
        record = self._record(name)
        return record is not None and _is_alive(record) and (child is not None or not _is_ending(record.pid))

    def names(self) -> list[str]:
        """Names of all recorded processes, running or not."""
        return sorted(path.stem for path in self.directory.glob("*.pid"))

    def pid(self, name: str) -> int | None:
        """Pid of the process, or None if it is not recorded or has ended."""
        record = self._record(name)
        return record.pid if record is not None and _is_alive(record) else None

    def stop(self, name: str, timeout_s: float = 10, sig: signal.Signals = signal.SIGTERM) -> None:
        """End the process group with ``sig``, and with SIGKILL after ``timeout_s``. An ended process is accepted.

        Raises StopFailed, and keeps the record, if the process survives SIGKILL.
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
        """Stop all recorded processes, the last started first. Raises StopFailed at the end if some did not end."""
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
        """Path of the process's log."""
        return self.directory / f"{name}.log"

    def tail(self, name: str, characters: int = 2000) -> str:
        """End of the process's log, or "" if there is none."""
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
        self._wait_for_end(record.name)

    def _wait_for_end(self, name: str) -> None:
        """Wait until a killed process has disappeared, which took over 10 s on a busy machine."""
        record = self._record(name)
        deadline = time.monotonic() + _KILL_S
        while record is not None and _is_alive(record):
            if time.monotonic() > deadline:
                raise StopFailed(f"{record.name} (pid {record.pid}) still exists {_KILL_S} s after SIGKILL")
            self._reap(record.name)
            time.sleep(0.02)

    def _reap(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            child.poll()


def free_port(address: str = "127.0.0.1") -> int:
    """A free TCP port outside the kernel's range for outgoing connections, reserved while this process runs.

    From that range, a client that retries while its server is down could get the server's own port as source port, and
    the server could not bind to it again. A socket's name reserves the port among all processes on this machine that
    use this function, also before its server listens.
    """
    for _ in range(_PORT_TRIES):
        port = _choice.randrange(*_PORTS)
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0kigi-port-{address}-{port}")
            with socket.socket() as probe:
                probe.bind((address, port))
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        return port
    raise OSError(f"no free port at {address} in {_PORT_TRIES} attempts between {_PORTS[0]} and {_PORTS[1]}")


def kept_port(path: Path, address: str = "127.0.0.1") -> int:
    """The port recorded in the file ``path``; the first call chooses a free port and records it."""
    if not path.exists():
        incoming = path.with_suffix(".port-new")
        incoming.write_text(str(free_port(address)))
        incoming.rename(path)
    return int(path.read_text())


def is_listening(address: str, port: int) -> bool:
    """Whether a server accepts TCP connections at this address."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((address, port)) == 0


def _die_with_parent(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before prctl took effect
        os.kill(os.getpid(), signal.SIGKILL)


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" and not _has_threads(pid) else int(fields[19])


def _has_threads(pid: int) -> bool:
    """Whether a process still has threads: they may outlive its first thread and hold ports and locks."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_ending(pid: int) -> bool:
    """Whether a process has given up its memory, and with it its arguments, but still exists.

    A process that is about to execute its program has none either for a moment.
    """
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def _is_alive(record: Record) -> bool:
    return _start_time(record.pid) == record.start_time


def _signal_group(pid: int, sig: signal.Signals) -> None:
    try:
        os.killpg(pid, sig)
    except (ProcessLookupError, PermissionError):
        return
