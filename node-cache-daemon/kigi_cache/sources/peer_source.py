"""Bytes of layers from other nodes, and from the repository when none of them helps."""

from __future__ import annotations

import http.client
import logging
import time
from collections.abc import Callable, Collection, Iterator
from threading import Lock

from kigi.domain.layers import Digest, Layer, digest_hex
from kigi_cache import metrics
from kigi_cache.sources.peer_ranking import sources
from kigi_cache.sources.s3 import PIECE_BYTES, Source

logger = logging.getLogger(__name__)

CONNECT_S = 2.0
SILENCE_S = 5.0
"""After which another source is asked for the rest."""
LATER_S = 0.25
"""A node that does not know of the layer yet may learn of it in a moment: all begin when the operator says so."""
PATIENCE_S = 0.6
"""For all of them together: where nobody else wants the layer, it is lost."""
DISTRUST_S = 600.0
"""A node whose bytes came out wrong is not asked for so long."""

REMEMBERED = 4096
"""Layers whose peers are remembered until they are complete; of one that is given up, for as long as others follow."""


class PeerGone(Exception):
    """This peer does not help (any more); the next source goes on from the same byte."""

    def __init__(self, cause: str, *, later: bool = False) -> None:
        super().__init__(cause)
        self.later = later


class PeerSource:
    """Reads from peers first. Thread-safe; every method may block.

    ``members`` gives the addresses (host:port) of the daemons that serve layers now, ``token`` what shows them that
    this is one of them.
    """

    def __init__(
        self,
        repository: Source,
        me: str,
        members: Callable[[], Collection[str]],
        token: Callable[[], str],
    ) -> None:
        self._repository = repository
        self._me = me
        self._members = members
        self._token = token
        self._lock = Lock()
        self._used: dict[Digest, set[str]] = {}
        self._distrusted: dict[str, float] = {}

    def read(self, layer: Layer, start: int) -> Iterator[memoryview]:
        """See Source. What a peer gives is checked like all else: by the digest of the whole."""
        position = start
        end = time.monotonic() + PATIENCE_S
        for peer, unfinished in sources(layer.digest, self._trusted(), self._me):
            while position < layer.size_bytes:
                try:
                    for piece in self._from(peer, layer, position, unfinished):
                        position += len(piece)
                        metrics.PEER_BYTES.labels("received").inc(len(piece))
                        yield piece
                except PeerGone as gone:
                    if gone.later and unfinished and time.monotonic() < end:
                        time.sleep(LATER_S)
                        continue
                    logger.debug("peer left", extra={"peer": peer, "digest": layer.digest, "cause": str(gone)})
                    break
            if position >= layer.size_bytes:
                return
        yield from self._repository.read(layer, position)

    def distrust(self, digest: Digest) -> None:
        """The bytes of this layer were not right: the peers that gave some are left alone for a while."""
        with self._lock:
            for peer in self._used.pop(digest, ()):
                self._distrusted[peer] = time.monotonic() + DISTRUST_S
                logger.warning("peer gave wrong bytes", extra={"peer": peer, "digest": digest})

    def done(self, digest: Digest) -> None:
        """The layer is complete and right."""
        with self._lock:
            self._used.pop(digest, None)

    def _trusted(self) -> set[str]:
        now = time.monotonic()
        with self._lock:
            self._distrusted = {peer: until for peer, until in self._distrusted.items() if until > now}
            return set(self._members()) - self._distrusted.keys()

    def _from(self, peer: str, layer: Layer, start: int, unfinished: bool) -> Iterator[memoryview]:
        """Bytes of one peer from ``start`` on, as far as it gives them; PeerGone if that is not to the end."""
        host, _, port = peer.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=CONNECT_S)
        try:
            connection.connect()
            connection.sock.settimeout(SILENCE_S)
            path = f"/layers/sha256/{digest_hex(layer.digest)}?start={start}" + ("&unfinished=1" if unfinished else "")
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token()}"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise PeerGone(f"HTTP {answer.status}", later=answer.status == 404)
            with self._lock:
                self._used.setdefault(layer.digest, set()).add(peer)
                while len(self._used) > REMEMBERED:
                    del self._used[next(iter(self._used))]
            buffer = memoryview(bytearray(PIECE_BYTES))
            while count := answer.readinto(buffer):
                start += count
                if start > layer.size_bytes:
                    raise PeerGone("more bytes than the layer has")
                yield buffer[:count]
            if start < layer.size_bytes:
                raise PeerGone("it broke off")
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise PeerGone(f"{type(exc).__name__}: {exc}") from exc
        finally:
            connection.close()
