"""Commands, inputs and locks with a deadline: nothing on this machine is waited for without end.

A command runs in a session of its own. At its deadline, or when this process is interrupted, its whole process group
is killed, so that no child of it runs on.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

QUICK_S = 60.0
"""For commands that read or change something on this machine: dpkg-query, ip, mount."""
KUBECTL_S = 1000.0
"""For kubectl: more than any ``--timeout`` that is given to ``kubectl wait`` or ``delete`` (900 s)."""
DOWNLOAD_S = 1800.0
"""For a package manager or a module download."""
BUILD_S = 4 * 3600.0
"""For a build from source, and for whoever waits for another process that builds. KubeVirt takes 20 minutes."""
_END_S = 10.0
"""From SIGKILL to the end of a process."""
_CUT = 2000


class TimedOut(RuntimeError):
    """A command, or another process that holds a lock, did not end in time; the text says what was waited for."""


def run(
    command: Sequence[str | Path],
    *,
    timeout_s: float,
    check: bool = True,
    input_text: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | None = None,
    merged: bool = False,
) -> subprocess.CompletedProcess[str]:
    """The ended command with its output; its standard input is ``input_text``, or empty.

    ``output`` takes both output streams; ``merged`` puts the error stream into stdout. Raises TimedOut after
    ``timeout_s``, and with ``check`` CalledProcessError if the command fails.
    """
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL if input_text is None else subprocess.PIPE,
        stdout=subprocess.PIPE if output is None else output,
        stderr=subprocess.STDOUT if merged or output is not None else subprocess.PIPE,
        env=None if env is None else dict(env),
        cwd=cwd,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(input_text, timeout=timeout_s)
    except subprocess.TimeoutExpired as exc:
        printed = "".join(part for part in _end(process) if part).strip()[-_CUT:]
        raise TimedOut(f"{' '.join(words)}: no end within {timeout_s:.0f} s; it printed {printed!r}") from exc
    except BaseException:
        _end(process)
        raise
    done = subprocess.CompletedProcess(words, process.returncode, stdout or "", stderr or "")
    if check:
        done.check_returncode()
    return done


def feed(command: Sequence[str | Path], produce: Callable[[IO[bytes]], None], *, timeout_s: float) -> None:
    """Run a command whose standard input ``produce`` writes; a command that does not read it is killed in time.

    Raises TimedOut, or CalledProcessError with the output as its stderr.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=printed, stderr=printed, start_new_session=True)
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            _kill_group(process)

        timer = threading.Timer(timeout_s, expire)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin:
                produce(process.stdin)
            process.wait(timeout_s + _END_S)
        except BaseException:
            _end(process)
            raise
        finally:
            timer.cancel()
        printed.seek(0)
        text = printed.read().decode(errors="replace")[-_CUT:]
        if expired.is_set():
            raise TimedOut(f"{' '.join(words)}: its input was not taken within {timeout_s:.0f} s; it printed {text!r}")
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, words, stderr=text)


@contextmanager
def locked(path: Path, what: str, *, timeout_s: float = BUILD_S) -> Iterator[None]:
    """Hold the lock of this file; ``what`` is what its holder does. Raises TimedOut if another process keeps it."""
    deadline = time.monotonic() + timeout_s
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise TimedOut(f"{path} is still locked after {timeout_s:.0f} s by another process: {what}")
            time.sleep(0.1)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> tuple[str, str]:
    """Kill the process group; what it printed, as far as that is text. A process that does not end is left."""
    _kill_group(process)
    try:
        stdout, stderr = process.communicate(timeout=_END_S)
    except (subprocess.TimeoutExpired, ValueError):  # it cannot be killed, or its input is closed already
        return "", ""
    return (stdout, str(stderr or "")) if isinstance(stdout, str) else ("", "")


def _kill_group(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
