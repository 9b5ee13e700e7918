"""A repository that wastes time, on loopback: it is left, and reported as unreachable."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kigi.api.repositories import Repositories, Repository
from kigi.domain.layers import Digest, Layer
from kigi.errors import RepositoryUnreachable
from kigi_cache.sources.pace import LeastPace
from kigi_cache.sources.s3 import MAX_ATTEMPTS, S3Source

CONTENT = bytes(range(256)) * 16
LAYER = Layer(Digest(f"sha256:{1:064x}"), len(CONTENT), 512)
LENGTH = f"Content-Length: {len(CONTENT)}\r\nContent-Range: bytes START-{len(CONTENT) - 1}/{len(CONTENT)}\r\n"
HEAD = f"HTTP/1.1 206 Partial Content\r\n{LENGTH}\r\n".encode()
NO_LENGTH = HEAD.replace(f"Content-Length: {len(CONTENT)}\r\n".encode(), b"")
CHUNKED = NO_LENGTH.replace(b"\r\n", b"\r\nTransfer-Encoding: chunked\r\n", 1)


@contextmanager
def repository(begin: bytes, drop: bytes) -> Iterator[tuple[S3Source, list[socket.socket]]]:
    """A source whose repository sends ``begin``, then ``drop`` again and again, and the connections that it got."""
    server = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []
    done = threading.Event()

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            start = client.recv(65536).partition(b"Range: bytes=")[2].partition(b"-")[0]
            client.sendall(begin.replace(b"START", start))
            while drop and not done.wait(0.02):
                client.sendall(drop)
            done.wait()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                clients.append(server.accept()[0])
                threading.Thread(target=answer, args=[clients[-1]], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    settings = {"bucket": "kigi", "accessKeyId": "key", "secretAccessKey": "secret"}
    endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    known = Repositories(repositories={"default": Repository.model_validate({"endpoint": endpoint, **settings})})
    pace = LeastPace(bytes_per_s=50_000, window_s=0.1)
    source = S3Source(known, {}, connections=1, timeout_s=0.2, least_pace=pace)
    try:
        yield source, clients
    finally:
        done.set()
        source.close()
        server.close()


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (HEAD, CONTENT[:1]),
        (CHUNKED, b"1\r\nx\r\n"),
        (NO_LENGTH, CONTENT[:1]),
        (b"HTTP/1.1 206 Partial Content\r\n", b"a"),
        (b"HTTP/1.1 206 Partial Content\r\n", b"a: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4000\r\n\r\n", b"x"),
        (b"", b""),
        (HEAD + CONTENT[:1], b""),
    ],
    ids=[
        "drips-the-body",
        "drips-chunks",
        "drips-without-length",
        "drips-the-head",
        "endless-headers",
        "endless-continue",
        "drips-an-error",
        "silent",
        "silent-in-the-body",
    ],
)
def test_a_repository_that_wastes_time_is_reported(begin: bytes, drop: bytes) -> None:
    with repository(begin, drop) as (source, clients):
        ended: list[BaseException | None] = []

        def fetch() -> None:
            try:
                list(source.read(LAYER, 0))
                ended.append(None)
            except BaseException as exc:
                ended.append(exc)

        reader = threading.Thread(target=fetch, daemon=True)
        reader.start()
        reader.join(60)
        assert ended, "the fetch waits for a repository that sends a byte now and then"
        assert isinstance(ended[0], RepositoryUnreachable), ended[0]
        assert len(clients) == (1 if b"500" in begin else MAX_ATTEMPTS)
