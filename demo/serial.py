"""Sends a guest a command on its serial console and waits for the answer; every wait has a deadline.

A console may end, hang, or lose its connection to another client at any time. The terminal's descriptor is
non-blocking: the terminal of a program that does not read is full after 4095 bytes, and a blocking write would hang.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

ANSWER_S = 12.0
"""An unanswered command is repeated after this time. The tiny guest reads its console at least every 5 s."""
SILENT_S = 40.0
"""A console without output for this time is reopened. The tiny guest reports every 5 s."""
END_S = 10.0
"""Time that a program gets to end after SIGKILL."""
_PAUSE_S = 1.0
"""Pause before a console that has ended is reopened."""


class NoAnswer(RuntimeError):
    """The guest did not answer in time, or the console did not work; the message has command, answer and output."""


class Terminal:
    """A program on a pseudo-terminal in raw mode: input is not echoed, and no byte is a control character."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._name = os.path.basename(command[0])
        self._descriptor, inner = pty.openpty()
        try:
            tty.setraw(inner)
            os.set_blocking(self._descriptor, False)
            self._process = subprocess.Popen(
                command, stdin=inner, stdout=inner, stderr=inner, env=None if environment is None else dict(environment)
            )
        except BaseException:
            os.close(self._descriptor)
            raise
        finally:
            os.close(inner)

    @property
    def ended(self) -> bool:
        """Whether the program has ended."""
        return self._process.poll() is not None

    def send(self, data: bytes, deadline: float) -> bool:
        """Write ``data`` until ``deadline`` (monotonic clock, s); False if the program ended or did not read it all."""
        while data and not self.ended and (left := deadline - time.monotonic()) > 0:
            if select.select([], [self._descriptor], [], min(left, 1.0))[1]:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    # The terminal has free space, but not for all of these bytes.
                    time.sleep(0.05)
                except OSError:  # the program has closed its end
                    return False
        return not data

    def receive(self, until: str, deadline: float) -> str:
        """Read output until it contains ``until``, the program ends, or ``deadline`` (monotonic clock, s) passes."""
        text = b""
        wanted = until.encode()
        while wanted not in text and (left := deadline - time.monotonic()) > 0:
            if select.select([self._descriptor], [], [], min(left, 1.0))[0]:
                try:
                    part = os.read(self._descriptor, 65536)
                except BlockingIOError:
                    continue
                except OSError:  # the program has ended, and all its output was read
                    break
                if not part:
                    break
                text += part
        return text.decode(errors="replace")

    def close(self) -> None:
        """Kill the program. Raises NoAnswer if it has not ended after ``END_S``."""
        self._process.kill()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired as exc:
            pid = self._process.pid
            raise NoAnswer(f"{self._name} (pid {pid}) has not ended {END_S:.0f} s after SIGKILL") from exc
        finally:
            os.close(self._descriptor)


@contextmanager
def terminal(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """Run the program on a terminal; it is killed at the end of the context."""
    one = Terminal(command, environment)
    try:
        yield one
    finally:
        one.close()


def ask(
    open_console: Callable[[], AbstractContextManager[Terminal]],
    line: str,
    answer: str,
    *,
    timeout_s: float = 120.0,
    answer_s: float = ANSWER_S,
    silent_s: float = SILENT_S,
) -> str:
    """Send ``line`` until the output contains ``answer``; returns all output up to the end of the answer's line.

    A console that ends, accepts no input, or has no output for ``silent_s`` is reopened. ``line`` is repeated only if
    it is unanswered for ``answer_s``, or after the console was reopened. Raises NoAnswer after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    output, consoles, sent = "", 0, 0
    while time.monotonic() < deadline:
        consoles += 1
        with open_console() as console:
            last_output = time.monotonic()
            while not console.ended and (now := time.monotonic()) < min(deadline, last_output + silent_s):
                if not console.send(f"{line}\n".encode(), min(deadline, now + answer_s)):
                    break
                sent += 1
                new = console.receive(answer, min(deadline, now + answer_s))
                output += new
                if answer in output:
                    return output + console.receive("\n", min(deadline, time.monotonic() + 1))
                if new:
                    last_output = time.monotonic()
            # Output of a program before it ended, such as its error message.
            output += console.receive(answer, min(deadline, time.monotonic() + 0.2))
        if answer in output:
            return output
        time.sleep(max(0.0, min(_PAUSE_S, deadline - time.monotonic())))
    raise NoAnswer(
        f"no {answer!r} after {line!r} in {timeout_s:.0f} s: {consoles} consoles opened, the line sent {sent} times, "
        f"{len(output)} characters of output, the last ones {output[-500:]!r}"
    )
