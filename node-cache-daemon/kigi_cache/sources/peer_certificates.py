"""The certificate with which a daemon shows its peers that it is the daemon of its node.

Key and certificate are in memory only, and of this process. The node's Lease publishes the certificate's fingerprint,
so that no authority signs anything, no clock decides, and a restarted daemon needs nothing of the one before.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kigi_cache.clock import REAL_TIME, Clock

RENEW_S = 24 * 3600.0
"""Lifetime of a key."""
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kigi-node-cache")])


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that is in use or will be."""

    fingerprint: str
    """SHA-256 of the certificate, in 64 hexadecimal digits."""
    context: ssl.SSLContext
    """For connections of peers."""


class PeerCertificates:
    """This daemon's certificate, and the next one while it is being published. Belongs to one event loop."""

    def __init__(self, clock: Clock = REAL_TIME) -> None:
        self._clock = clock
        self._current: Certificate | None = None
        self._next: Certificate | None = None
        self._is_published = asyncio.Event()
        self._made_at_s = 0.0
        self.is_made = asyncio.Event()
        """Set when there is a certificate."""
        self.is_known = asyncio.Event()
        """Set when the Lease has published a certificate of this process: before, each peer would refuse it, and ask
        this daemon for nothing for some time."""

    async def run(self) -> None:
        """Make a certificate, and another one each time that it is RENEW_S old, until cancelled.

        The next one is used after ``published`` was called with it. Raises OSError if none can be made now.
        """
        while True:
            if self._current is None:
                self._current, self._made_at_s = make_certificate(self._clock.wall_s()), self._clock.monotonic_s()
                self.is_made.set()
            await self._clock.sleep(max(0.0, self._made_at_s + RENEW_S - self._clock.monotonic_s()))
            if self._next is None:
                self._is_published.clear()
                self._next = make_certificate(self._clock.wall_s())
            await self._is_published.wait()
            self._current, self._next, self._made_at_s = self._next, None, self._clock.monotonic_s()

    def fingerprints(self) -> tuple[str, ...]:
        """What the Lease must publish: one fingerprint, or two while one certificate replaces the other."""
        return tuple(each.fingerprint for each in (self._current, self._next) if each is not None)

    def published(self, fingerprints: Collection[str]) -> None:
        """The Lease now has these."""
        if self._current is not None and self._current.fingerprint in fingerprints:
            self.is_known.set()
        if self._next is not None and self._next.fingerprint in fingerprints:
            self._is_published.set()

    def context(self) -> ssl.SSLContext:
        """For a new connection; only after ``is_made`` or ``is_known``."""
        assert self._current is not None
        return self._current.context


def make_certificate(now_s: float) -> Certificate:
    """A new key and its certificate, for TLS 1.3 only. ``now_s``: seconds since the epoch. 1 ms. Raises OSError.

    The dates in it are for people: peers compare fingerprints, as clocks of nodes may be wrong by hours.
    """
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.fromtimestamp(now_s, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # every connection has a handshake of its own
    _load(context, certificate.public_bytes(encoding) + private)
    return Certificate(hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest(), context)


def _load(context: ssl.SSLContext, text: bytes) -> None:
    """The ssl module reads keys from files only; this one is in memory."""
    descriptor = os.memfd_create("peer-certificate")
    try:
        os.write(descriptor, text)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
