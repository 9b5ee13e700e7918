"""Encrypted connections to peers. Nothing is sent before the peer has shown a certificate that its node published."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
from collections.abc import Callable

from kigi_cache.sources.pace import PacedResponse, within
from kigi_cache.sources.peer_pins import Pins


class NotThePeer(Exception):
    """The peer shows no certificate that its node has published."""

    def __init__(self, cause: str, *, is_stranger: bool = False) -> None:
        super().__init__(cause)
        self.is_stranger = is_stranger
        """It shows another one: a daemon that has just started, or a stranger."""


class PeerConnection(http.client.HTTPConnection):
    """A connection to one peer, in TLS 1.3, over which requests may be sent only after ``verify``."""

    response_class = PacedResponse

    def __init__(self, peer: str, connect_s: float, silence_s: float) -> None:
        """``peer``: host:port. ``silence_s``: of the peer during and after the handshake."""
        host, _, port = peer.rpartition(":")
        super().__init__(host.strip("[]"), int(port), timeout=connect_s)
        self._peer = peer
        self._silence_s = silence_s
        self.auto_open = 0  # a request without a verified connection must fail

    def verify(self, pins: Pins, began: Callable[[socket.socket], None]) -> None:
        """Connect, and compare the peer's certificate. ``began`` gets the socket as soon as it can be cut.

        Raises NotThePeer, OSError and TooSlow.
        """
        expected = pins.of(self._peer)
        if not expected:
            raise NotThePeer("its node has published no certificate")
        plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            plain.settimeout(self._silence_s)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            encrypted = _CONTEXT.wrap_socket(plain, do_handshake_on_connect=False)
        except (OSError, ValueError):
            plain.close()
            raise
        self.sock = encrypted
        began(encrypted)
        with within(self._silence_s, self):
            encrypted.do_handshake()
        shown = hashlib.sha256(encrypted.getpeercert(binary_form=True) or b"").hexdigest()
        if shown not in expected and shown not in pins.again(self._peer):
            raise NotThePeer("it shows a certificate that its node has not published", is_stranger=True)


def _client_context() -> ssl.SSLContext:
    """TLS 1.3, in which the peer proves that it has the key of the certificate that it shows.

    OpenSSL checks neither issuer nor name nor dates of that certificate: its fingerprint is compared instead.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_CONTEXT = _client_context()
