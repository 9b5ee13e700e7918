"""Gives a guest an order on its serial console and waits for the answer; every wait has a deadline.

A console may end, hang, or lose its connection to another client at any time. Nothing here blocks on it: the
terminal's descriptor is non-blocking, because a program that does not read its terminal fills it after 4095 bytes.
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
"""An order is given again when it is unanswered so long. The tiny guest reads its console at least every 5 s."""
SILENT_S = 40.0
"""A console from which nothing comes so long is opened anew. The tiny guest reports itself every 5 s."""
END_S = 10.0
"""A killed program ends within this time."""
_PAUSE_S = 1.0
"""Before a console that ended is opened again."""


class NoAnswer(RuntimeError):
    """The guest did not answer in time, or the console could not be used; the text says what was waited for."""


class Terminal:
    """A program on a pseudo-terminal in raw mode: nothing is echoed, and no byte has a meaning of its own."""

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
        """The program has ended."""
        return self._process.poll() is not None

    def send(self, data: bytes, deadline: float) -> bool:
        """Write ``data`` until ``deadline`` (monotonic clock, s); False if the program ended or does not read it."""
        while data and not self.ended and (left := deadline - time.monotonic()) > 0:
            if select.select([], [self._descriptor], [], min(left, 1.0))[1]:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    # Writable by a few bytes, not by these.
                    time.sleep(0.05)
                except OSError:  # the program has closed its end
                    return False
        return not data

    def receive(self, until: str, deadline: float) -> str:
        """What comes before ``deadline`` (monotonic clock, s), until it has ``until`` in it or the program ends."""
        text = b""
        wanted = until.encode()
        while wanted not in text and (left := deadline - time.monotonic()) > 0:
            if select.select([self._descriptor], [], [], min(left, 1.0))[0]:
                try:
                    part = os.read(self._descriptor, 65536)
                except BlockingIOError:
                    continue
                except OSError:  # the program has ended, and everything that it wrote was read
                    break
                if not part:
                    break
                text += part
        return text.decode(errors="replace")

    def close(self) -> None:
        """Kill the program. Raises NoAnswer if the kernel does not end it."""
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
    """The program on its terminal; killed at the end."""
    one = Terminal(command, environment)
    try:
        yield one
    finally:
        one.close()


def ask(
    open_console: Callable[[], AbstractContextManager[Terminal]],
    order: str,
    answer: str,
    *,
    timeout_s: float = 120.0,
    answer_s: float = ANSWER_S,
    silent_s: float = SILENT_S,
) -> str:
    """Give the order until the answer comes; what was heard, up to and with the line of the answer.

    A console that ends, takes no input, or is silent for ``silent_s`` is opened anew. The order is given again only
    when it is unanswered for ``answer_s``, or when the console was opened anew. Raises NoAnswer after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    heard, consoles, orders = "", 0, 0
    while time.monotonic() < deadline:
        consoles += 1
        with open_console() as console:
            last_sign = time.monotonic()
            while not console.ended and (now := time.monotonic()) < min(deadline, last_sign + silent_s):
                if not console.send(f"{order}\n".encode(), min(deadline, now + answer_s)):
                    break
                orders += 1
                new = console.receive(answer, min(deadline, now + answer_s))
                heard += new
                if answer in heard:
                    return heard + console.receive("\n", min(deadline, time.monotonic() + 1))
                if new:
                    last_sign = time.monotonic()
            # What a program printed before it ended, such as its error.
            heard += console.receive(answer, min(deadline, time.monotonic() + 0.2))
        if answer in heard:
            return heard
        time.sleep(max(0.0, min(_PAUSE_S, deadline - time.monotonic())))
    raise NoAnswer(
        f"no {answer!r} after {order!r} in {timeout_s:.0f} s: {consoles} consoles opened, the order given {orders} "
        f"times, {len(heard)} characters heard, the last ones {heard[-500:]!r}"
    )
