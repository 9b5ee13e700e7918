"""Changes of a kind as the API server streams them.

A watch is the second half of a listing: it starts at the resourceVersion of the listing, and a caller lists again when
the watch ends or breaks. Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from kigi.adapters.bounded_json import loads
from kigi.adapters.kubernetes.api_errors import error_of, no_answer
from kigi.adapters.kubernetes.api_requests import Request
from kigi.adapters.kubernetes.connection import ApiConnection
from kigi.errors import Unreachable

MAX_LINE_BYTES = 64 * 2**20
"""Longest event. A NodeCache with the most layers that it may have is some megabytes."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change. ``BOOKMARK``: nothing changed up to the resourceVersion in ``object``, which has nothing else."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Mapping[str, Any]

    @property
    def resource_version(self) -> str:
        """Version from which a later watch misses nothing."""
        return str(self.object["metadata"]["resourceVersion"])


class ByteStream(Protocol):
    """The part of aiohttp's StreamReader that a watch reads."""

    async def readany(self) -> bytes:
        """The bytes that have arrived, waiting for the first of them; empty at the end."""


async def watch(
    connection: ApiConnection, request: Request, *, duration_s: float, silence_s: float
) -> AsyncGenerator[WatchEvent, None]:
    """Events of a ``watch_request``, until the server ends the stream.

    Raises Expired if the resourceVersion is too old: list again. Raises Unreachable if the stream breaks, is damaged,
    has no byte for ``silence_s``, or takes longer than ``duration_s``. Raises other errors of ``api_errors`` as well.
    """
    async with (
        connection.stream(request, duration_s=duration_s, silence_s=silence_s) as content,
        aclosing(read_lines(content)) as lines,
    ):
        async for line in lines:
            yield parse_event(line, str(request))


def parse_event(line: bytes, what: str) -> WatchEvent:
    """The event of one line. Raises the error of an ERROR event, and Unreachable for a line that is no event."""
    try:
        event = loads(line)
        kind, body = event["type"], event["object"]
        if kind == "ERROR":
            raise error_of(int(body.get("code") or 500), body, what)
        found = WatchEvent(kind, body)
        _ = found.resource_version
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise no_answer(what, f"damaged event {line[:80]!r}") from exc
    return found


async def read_lines(content: ByteStream, *, max_bytes: int = MAX_LINE_BYTES) -> AsyncGenerator[bytes, None]:
    """Lines without empty ones; the rest after the last newline is dropped. Raises Unreachable for a longer line.

    aiohttp's own ``readline`` refuses lines longer than its buffer.
    """
    rest = bytearray()
    while chunk := await content.readany():
        searched = len(rest)
        rest += chunk
        while (end := rest.find(b"\n", searched)) >= 0:
            line = bytes(rest[:end])
            del rest[: end + 1]
            searched = 0
            if line.strip():
                yield line
        if len(rest) > max_bytes:
            raise Unreachable(f"the API server sent a line of more than {max_bytes} bytes")
