"""Connections of the standard library to an endpoint: TLS, proxy and authorization headers."""

from __future__ import annotations

import base64
import functools
import http.client
import os
import socket
import ssl
import tempfile
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.adapters.kubernetes.proxies import SOCKS, proxy_of, shown
from kigi.adapters.tls import lenient
from kigi.errors import SpecInvalid

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection


def identity_headers(endpoint: Endpoint) -> list[tuple[str, str]]:
    """Authorization and Impersonate-* headers of an endpoint."""
    headers = list(endpoint.impersonated)
    if endpoint.token:
        headers.append(("Authorization", f"Bearer {endpoint.token}"))
    elif endpoint.password:
        pair = base64.b64encode(":".join(endpoint.password).encode()).decode()
        headers.append(("Authorization", f"Basic {pair}"))
    return headers


def ssl_context(endpoint: Endpoint) -> ssl.SSLContext:
    """TLS settings of an endpoint: its CA and client certificate. Raises SpecInvalid for damaged PEM."""
    try:
        context = ssl.create_default_context(cadata=endpoint.ca.decode() if endpoint.ca else None)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as exc:
        raise SpecInvalid("kubeconfig: certificate-authority is no PEM certificate; write it anew") from exc
    lenient(context)
    lenient(context)
    if endpoint.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if endpoint.certificate is not None:
        # OpenSSL reads certificate and key from files only.
        handle, path = tempfile.mkstemp(prefix="kigi-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(b"\n".join(endpoint.certificate))
            context.load_cert_chain(path)
        except ssl.SSLError as exc:
            raise SpecInvalid("kubeconfig: client-certificate and client-key are no pair of PEM; log in again") from exc
        finally:
            with suppress(OSError):
                os.unlink(path)
    return context


def connect(endpoint: Endpoint, timeout_s: float) -> http.client.HTTPConnection:
    """A connection through the proxy of the kubeconfig or environment. The first request opens it."""
    context = ssl_context(endpoint) if endpoint.server.startswith("https://") else None
    return _Connection(endpoint, proxy_of(endpoint.server, endpoint.proxy, os.environ), context, timeout_s)


def open_socket(
    endpoint: Endpoint, proxy: SplitResult | None, context: ssl.SSLContext | None, timeout_s: float
) -> socket.socket:
    """A connected socket, through ``proxy``, with TLS if there is a ``context``. Raises OSError."""
    host, port = address_of(endpoint)
    if proxy is None:
        opened = socket.create_connection((host, port), timeout_s)
    elif proxy.scheme in SOCKS:
        opened = _through_socks(proxy, host, port, timeout_s)
    else:
        opened = _through_http(proxy, host, port, timeout_s)
    with suppress(OSError):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return opened
    with ExitStack() as stack:
        stack.callback(opened.close)
        secured = context.wrap_socket(opened, server_hostname=endpoint.server_name or host)
        stack.pop_all()
        return secured


def open_stream(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    """As ``open_socket``, through the proxy of the kubeconfig or environment."""
    context = ssl_context(endpoint) if endpoint.server.startswith("https://") else None
    return open_socket(endpoint, proxy_of(endpoint.server, endpoint.proxy, os.environ), context, timeout_s)


def open_websocket(endpoint: Endpoint, path: str, protocol: str, timeout_s: float, **options: Any) -> ClientConnection:
    """A WebSocket of a subresource. ``timeout_s``: to connect; ``options``: of ``websockets.sync.client.connect``.

    Raises OSError and the library's exceptions.
    """
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    # TLS and proxy are those of the given socket, so that the library must add none.
    stream: ClientConnection = connect(
        f"ws://{endpoint.server.partition('://')[2]}{path}",
        sock=open_stream(endpoint, timeout_s),
        proxy=None,
        subprotocols=[Subprotocol(protocol)],
        additional_headers=identity_headers(endpoint),
        **options,
    )
    return stream


def address_of(endpoint: Endpoint) -> tuple[str, int]:
    """Host and port of the API server."""
    server = urlsplit(endpoint.server)
    return server.hostname or "", server.port or (443 if server.scheme == "https" else 80)


def _through_http(proxy: SplitResult, host: str, port: int, timeout_s: float) -> socket.socket:
    headers = {}
    if proxy.username:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    tunnel = http.client.HTTPConnection(proxy.hostname or "", proxy.port or 80, timeout=timeout_s)
    tunnel.set_tunnel(host, port, headers)
    try:
        tunnel.connect()
    except OSError as exc:
        tunnel.close()
        raise OSError(f"proxy {shown(proxy)}: {exc.strerror or exc}") from exc
    opened: socket.socket = tunnel.sock
    return opened


def _through_socks(proxy: SplitResult, host: str, port: int, timeout_s: float) -> socket.socket:
    from python_socks import ProxyError, ProxyType
    from python_socks.sync import Proxy

    user, password = proxy.username, proxy.password
    through = Proxy(
        ProxyType.SOCKS5,
        proxy.hostname or "",
        proxy.port or 1080,
        unquote(user) if user else None,
        unquote(password) if password else None,
        rdns=True,
    )
    try:
        opened: socket.socket = through.connect(host, port, timeout=timeout_s)
    except (ProxyError, OSError) as exc:  # of the library, and of the network
        raise OSError(f"proxy {shown(proxy)}: {exc}") from exc
    opened.settimeout(timeout_s)
    return opened


class _Connection(http.client.HTTPConnection):
    """HTTP over ``open_socket``."""

    def __init__(
        self, endpoint: Endpoint, proxy: SplitResult | None, context: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        super().__init__(*address_of(endpoint), timeout=timeout_s)
        self.default_port = 443 if context is not None else 80
        self._open = functools.partial(open_socket, endpoint, proxy, context, timeout_s)

    def connect(self) -> None:
        """Opens the connection."""
        self.sock = self._open()
