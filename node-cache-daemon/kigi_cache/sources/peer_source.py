"""Layers from other nodes, and from the repository if no node gives them."""

from __future__ import annotations

import http.client
import logging
import ssl
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from kigi.domain.layers import Digest, Layer, digest_hex
from kigi_cache import metrics
from kigi_cache.clock import REAL_TIME, Clock
from kigi_cache.sources.pace import LeastPace, Pace, PacedResponse, within
from kigi_cache.sources.peer_pins import Pins
from kigi_cache.sources.peer_ranking import sources
from kigi_cache.sources.peer_tls import NotThePeer, PeerConnection
from kigi_cache.sources.peer_trust import PeerTrust
from kigi_cache.sources.rival import DEFAULT_RACE, RacePolicy, Rival
from kigi_cache.sources.source import Source, never

logger = logging.getLogger(__name__)
PIECE_BYTES = 2**19


@dataclass(frozen=True, slots=True)
class PeerTimeouts:
    """How long a node waits for its peers, in seconds."""

    connect_s: float = 2.0
    silence_s: float = 5.0
    """Another source is asked for the rest after a silence of this length, and if the head takes longer."""
    retry_s: float = 0.25
    """A peer that does not know the layer yet may learn of it soon: the operator writes all NodeCaches one by one."""
    unknown_s: float = 0.6
    """Longest time for such retries, over all peers of one read: it is lost if no peer wants the layer."""


DEFAULT_TIMEOUTS = PeerTimeouts()
LEAST_PACE = LeastPace(bytes_per_s=64 * 2**10, window_s=3.0)
"""Of a peer; a peer that itself waits for a slow repository sends more, or gives up after a few seconds."""


class PeerGone(Exception):
    """A peer does not give the layer, or not the rest of it; the next source continues from the same byte."""

    def __init__(self, cause: str, *, is_unknown: bool = False, is_slow: bool = False) -> None:
        super().__init__(cause)
        self.is_unknown = is_unknown
        """The peer answered that it does not know the layer."""
        self.is_slow = is_slow
        """The peer cost time, or answered nonsense: it is not asked for a while."""


class PeerSource:
    """A ``Source`` that reads from peers first."""

    def __init__(
        self,
        repository: Source,
        me: str,
        members: Callable[[], Collection[str]],
        token: Callable[[], str],
        pins: Pins,
        *,
        timeouts: PeerTimeouts = DEFAULT_TIMEOUTS,
        least_pace: LeastPace = LEAST_PACE,
        race: RacePolicy = DEFAULT_RACE,
        clock: Clock = REAL_TIME,
    ) -> None:
        """``members`` gives the addresses (host:port) of the other daemons now, ``me`` is this one's own.

        ``token`` gives this daemon's bearer token, which is sent only to a peer that shows one of ``pins``.
        """
        self._repository = repository
        self._me = me
        self._members = members
        self._token = token
        self._pins = pins
        self._timeouts = timeouts
        self._least_pace = least_pace
        self._race = race
        self._clock = clock
        self.trust = PeerTrust(clock=clock)

    def read(self, layer: Layer, start: int, is_urgent: Callable[[], bool] = never) -> Iterator[memoryview]:
        """See Source. The bytes of peers are checked as all others are: by the digest of the whole layer."""
        peers = sources(layer.digest, self.trust.trusted(self._members(), layer.digest), self._me)
        if not peers:
            yield from self._repository.read(layer, start, is_urgent)
            return
        rival = Rival(
            lambda position: self._repository.read(layer, position),
            layer.size_bytes,
            is_urgent,
            self._race,
            self._clock,
        )
        rival.start(start)
        try:
            for piece in self._read_peers(peers, layer, rival):
                rival.position += len(piece)
                metrics.PEER_BYTES.labels("received").inc(len(piece))
                yield piece
            if rival.has_won:
                yield from rival.take_over()
        finally:
            rival.stop()
        if rival.position < layer.size_bytes and not rival.has_won:
            yield from self._repository.read(layer, rival.position, is_urgent)

    def distrust(self, digest: Digest) -> None:
        """See Source. The peers that gave bytes of this layer are not asked for a while."""
        self.trust.wrong(digest)

    def done(self, digest: Digest) -> None:
        """See Source."""
        self.trust.right(digest)

    def _read_peers(self, peers: Collection[tuple[str, bool]], layer: Layer, rival: Rival) -> Iterator[memoryview]:
        """What the peers give, from ``rival.position`` on; ends when none gives more, or the rival has won."""
        deadline_s = self._clock.monotonic_s() + self._timeouts.unknown_s
        for peer, unfinished in peers:
            while rival.position < layer.size_bytes and not rival.has_won:
                try:
                    yield from self._read_peer(peer, layer, unfinished, rival)
                except PeerGone as gone:
                    if gone.is_unknown and unfinished and self._clock.monotonic_s() < deadline_s:
                        self._clock.block(self._timeouts.retry_s)
                        continue
                    if gone.is_slow or rival.has_won:
                        self.trust.slow(peer, layer.digest, "outrun" if rival.has_won else str(gone))
                    cause = {"peer": peer, "digest": layer.digest, "cause": str(gone)}
                    logger.debug("peer does not give the layer", extra=cause)
                    break

    def _read_peer(self, peer: str, layer: Layer, unfinished: bool, rival: Rival) -> Iterator[memoryview]:
        """Bytes of one peer from ``rival.position`` on. Raises PeerGone unless it gives all of them."""
        connection = PeerConnection(peer, self._timeouts.connect_s, self._timeouts.silence_s)
        start, pace = rival.position, Pace(self._least_pace, self._clock)
        try:
            with rival.waiting():
                response = self._request(connection, layer, start, unfinished, rival)
            self.trust.used(layer.digest, peer)
            buffer = memoryview(bytearray(PIECE_BYTES))
            while True:
                with rival.waiting():
                    count = pace.receive(response, buffer)
                if not count:
                    break
                start += count
                yield buffer[:count]
            if start < layer.size_bytes:
                raise PeerGone("the transfer broke off")
        except NotThePeer as exc:
            raise PeerGone(str(exc), is_slow=exc.is_stranger) from exc
        except TimeoutError as exc:
            raise PeerGone(f"silent: {exc}", is_slow=True) from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            is_slow = not isinstance(exc, ConnectionError | ssl.SSLEOFError | http.client.IncompleteRead)
            raise PeerGone(f"{type(exc).__name__}: {exc}", is_slow=is_slow) from exc
        finally:
            rival.uses(None)
            connection.close()

    def _request(
        self, connection: PeerConnection, layer: Layer, start: int, unfinished: bool, rival: Rival
    ) -> PacedResponse:
        """The response with exactly the missing bytes. Raises PeerGone for any other."""
        connection.verify(self._pins, rival.uses)
        path = f"/layers/sha256/{digest_hex(layer.digest)}?start={start}" + ("&unfinished=1" if unfinished else "")
        with within(self._timeouts.silence_s, connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token()}"})
            response = connection.getresponse()
        assert isinstance(response, PacedResponse)
        if response.status != 200:
            raise PeerGone(f"HTTP {response.status}", is_unknown=response.status == 404)
        if response.chunked or response.length != layer.size_bytes - start:
            raise PeerGone(f"{response.length} bytes instead of {layer.size_bytes - start}", is_slow=True)
        return response
