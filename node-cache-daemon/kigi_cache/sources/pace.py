"""The least throughput of a transfer, so that a server that sends a byte now and then is left as a silent one is.

Only the time that is spent waiting for the server counts: a reader that waits for its own disk is not a slow server.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kigi_cache.clock import REAL_TIME, Clock


@dataclass(frozen=True, slots=True)
class LeastPace:
    """What a server must send: ``bytes_per_s`` on average over each ``window_s`` of waiting for it."""

    bytes_per_s: float
    window_s: float


class TooSlow(OSError):
    """The server sent less than the least pace."""


class Pace:
    """Measures one transfer. A full window is judged as soon as it ends, at the latest with the next bytes."""

    def __init__(self, least: LeastPace, clock: Clock = REAL_TIME) -> None:
        self._least = least
        self._clock = clock
        self._waited_s = 0.0
        self._bytes = 0

    def receive(self, response: PacedResponse, buffer: memoryview) -> int:
        """Bytes that one ``recv`` put into ``buffer``; 0 at the end. Raises TooSlow, and what reading raises."""
        began_s = self._clock.monotonic_s()
        count = response.readinto1(buffer)
        self.count(count, self._clock.monotonic_s() - began_s)
        return count

    def count(self, size_bytes: int, waited_s: float) -> None:
        """These bytes arrived after a wait. Raises TooSlow at the end of a window with too few bytes."""
        self._bytes += size_bytes
        self._waited_s += waited_s
        if self._waited_s < self._least.window_s:
            return
        rate, self._waited_s, self._bytes = self._bytes / self._waited_s, 0.0, 0
        if rate < self._least.bytes_per_s:
            raise TooSlow(f"{rate:.0f} bytes/s, less than {self._least.bytes_per_s:.0f}")


class PacedResponse(http.client.HTTPResponse):
    """A response whose body is read as it arrives, straight into the caller's buffer.

    The standard ``readinto`` returns when the buffer is full: it hides a server that sends a byte now and then.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None

    def readinto1(self, buffer: memoryview) -> int:  # type: ignore[override]
        """At least one byte, or 0 at the end."""
        if self.fp is None:
            return 0
        if self.chunked or self.length is None:
            piece = self.read1(len(buffer))
            buffer[: len(piece)] = piece
            return len(piece)
        count: int = self.fp.readinto1(buffer[: self.length])
        if self._tls is not None and 0 < count < self.length:
            count += self._read_records(buffer[count : self.length], self._tls)
        self.length -= count
        if not count or not self.length:
            self._close_conn()  # type: ignore[attr-defined]
        return count

    def _read_records(self, buffer: memoryview, tls: ssl.SSLSocket) -> int:
        """Bytes of further records that are here already: one ``recv`` gives one, which has at most 16 KiB."""
        count, timeout_s = 0, tls.gettimeout()
        tls.settimeout(0.0)
        try:
            while count < len(buffer) and (received := self.fp.readinto1(buffer[count:])):
                count += received
        except ssl.SSLWantReadError:
            pass
        finally:
            tls.settimeout(timeout_s)
        return count


@contextmanager
def within(seconds: float, connection: http.client.HTTPConnection) -> Iterator[None]:
    """Cut the connection if the block takes longer, and raise TooSlow.

    A timeout of the socket does not suffice: it begins again with each received byte.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        cut(connection.sock)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException) as exc:
        if late.is_set():
            raise TooSlow(f"no complete answer in {seconds:g} s") from exc
        raise
    finally:
        timer.cancel()
    if late.is_set():  # a head that breaks off looks complete
        raise TooSlow(f"no complete answer in {seconds:g} s")


def cut(sock: socket.socket | None) -> None:
    """End what another thread reads from the socket; that thread gets an error, and closes it.

    SSLSocket.shutdown would forget the encryption first, and the other thread go on in plain text.
    """
    if sock is not None:
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
