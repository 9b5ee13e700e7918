"""A TCP proxy on loopback that injects faults: it cuts, stalls, slows, refuses and garbles responses."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_PIECE = 65536


@dataclass
class Faults:
    """Faults of responses; may be changed at any time. Counts are per connection, in bytes."""

    refuse: bool = False
    """Close new connections immediately."""
    cut_after: int | None = None
    """Close a connection after so many bytes of responses."""
    cuts: int = 2**31
    """Number of connections that are cut."""
    stall_after: int | None = None
    """Send nothing more after so many bytes, and keep the connection open."""
    stalls: int = 2**31
    bytes_per_s: float | None = None
    flip_at: int | None = None
    """Flip a bit of this byte of a connection's responses."""
    flips: int = 2**31


@dataclass
class FaultyProxy:
    """A proxy for the server at ``upstream`` (URL); an async context manager."""

    upstream: str
    faults: Faults = field(default_factory=Faults)
    answered_bytes: int = 0
    """Bytes of responses sent to clients, including their headers."""
    connections: int = 0
    port: int = 0

    @property
    def endpoint(self) -> str:
        """URL for clients."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.down()

    async def up(self) -> None:
        """Listen at the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Stop listening and drop every connection."""
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            if not self.faults.refuse:
                await self._relay(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self.upstream)
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        forward = asyncio.create_task(_copy(reader, server_writer))
        answer = asyncio.create_task(self._answer(server_reader, writer))
        try:
            await asyncio.wait({forward, answer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (forward, answer):
                task.cancel()
            await asyncio.gather(forward, answer, return_exceptions=True)
            server_writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent, faults = 0, self.faults
        while data := await reader.read(_PIECE):
            if faults.flip_at is not None and faults.flips and sent <= faults.flip_at < sent + len(data):
                faults.flips -= 1
                place = faults.flip_at - sent
                data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            cut = faults.cut_after is not None and faults.cuts > 0 and sent + len(data) >= faults.cut_after
            stall = faults.stall_after is not None and faults.stalls > 0 and sent + len(data) >= faults.stall_after
            limit = faults.cut_after if cut else faults.stall_after if stall else None
            if limit is not None:
                data = data[: max(0, limit - sent)]
            writer.write(data)
            await writer.drain()
            sent += len(data)
            self.answered_bytes += len(data)
            if cut:
                faults.cuts -= 1
                with contextlib.suppress(OSError):
                    writer.write_eof()
                await asyncio.sleep(0.05)  # so that the sent bytes arrive before the reset
                return
            if stall:
                faults.stalls -= 1
                await asyncio.Event().wait()
            if faults.bytes_per_s is not None:
                await asyncio.sleep(len(data) / faults.bytes_per_s)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()
