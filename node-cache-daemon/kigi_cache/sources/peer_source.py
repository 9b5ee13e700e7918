"""Layers from other nodes, and from the repository if no node gives them."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from threading import Lock

from kigi.domain.layers import Digest, Layer, digest_hex
from kigi_cache import metrics
from kigi_cache.clock import REAL_TIME, Clock
from kigi_cache.sources.peer_ranking import sources
from kigi_cache.sources.source import Source

logger = logging.getLogger(__name__)
PIECE_BYTES = 2**19
MAX_REMEMBERED = 4096
"""Layers whose peers are remembered until they are complete; a layer that is given up is forgotten after so many."""


@dataclass(frozen=True, slots=True)
class PeerTimeouts:
    """How long a node waits for its peers, in seconds."""

    connect_s: float = 2.0
    silence_s: float = 5.0
    """Another source is asked for the rest after a silence of this length."""
    retry_s: float = 0.25
    """A peer that does not know the layer yet may learn of it soon: the operator writes all NodeCaches one by one."""
    unknown_s: float = 0.6
    """Longest time for such retries, over all peers of one read: it is lost if no peer wants the layer."""
    distrust_s: float = 600.0
    """A peer is not asked for this time after it gave wrong bytes."""


DEFAULT_TIMEOUTS = PeerTimeouts()


class PeerGone(Exception):
    """A peer does not give the layer, or not the rest of it; the next source continues from the same byte."""

    def __init__(self, cause: str, *, is_unknown: bool = False) -> None:
        super().__init__(cause)
        self.is_unknown = is_unknown
        """The peer answered that it does not know the layer."""


class PeerSource:
    """A ``Source`` that reads from peers first."""

    def __init__(
        self,
        repository: Source,
        me: str,
        members: Callable[[], Collection[str]],
        token: Callable[[], str],
        *,
        timeouts: PeerTimeouts = DEFAULT_TIMEOUTS,
        clock: Clock = REAL_TIME,
    ) -> None:
        """``members`` gives the addresses (host:port) of the other daemons now, ``me`` is this one's own.

        ``token`` gives this daemon's bearer token.
        """
        self._repository = repository
        self._me = me
        self._members = members
        self._token = token
        self._timeouts = timeouts
        self._clock = clock
        self._lock = Lock()
        self._used: dict[Digest, set[str]] = {}
        """Peers that gave bytes of a layer that is not complete."""
        self._distrusted_until_s: dict[str, float] = {}

    def read(self, layer: Layer, start: int) -> Iterator[memoryview]:
        """See Source. The bytes of peers are checked as all others are: by the digest of the whole layer."""
        position = start
        deadline_s = self._clock.monotonic_s() + self._timeouts.unknown_s
        for peer, unfinished in sources(layer.digest, self._trusted(), self._me):
            while position < layer.size_bytes:
                try:
                    for piece in self._read_peer(peer, layer, position, unfinished):
                        position += len(piece)
                        metrics.PEER_BYTES.labels("received").inc(len(piece))
                        yield piece
                except PeerGone as gone:
                    if gone.is_unknown and unfinished and self._clock.monotonic_s() < deadline_s:
                        self._clock.block(self._timeouts.retry_s)
                        continue
                    cause = {"peer": peer, "digest": layer.digest, "cause": str(gone)}
                    logger.debug("peer does not give the layer", extra=cause)
                    break
            if position >= layer.size_bytes:
                return
        yield from self._repository.read(layer, position)

    def distrust(self, digest: Digest) -> None:
        """See Source. The peers that gave bytes of this layer are not asked for a while."""
        with self._lock:
            for peer in self._used.pop(digest, ()):
                self._distrusted_until_s[peer] = self._clock.monotonic_s() + self._timeouts.distrust_s
                logger.warning("peer gave wrong bytes", extra={"peer": peer, "digest": digest})

    def done(self, digest: Digest) -> None:
        """See Source."""
        with self._lock:
            self._used.pop(digest, None)

    def _trusted(self) -> set[str]:
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._distrusted_until_s = {p: end_s for p, end_s in self._distrusted_until_s.items() if end_s > now_s}
            return set(self._members()) - self._distrusted_until_s.keys()

    def _read_peer(self, peer: str, layer: Layer, start: int, unfinished: bool) -> Iterator[memoryview]:
        """Bytes of one peer from ``start`` on. Raises PeerGone unless it gives all of them."""
        host, _, port = peer.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=self._timeouts.connect_s)
        try:
            response = self._request(connection, layer, start, unfinished)
            with self._lock:
                self._used.setdefault(layer.digest, set()).add(peer)
                while len(self._used) > MAX_REMEMBERED:
                    del self._used[next(iter(self._used))]
            buffer = memoryview(bytearray(PIECE_BYTES))
            while count := response.readinto(buffer):
                start += count
                if start > layer.size_bytes:
                    raise PeerGone("more bytes than the layer has")
                yield buffer[:count]
            if start < layer.size_bytes:
                raise PeerGone("the transfer broke off")
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise PeerGone(f"{type(exc).__name__}: {exc}") from exc
        finally:
            connection.close()

    def _request(
        self, connection: http.client.HTTPConnection, layer: Layer, start: int, unfinished: bool
    ) -> http.client.HTTPResponse:
        connection.connect()
        connection.sock.settimeout(self._timeouts.silence_s)
        path = f"/layers/sha256/{digest_hex(layer.digest)}?start={start}" + ("&unfinished=1" if unfinished else "")
        connection.request("GET", path, headers={"Authorization": f"Bearer {self._token()}"})
        response = connection.getresponse()
        if response.status != 200:
            raise PeerGone(f"HTTP {response.status}", is_unknown=response.status == 404)
        return response
