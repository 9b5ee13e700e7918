"""An HTTP server before a real S3 server, which changes requests and answers as other servers and proxies do.

    with PickyProxy(s3.endpoint, rule) as proxy:
        ...  # proxy.endpoint

A rule gets each request. It returns an answer, or None: then the request, as the rule has changed it, goes to the S3
server. The header Host stays as it is, so that signatures are valid for the proxy's address.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """One request; ``headers`` with names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def scope(self) -> list[str]:
        """Key, date, region, service and ending of the signature's scope, of header or URL; empty if unsigned."""
        found = re.search(r"Credential=([^,]+)", self.headers.get("authorization", ""))
        text = found[1] if found else parse_qs(urlsplit(self.path).query).get("X-Amz-Credential", [""])[0]
        return text.split("/") if text else []

    @property
    def region(self) -> str:
        return self.scope[2] if len(self.scope) > 2 else ""

    @property
    def token(self) -> str | None:
        """The session token, of header or URL."""
        query = parse_qs(urlsplit(self.path).query)
        return self.headers.get("x-amz-security-token") or query.get("X-Amz-Security-Token", [None])[0]

    @property
    def key(self) -> str:
        """Without the bucket."""
        return urlsplit(self.path).path.split("/", 2)[-1]


@dataclass
class Reply:
    """An answer instead of the S3 server's."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def s3_error(status: int, code: str, inside: str = "", **headers: str) -> Reply:
    """An answer as S3 servers give it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message>{inside}</Error>"
    return Reply(status, text.encode(), {"Content-Type": "application/xml", **headers})


Rule = Callable[[Request], Reply | None]


class PickyProxy:
    """``asked`` has every request. With ``tls``, it serves https. It is also an HTTP proxy.

    For the proxy every name is this machine: Kigi reaches loopback addresses without one.
    """

    def __init__(self, upstream: str, rule: Rule = lambda request: None, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Request] = []
        self.tunnels: list[tuple[str, str | None]] = []
        """Host and port of each CONNECT, and its Proxy-Authorization."""
        self.forwarded: list[tuple[str, str | None]] = []
        """The same of each request with a whole URL."""
        self.tunnel_status = 200
        self.rule = rule
        outer, server = self, urlsplit(upstream)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def answer(self) -> None:
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                path = urlsplit(self.path)
                if path.netloc:  # a proxy gets the whole URL
                    outer.forwarded.append((path.netloc, headers.pop("proxy-authorization", None)))
                    self.path = path._replace(scheme="", netloc="").geturl()
                request = Request(self.command, self.path, headers, body)
                outer.asked.append(request)
                reply = outer.rule(request) or self._forward(request)
                self._send(reply, is_head=self.command == "HEAD")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

            def handle_expect_100(self) -> bool:
                return True  # ``answer`` does it

            def _forward(self, request: Request) -> Reply:
                connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=30)
                with contextlib.closing(connection):
                    connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in request.headers.items():
                        if name not in ("expect", "connection", "content-length"):
                            connection.putheader(name, value)
                    connection.putheader("content-length", str(len(request.body)))
                    connection.endheaders(request.body)
                    response = connection.getresponse()
                    data = response.read()
                    return Reply(response.status, data, dict(response.headers.items()))

            def _send(self, reply: Reply, *, is_head: bool) -> None:
                self.send_response_only(reply.status)
                names = {name.lower() for name in reply.headers}
                for name, value in reply.headers.items():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                if "content-length" not in names:
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if not is_head:
                    self.wfile.write(reply.body)

            def do_CONNECT(self) -> None:
                outer.tunnels.append((self.path, self.headers.get("Proxy-Authorization")))
                if outer.tunnel_status != 200:
                    self._send(Reply(outer.tunnel_status, b"<html>no</html>"), is_head=False)
                    return
                port = self.path.rpartition(":")[2]
                with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as far:
                    self.send_response_only(200)
                    self.end_headers()
                    back = threading.Thread(target=_copy, args=(far, self.connection), daemon=True)
                    back.start()
                    _copy(self.connection, far)
                    back.join(30)
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        scheme = "http" if tls is None else "https"
        self.endpoint = f"{scheme}://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
