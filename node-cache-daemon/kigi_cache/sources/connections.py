"""Kept HTTP connections; http.client receives straight into a buffer of the caller."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator, Mapping
from urllib.parse import SplitResult, urlsplit

from kigi.adapters.proxies import DEFAULT_PORT, proxy_for, proxy_headers
from kigi.adapters.tls import tls_context
from kigi_cache.clock import REAL_TIME, Clock
from kigi_cache.sources.pace import PacedResponse

MAX_IDLE_S = 10.0
"""A connection that was not used for this long is closed: a firewall or load balancer may have dropped it silently, and
a request on it would wait for the timeout."""


class ForwardingConnection(http.client.HTTPConnection):
    """A connection to a proxy that forwards requests: these have whole URLs, and ``proxy_headers``."""

    proxy_headers: Mapping[str, str] = {}


class Connections:
    """Connections to any number of servers, each used by one caller at a time. Thread-safe."""

    def __init__(
        self, timeout_s: float, clock: Clock = REAL_TIME, environment: Mapping[str, str] | None = None
    ) -> None:
        """``timeout_s``: a connection that is silent for so long fails with TimeoutError.

        ``environment``: HTTPS_PROXY and NO_PROXY are taken from it; None: every server is reached directly.
        """
        self._timeout_s = timeout_s
        self._environment = environment or {}
        self._clock = clock
        self._idle: dict[tuple[str, str, str | None], list[tuple[http.client.HTTPConnection, float]]] = {}
        """Connections that nothing uses, each with the time since when."""
        self._all: list[http.client.HTTPConnection] = []
        self._closed = False

    @contextlib.contextmanager
    def get(self, url: str, ca_file: str | None) -> Iterator[http.client.HTTPConnection]:
        """A connection to the server of ``url``.

        ``ca_file`` replaces the system's certificate authorities; each new connection reads it, so that a rotated one
        is used. The proxy that the environment names for the server is used. If the block does not run to its end, the
        connection is closed: the rest of a response may be pending.
        Raises ConnectionAbortedError after ``close``.
        """
        if self._closed:
            raise ConnectionAbortedError("the source was closed")
        parts = urlsplit(url)
        idle = self._idle.setdefault((parts.scheme, parts.netloc, ca_file), [])
        connection = self._take(idle)
        if connection is None:
            connection = self._connect(parts, ca_file)
            self._all.append(connection)
        is_complete = False
        try:
            yield connection
            is_complete = True
        finally:
            if is_complete and connection.sock is not None:  # None: closed by us, or because the server demanded it
                idle.append((connection, self._clock.monotonic_s()))
            else:
                self._drop(connection)

    def close(self) -> None:
        """Close all connections; transfers in progress end with an error."""
        self._closed = True
        for connection in list(self._all):
            connection.close()

    def _take(self, idle: list[tuple[http.client.HTTPConnection, float]]) -> http.client.HTTPConnection | None:
        """The connection that was used last, if it is not idle for too long; those that are get closed."""
        while True:
            try:
                connection, since_s = idle.pop()
            except IndexError:
                return None
            if self._clock.monotonic_s() - since_s <= MAX_IDLE_S:
                return connection
            self._drop(connection)

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        with contextlib.suppress(ValueError):
            self._all.remove(connection)

    def _connect(self, parts: SplitResult, ca_file: str | None) -> http.client.HTTPConnection:
        host, port = parts.hostname or "", parts.port
        proxy = proxy_for(parts.geturl(), self._environment)
        reached = (proxy.hostname or "", proxy.port or DEFAULT_PORT) if proxy is not None else (host, port)
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = tls_context(ca_file=ca_file)
            connection = http.client.HTTPSConnection(*reached, timeout=self._timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(*reached, timeout=self._timeout_s)
        if proxy is not None and parts.scheme == "https":
            connection.set_tunnel(host, port or 443, proxy_headers(proxy))
        elif proxy is not None:
            # Many proxies permit tunnels to port 443 alone, so that they get the whole URL of other requests.
            connection = ForwardingConnection(*reached, timeout=self._timeout_s)
            connection.proxy_headers = proxy_headers(proxy)
        connection.response_class = PacedResponse
        return connection
