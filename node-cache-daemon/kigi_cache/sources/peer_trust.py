"""Which peers are not asked for a while, because of what they did; in memory only. Thread-safe."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from threading import Lock

from kigi.domain.layers import Digest
from kigi_cache.clock import REAL_TIME, Clock

logger = logging.getLogger(__name__)
MAX_REMEMBERED = 4096
"""Layers whose peers are remembered until they are complete; a layer that is given up is forgotten after so many."""


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """How long a peer is not asked, in seconds."""

    wrong_s: float = 600.0
    """After wrong bytes that came from it alone."""
    suspect_s: float = 60.0
    """After wrong bytes that came from one of several peers."""
    slow_s: float = 30.0
    """After it was silent or too slow; doubled with each further time."""
    max_slow_s: float = 600.0


DEFAULT_TRUST = TrustPolicy()


class PeerTrust:
    """Records what peers gave, and for how long each is left out."""

    def __init__(self, policy: TrustPolicy = DEFAULT_TRUST, clock: Clock = REAL_TIME) -> None:
        self._policy = policy
        self._clock = clock
        self._lock = Lock()
        self._used: dict[Digest, set[str]] = {}
        """Peers that gave bytes of a layer that is not complete."""
        self._wrong: dict[Digest, None] = {}
        """Layers whose last attempt had wrong bytes."""
        self._until_s: dict[str, float] = {}
        self._strikes: dict[str, int] = {}
        """Times in a row that a peer was slow."""

    def trusted(self, members: Collection[str], digest: Digest) -> set[str]:
        """The members that may be asked for this layer; none after an attempt with wrong bytes.

        So a lie costs a layer one more transfer, however many peers lie.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._until_s = {peer: end_s for peer, end_s in self._until_s.items() if end_s > now_s}
            self._strikes = {peer: count for peer, count in self._strikes.items() if peer in members}
            return set() if digest in self._wrong else set(members) - self._until_s.keys()

    def used(self, digest: Digest, peer: str) -> None:
        """The peer begins to give bytes of this layer."""
        with self._lock:
            self._used.setdefault(digest, set()).add(peer)
            while len(self._used) > MAX_REMEMBERED:
                del self._used[next(iter(self._used))]

    def slow(self, peer: str, digest: Digest, cause: str) -> None:
        """The peer was silent, too slow, or answered nonsense."""
        with self._lock:
            strikes = self._strikes[peer] = self._strikes.get(peer, 0) + 1
            seconds = min(self._policy.max_slow_s, self._policy.slow_s * 2.0 ** min(strikes - 1, 16))
            self._leave(peer, seconds)
        logger.info("peer is slow", extra={"peer": peer, "digest": digest, "cause": cause, "seconds": seconds})

    def wrong(self, digest: Digest) -> None:
        """The bytes that were read of this layer do not have its digest."""
        with self._lock:
            peers = self._used.pop(digest, set())
            if peers:
                self._wrong[digest] = None
                while len(self._wrong) > MAX_REMEMBERED:
                    del self._wrong[next(iter(self._wrong))]
            for peer in peers:
                self._leave(peer, self._policy.wrong_s if len(peers) == 1 else self._policy.suspect_s)
                logger.warning("peer gave wrong bytes", extra={"peer": peer, "digest": digest, "peers": len(peers)})

    def right(self, digest: Digest) -> None:
        """The layer is complete, or not needed any more."""
        with self._lock:
            self._wrong.pop(digest, None)
            for peer in self._used.pop(digest, ()):
                self._strikes.pop(peer, None)

    def _leave(self, peer: str, seconds: float) -> None:
        self._until_s[peer] = max(self._until_s.get(peer, 0.0), self._clock.monotonic_s() + seconds)
