"""Processes of the cluster: started with a log and a record, stopped by exactly that record, also after a crash."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class StartFailed(RuntimeError):
    """A process ended, or did not become ready in time; the text ends with its log."""


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
        """Not ``detached``: the processes die with the thread's process, however that ends."""
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
                preexec_fn=None if self.detached else _die_with_parent,
            )
        self._children[name] = child
        record = Record(name, child.pid, _start_time(child.pid) or 0)
        self._record_path(name).write_text(json.dumps(asdict(record)))

    def wait_until(self, name: str, ready: Callable[[], bool], timeout_s: float = 60) -> None:
        """Wait until ``ready`` says so; raises StartFailed if ``name`` ends first or time runs out."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.is_running(name):
                raise StartFailed(f"{name} ended; {self.log(name)} ends:\n{self.tail(name)}")
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
        """End the process group: politely, then at once. Does nothing if it is gone already."""
        record = self._record(name)
        if record is not None and _is_alive(record):
            _signal_group(record.pid, sig)
            deadline = time.monotonic() + timeout_s
            while _is_alive(record) and time.monotonic() < deadline:
                self._reap(name)
                time.sleep(0.02)
            if _is_alive(record):
                _signal_group(record.pid, signal.SIGKILL)
                self._reap(name, wait=True)
        self._reap(name)
        self._record_path(name).unlink(missing_ok=True)

    def stop_all(self) -> None:
        """Everything on record, the last started first."""
        names = [name for name in reversed(self._children) if self._record_path(name).exists()]
        for name in [*names, *(name for name in self.names() if name not in names)]:
            self.stop(name)

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

    def _reap(self, name: str, *, wait: bool = False) -> None:
        child = self._children.get(name)
        if child is not None:
            child.wait(timeout=10) if wait else child.poll()


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def is_listening(address: str, port: int) -> bool:
    """Somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((address, port)) == 0


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def _is_alive(record: Record) -> bool:
    return _start_time(record.pid) == record.start_time


def _signal_group(pid: int, sig: signal.Signals) -> None:
    try:
        os.killpg(pid, sig)
    except (ProcessLookupError, PermissionError):
        return
