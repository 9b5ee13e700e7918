"""Connections of the standard library to an endpoint: TLS, proxy and authorization headers."""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import tempfile
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.errors import SpecInvalid


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
    server = urlsplit(endpoint.server)
    host = server.hostname or ""
    port = server.port or (443 if server.scheme == "https" else 80)
    proxy = proxy_of(endpoint, host)
    reached = (proxy.hostname or "", proxy.port or 80) if proxy is not None else (host, port)
    connection: http.client.HTTPConnection
    if server.scheme == "https":
        connection = _Secure(reached, ssl_context(endpoint), endpoint.server_name or host, timeout_s)
    else:
        connection = http.client.HTTPConnection(*reached, timeout=timeout_s)
    if proxy is not None:
        headers = {}
        if proxy.username:
            pair = f"{proxy.username}:{proxy.password or ''}"
            headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        connection.set_tunnel(host, port, headers)
    return connection


def proxy_of(endpoint: Endpoint, host: str) -> SplitResult | None:
    """The proxy for ``host``, or None. Raises SpecInvalid for a proxy that is not an HTTP proxy."""
    url = endpoint.proxy
    if url is None and any(name.lower().endswith("_proxy") for name in os.environ):
        from urllib.request import getproxies, proxy_bypass

        if not proxy_bypass(host):
            url = getproxies().get(urlsplit(endpoint.server).scheme)
    if url is None:
        return None
    proxy = urlsplit(url if "//" in url else f"http://{url}")
    if proxy.scheme != "http":
        raise SpecInvalid(f"proxy {proxy.scheme}://{proxy.hostname}: only HTTP proxies are supported")
    return proxy


class _Secure(http.client.HTTPConnection):
    """TLS connection that expects ``server_name`` in the certificate instead of the name in the address."""

    default_port = 443

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, server_name: str, timeout_s: float) -> None:
        super().__init__(*address, timeout=timeout_s)
        self._tls, self._server_name = context, server_name

    def connect(self) -> None:
        """Opens the connection, through the proxy if a tunnel is set."""
        super().connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server_name)
