"""A second source for a layer that a disk waits for, while a peer sends it slowly or not at all.

The rival reads ahead from the byte that the peer has reached. As soon as it is ahead, the peer's connection is cut, and
the reader continues with the rival's bytes. A rival that does not get ahead soon is given up.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kigi.errors import KigiError
from kigi_cache.clock import REAL_TIME, Clock
from kigi_cache.sources.pace import cut


@dataclass(frozen=True, slots=True)
class RacePolicy:
    """When a second source is asked."""

    check_s: float = 1.0
    """The transfer is judged by the bytes that arrived in so many seconds of waiting for them."""
    enough_bytes_per_s: float = 4 * 2**20
    """A peer that sends this much has no rival."""
    lead_bytes: int = 2 * 2**20
    """A rival wins when it is this far ahead, has the rest of the layer, or has anything if the peer sends nothing."""
    race_s: float = 4.0
    """A rival that is not ahead after this time is given up."""
    pause_s: float = 60.0
    """Time until the next race of the same read: where all sources are slow, rivals only take from each other."""
    ahead_bytes: int = 8 * 2**20
    """Most bytes that a rival reads ahead; they are in memory."""


DEFAULT_RACE = RacePolicy()
Read = Callable[[int], Iterator[memoryview]]
"""Bytes of the layer from a position to its end."""


class Rival:
    """Watches one read, in a thread of its own, from ``start`` to ``stop``."""

    def __init__(
        self,
        read: Read,
        size_bytes: int,
        is_urgent: Callable[[], bool],
        policy: RacePolicy = DEFAULT_RACE,
        clock: Clock = REAL_TIME,
    ) -> None:
        """``is_urgent``: whether a disk waits for the layer; asked again before each race."""
        self.position = 0
        """Bytes that the reader has."""
        self.has_won = False
        self._waited_s = 0.0
        self._waits_since_s: float | None = None
        self._is_urgent = is_urgent
        self._read = read
        self._size_bytes = size_bytes
        self._policy = policy
        self._clock = clock
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._begin = 0
        self._ahead: list[bytes] = []
        self._rest: Iterator[memoryview] = iter(())
        self._thread = threading.Thread(target=self._watch, name="rival", daemon=True)

    def start(self, position: int) -> None:
        """The reader begins at this byte."""
        self.position = position
        self._thread.start()

    def stop(self) -> None:
        """The reader needs no rival any more. Does not wait for it."""
        self._ended.set()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The reader waits for a peer in this block, and not for its own disk."""
        self._waits_since_s = began_s = self._clock.monotonic_s()
        try:
            yield
        finally:
            self._waits_since_s = None
            self._waited_s += self._clock.monotonic_s() - began_s

    def uses(self, sock: socket.socket | None) -> None:
        """The reader now waits for this socket, which is cut when the rival wins."""
        with self._lock:
            self._socket = sock
            if self.has_won:
                cut(sock)

    def take_over(self) -> Iterator[memoryview]:
        """The bytes from ``position`` on; only after the rival has won. Raises what its source raises."""
        self._thread.join()
        skipped = self.position - self._begin
        for data in self._ahead:
            if skipped < len(data):
                yield memoryview(bytearray(data[skipped:]))
            skipped = max(0, skipped - len(data))
        self._ahead.clear()
        for piece in self._rest:
            yield piece[skipped:]
            skipped = max(0, skipped - len(piece))

    def _watch(self) -> None:
        pause_s = 0.0
        position, waited_s = self.position, 0.0
        while not self._ended.wait(pause_s or self._policy.check_s):
            now_s, pause_s = self._waited(), 0.0
            received, seconds = self.position - position, now_s - waited_s
            if seconds < self._policy.check_s / 2 or not self._is_urgent():
                continue
            rate, remaining = received / seconds, self._size_bytes - self.position
            if rate < self._policy.enough_bytes_per_s and remaining > rate * self._policy.check_s:
                if self._race(is_silent=not received):
                    return
                pause_s = self._policy.pause_s
            position, waited_s = self.position, self._waited()

    def _waited(self) -> float:
        """Seconds that the reader has waited for peers until now."""
        since_s = self._waits_since_s
        return self._waited_s + (self._clock.monotonic_s() - since_s if since_s is not None else 0.0)

    def _race(self, *, is_silent: bool) -> bool:
        """Read from the reader's position until ahead of it, too late, or no longer needed. Whether it has won."""
        self._begin = received = self.position
        self._ahead.clear()
        end_s = self._clock.monotonic_s() + self._policy.race_s
        rest = self._read(self._begin)
        with contextlib.suppress(KigiError):
            for piece in rest:
                if self._ended.is_set() or self._clock.monotonic_s() > end_s:
                    break
                self._ahead.append(bytes(piece))
                received += len(piece)
                position = self.position
                if received - position >= min(self._policy.lead_bytes, self._size_bytes - position) or (
                    is_silent and position == self._begin
                ):
                    return self._win(rest)
                if received - self._begin > self._policy.ahead_bytes:
                    break
        self._ahead.clear()
        _close(rest)
        return False

    def _win(self, rest: Iterator[memoryview]) -> bool:
        with self._lock:
            if self._ended.is_set():
                _close(rest)
                return True
            self._rest, self.has_won = rest, True
            cut(self._socket)
        return True


def _close(rest: Iterator[memoryview]) -> None:
    close = getattr(rest, "close", None)
    if close is not None:
        close()
