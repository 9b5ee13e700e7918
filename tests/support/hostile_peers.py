"""Peers that waste time, answer nonsense or lie: one function for each behaviour, for a server in threads.

All of them have the certificate that their node has published, but for those that behave so before the handshake ends.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kigi.domain.layers import digest_of_hex
from kigi_cache.sources.peer_certificates import make_certificate
from tests.support.peers import certificate


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a hostile peer, and what an honest one would send."""

    client: socket.socket
    right: bytes
    stop: threading.Event
    """Set when the server ends."""

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.client.sendall(part)

    def drip(self, data: bytes, size: int, seconds: float, *, endless: bool = False) -> None:
        """``size`` bytes at a time, with pauses."""
        at = 0
        while at < len(data) or endless:
            self.send(data[at : at + size] or data[:size])
            at += size
            if self.stop.wait(seconds):
                return

    def hang(self) -> None:
        self.stop.wait()

    def reset(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()


Behaviour = Callable[[Request], None]
BEHAVIOURS: dict[str, Behaviour] = {}
BEFORE_TLS = "handshake-"
"""Begin of the names of behaviours that get the socket as it is, without a handshake and without a request."""


def head(length: object, *, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def _sends(name: str, *parts: Callable[[bytes], bytes], hang: bool = False) -> None:
    """A behaviour that sends what ``parts`` make of the right bytes, and ends or hangs."""

    def behave(request: Request) -> None:
        request.send(*(part(request.right) for part in parts))
        if hang:
            request.hang()

    BEHAVIOURS[name] = behave


def _drips(name: str, begin: Callable[[bytes], bytes], size: int, seconds: float, text: bytes | None = None) -> None:
    """A behaviour that sends ``begin`` and then ``text`` for ever, or once the right bytes, a few at a time."""

    def behave(request: Request) -> None:
        request.send(begin(request.right))
        request.drip(request.right if text is None else text, size, seconds, endless=text is not None)

    BEHAVIOURS[name] = behave


def _ok(right: bytes) -> bytes:
    return head(len(right))


def _half(right: bytes) -> bytes:
    return right[: len(right) // 2]


def _nothing(_: bytes) -> bytes:
    return b""


def _all(right: bytes) -> bytes:
    return right


def _text(data: bytes) -> Callable[[bytes], bytes]:
    return lambda _: data


_sends("silent", _nothing, hang=True)
_sends("closes", _nothing)
BEHAVIOURS["resets"] = Request.reset
for name, data in {
    "garbage": b"\xff\xfe" * 50,
    "another-protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x28",
    "empty-lines": b"\r\n" * 1000,
    "version-nine": b"HTTP/9.9 200 OK\r\n\r\n",
    "no-status": b"HTTP/1.1 \r\n\r\n",
    "long-line": b"HTTP/1.1 200 " + b"x" * 100_000,
    "long-header": b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000,
    "too-many-headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000,
    "body-without-head": b"\0" * 100_000,
}.items():
    _sends(name, _text(data))
_drips("drips-the-status", _nothing, 1, 0.1, b"HTTP/1.1 200 OK")
_drips("drips-headers", _text(b"HTTP/1.1 200 OK\r\n"), 6, 0.05, b"a: b\r\n")
_drips("endless-continue", _nothing, 1000, 0.01, b"HTTP/1.1 100 Continue\r\n\r\n" * 40)
_drips("endless-hints", _nothing, 33, 0.01, b"HTTP/1.1 103 Early Hints\r\na: b\r\n\r\n")
_drips("endless-zeros", _nothing, 65536, 0.001, b"\0" * 65536)
for status in ("204 No Content", "302 Found", "401 No", "403 No", "404 No", "416 No", "500 No", "503 No", "999 No"):
    _sends(f"status-{status[:3]}", _text(head(0, status=status, more="Location: http://127.0.0.1:1/\r\n")))
_sends("status-206", lambda right: head(len(right), status="206 Partial Content"), _all)
BEHAVIOURS["slow-404"] = lambda request: (request.stop.wait(0.2), request.send(head(0, status="404 No")))[1]
for name, length in {"negative": -1, "huge": 2**70, "zero": 0, "words": "many", "short": 5}.items():
    _sends(f"length-{name}", _text(head(length)), _all)
_sends("length-one-more", lambda right: head(len(right) + 1), _all, _text(b"x"))
_sends("length-one-less", lambda right: head(len(right) - 1), _all)
_sends("length-twice", lambda right: head(len(right), more="Content-Length: 5\r\n"), _all)
_sends("length-missing", _text(b"HTTP/1.1 200 OK\r\n\r\n"), _all)
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_sends("chunks", _text(_CHUNKED), lambda right: b"%x\r\n%b\r\n0\r\n\r\n" % (len(right), right))
_sends("chunks-of-no-size", _text(_CHUNKED + b"zz\r\n"))
_drips("chunks-drip", _text(_CHUNKED), 6, 0.05, b"1\r\nx\r\n")
_sends("says-gzip", lambda right: head(len(right), more="Content-Encoding: gzip\r\n"), _all)
_sends("body-silent", _ok, hang=True)
_sends("half-silent", _ok, _half, hang=True)
_sends("last-byte-missing-silent", _ok, lambda right: right[:-1], hang=True)
_sends("body-closes", _ok)
_sends("half-closes", _ok, _half)
_sends("last-byte-missing-closes", _ok, lambda right: right[:-1])
BEHAVIOURS["half-resets"] = lambda request: (request.send(_ok(request.right), _half(request.right)), request.reset())[1]
_drips("drips", _ok, 1, 0.1)
_drips("drips-3-s", _ok, 1, 3.0)
_drips("80-KiB-per-s", _ok, 8192, 0.1)
_drips("1-MiB-per-s", _ok, 104_857, 0.1)
_drips("bursts", _ok, 2**18, 2.5)
_sends("zeros", _ok, lambda right: bytes(len(right)))
_sends("first-byte-wrong", _ok, lambda right: bytes([right[0] ^ 1]) + right[1:])
_sends("last-byte-wrong", _ok, lambda right: right[:-1] + bytes([right[-1] ^ 1]))
_sends("second-half-wrong", _ok, _half, lambda right: bytes(len(right) - len(right) // 2))
_sends("shifted", _ok, lambda right: b"\0" + right[:-1])
_sends("reversed", _ok, lambda right: right[::-1])
_drips("wrong-and-slow", lambda right: _ok(right) + b"\0", 2**17, 1.0)


def _another_certificate(request: Request) -> None:
    with make_certificate(0.0).context.wrap_socket(request.client, server_side=True) as client:
        Request(client, request.right, request.stop).send(_ok(request.right), request.right)
        request.hang()


_RECORD = b"\x16\x03\x03\x40\x00"
_sends("handshake-silent", _nothing, hang=True)
_sends("handshake-closes", _nothing)
BEHAVIOURS["handshake-resets"] = lambda request: request.reset()
_sends("handshake-in-plain-text", _text(head(5)), _text(b"plain"))
_sends("handshake-alert", _text(b"\x15\x03\x03\x00\x02\x02\x28"))
_sends("handshake-garbage", _text(b"\xff" * 1000), hang=True)
_sends("handshake-too-long", _text(_RECORD + b"\x02\x7f\xff\xff" + bytes(16380)), hang=True)
_drips("handshake-drips", _text(_RECORD), 1, 0.1, b"\x02\x00\x3f\xfc" + bytes(16380))
BEHAVIOURS["handshake-another-certificate"] = _another_certificate


def another_each_time(seed: int) -> Behaviour:
    """Every request meets another behaviour."""
    choice = random.Random(seed)
    names = sorted(name for name in BEHAVIOURS if not name.startswith(BEFORE_TLS))
    return lambda request: BEHAVIOURS[choice.choice(names)](request)


@contextmanager
def hostile_peer(behaviour: Behaviour, contents: dict[str, bytes]) -> Iterator[str]:
    """The address of a peer that answers requests for these layers, by digest, in its own way."""
    stop = threading.Event()
    server = socket.create_server(("127.0.0.1", 0), backlog=512)
    pattern = re.compile(rb"/layers/sha256/([0-9a-f]{64})\?start=(\d+)")
    is_before_tls = any(BEHAVIOURS[name] is behaviour for name in BEHAVIOURS if name.startswith(BEFORE_TLS))

    def one(plain: socket.socket) -> None:
        if is_before_tls:
            with plain, contextlib.suppress(OSError):
                behaviour(Request(plain, next(iter(contents.values())), stop))
            return
        with contextlib.suppress(OSError), certificate().context.wrap_socket(plain, server_side=True) as client:
            match = pattern.search(client.recv(65536))
            if match is not None:
                content = contents[digest_of_hex(match[1].decode())]
                behaviour(Request(client, content[int(match[2]) :], stop))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=[server.accept()[0]], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        stop.set()
        server.close()
