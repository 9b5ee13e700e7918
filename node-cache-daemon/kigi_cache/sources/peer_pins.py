"""Which certificates the daemons of other nodes have published, read from the API server when a peer is first asked.

Watching the Leases would send every heartbeat of every node to every node. A fingerprint changes once a day and when a
daemon restarts, and then the peer that has the old one notices at its next connection.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from kigi.errors import KigiError
from kigi_cache.clock import REAL_TIME, Clock

logger = logging.getLogger(__name__)

KNOWN_FOR_S = 3600.0
"""Fingerprints are read again after this time, so that one that its node has replaced is not accepted for long."""
AGAIN_S = 10.0
"""Shortest time between two readings of one node's, however often its peer shows another certificate."""
READS_PER_S = 10
"""Most readings in a second, of all nodes."""
READ_WAIT_S = 2.0
"""Longest wait for a reading and its turn. After one that failed, there is none for AGAIN_S."""
MAX_REMEMBERED = 4096
NONE: frozenset[str] = frozenset()
_UNREAD = (NONE, float("-inf"))


class Pins(Protocol):
    """Fingerprints of peers' certificates. Thread-safe; may block."""

    def of(self, peer: str) -> frozenset[str]:
        """What the node of that peer (host:port) has published; empty: nothing that is known now."""

    def again(self, peer: str) -> frozenset[str]:
        """The same after the peer has shown another certificate: its node may have published that one since."""


class PinsApi(Protocol):
    """What is requested of the API server."""

    async def peer_certificates(self, node: str) -> frozenset[str]:
        """Fingerprints of the certificates that a node has published."""


class PublishedPins:
    """The fingerprints in the Leases of the nodes, remembered. Made in the event loop that serves ``api``."""

    def __init__(self, api: PinsApi, node_of: Callable[[str], str | None], clock: Clock = REAL_TIME) -> None:
        """``node_of``: the node of a peer; None: it is no member."""
        self._api = api
        self._node_of = node_of
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._known: dict[str, tuple[frozenset[str], float]] = {}
        """Fingerprints of each node, and when they were read."""
        self._reading: dict[str, asyncio.Task[frozenset[str]]] = {}
        self._reads: deque[float] = deque([float("-inf")] * READS_PER_S, READS_PER_S)
        """Times of the last readings, and of those that wait for their turn."""
        self._silent_until_s = float("-inf")

    def of(self, peer: str) -> frozenset[str]:
        """See Pins. Blocks for 2 * READ_WAIT_S at most; not for the event loop's own thread."""
        return self._wait(peer, is_refused=False)

    def again(self, peer: str) -> frozenset[str]:
        """See Pins."""
        return self._wait(peer, is_refused=True)

    async def read(self, peer: str, *, is_refused: bool = False) -> frozenset[str]:
        """What the peer's node has published. ``is_refused``: the peer has shown another certificate."""
        node = self._node_of(peer)
        if node is None:
            return NONE
        remembered = self._remembered(node, is_refused)
        if remembered is not None:
            return remembered
        now_s, pins = self._clock.monotonic_s(), self._known.get(node, _UNREAD)[0]
        reading = self._reading.get(node)
        if reading is None:
            turn_s = max(now_s, self._reads[0] + 1.0)
            if now_s < self._silent_until_s or turn_s > now_s + READ_WAIT_S:
                return pins
            self._reads.append(turn_s)
            reading = self._reading[node] = asyncio.create_task(self._read(node, pins, turn_s - now_s))
        return await asyncio.shield(reading)

    def _remembered(self, node: str, is_refused: bool) -> frozenset[str] | None:
        """What needs no reading now; None: it does."""
        pins, read_at_s = self._known.get(node, _UNREAD)
        age_s = self._clock.monotonic_s() - read_at_s
        return pins if age_s < (KNOWN_FOR_S if pins and not is_refused else AGAIN_S) else None

    async def _read(self, node: str, before: frozenset[str], wait_s: float) -> frozenset[str]:
        try:
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            async with asyncio.timeout(READ_WAIT_S):
                pins = await self._api.peer_certificates(node)
        except (KigiError, TimeoutError) as exc:
            logger.warning("certificates of a peer not read", extra={"node": node, "cause": str(exc)})
            self._silent_until_s = self._clock.monotonic_s() + AGAIN_S
            return before
        finally:
            del self._reading[node]
        self._known.pop(node, None)
        self._known[node] = (pins, self._clock.monotonic_s())
        while len(self._known) > MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        return pins

    def _wait(self, peer: str, *, is_refused: bool) -> frozenset[str]:
        node = self._node_of(peer)
        remembered = self._remembered(node, is_refused) if node is not None else NONE
        if remembered is not None:
            return remembered
        future = asyncio.run_coroutine_threadsafe(self.read(peer, is_refused=is_refused), self._loop)
        try:
            return future.result(2 * READ_WAIT_S)
        except (TimeoutError, concurrent.futures.CancelledError):
            future.cancel()
            return NONE
