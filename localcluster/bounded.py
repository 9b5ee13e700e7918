"""Commands, their inputs, and locks: every wait has a deadline.

Each command runs in its own session. At its deadline, or when this process is interrupted, the whole process group of
the command is killed, so that none of its children keeps running.
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
"""Timeout of short commands on this machine: dpkg-query, ip, mount."""
KUBECTL_S = 1000.0
"""Timeout of kubectl: longer than every ``--timeout`` of ``kubectl wait`` and ``delete`` (at most 900 s)."""
DOWNLOAD_S = 1800.0
"""Timeout of a package manager or a module download."""
BUILD_S = 4 * 3600.0
"""Timeout of a build from source, and of waiting for another process that builds. KubeVirt takes 20 minutes."""
_END_S = 10.0
"""Time that a process gets to end after SIGKILL."""
_CUT = 2000
"""Characters of a command's output that an error message keeps."""


class TimedOut(RuntimeError):
    """A command, or another process that holds a lock, did not end in time; the message names it."""


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
    """Run the command to its end; its standard input is ``input_text``, or empty.

    With ``output`` both output streams go into that file; with ``merged`` stderr goes into stdout. Raises TimedOut
    after ``timeout_s``, and CalledProcessError if ``check`` is set and the command fails.
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
        raise TimedOut(f"{' '.join(words)}: did not end within {timeout_s:.0f} s; its output: {printed!r}") from exc
    except BaseException:
        _end(process)
        raise
    done = subprocess.CompletedProcess(words, process.returncode, stdout or "", stderr or "")
    if check:
        done.check_returncode()
    return done


def feed(command: Sequence[str | Path], produce: Callable[[IO[bytes]], None], *, timeout_s: float) -> None:
    """Run a command and let ``produce`` write its standard input; a command that stops reading is killed in time.

    Raises TimedOut after ``timeout_s``, or CalledProcessError with the command's output as its stderr.
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
            raise TimedOut(f"{' '.join(words)}: did not end within {timeout_s:.0f} s of input; its output: {text!r}")
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, words, stderr=text)


@contextmanager
def locked(path: Path, what: str, *, timeout_s: float = BUILD_S) -> Iterator[None]:
    """Hold an exclusive lock on this file; ``what`` describes the holder's work, for the error message.

    Raises TimedOut if another process still holds the lock after ``timeout_s``.
    """
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
    """Kill the process group and return its remaining output if that is text; ("", "") if the process does not end."""
    _kill_group(process)
    try:
        stdout, stderr = process.communicate(timeout=_END_S)
    except (subprocess.TimeoutExpired, ValueError):  # it cannot be killed, or its input is closed already
        return "", ""
    return (stdout, str(stderr or "")) if isinstance(stdout, str) else ("", "")


def _kill_group(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
