"""Peers with encrypted connections: what their nodes have published, and a certificate for tests that share one."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Iterable

from kigi_cache.sources.peer_certificates import Certificate, make_certificate
from kigi_cache.sources.peer_connections import PeerConnections

LISTENING_S = 60.0


@functools.cache
def certificate() -> Certificate:
    """The certificate of all peers of this process."""
    return make_certificate(1_700_000_000.0)


async def until_listening(connections: PeerConnections, serving: asyncio.Task[None]) -> None:
    """Return once ``serving`` accepts connections. Raises what ended it, or TimeoutError."""
    waiting = asyncio.create_task(connections.listening.wait())
    await asyncio.wait([waiting, serving], timeout=LISTENING_S, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    if not waiting.done():
        waiting.cancel()
        raise TimeoutError(f"not listening after {LISTENING_S} s")


def client_context(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """For a client that takes any certificate, and speaks this version alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


class Published:
    """Every node has published these fingerprints."""

    def __init__(self, fingerprints: Iterable[str]) -> None:
        self.fingerprints = frozenset(fingerprints)
        self.read_again = 0

    def of(self, peer: str) -> frozenset[str]:
        return self.fingerprints

    def again(self, peer: str) -> frozenset[str]:
        self.read_again += 1
        return self.fingerprints


def shared_pins() -> Published:
    """Every peer shows the certificate of this process."""
    return Published({certificate().fingerprint})
