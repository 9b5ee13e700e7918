"""Bytes of layers out of an S3 repository, handed over in order; connections that are free read ahead, in threads.

botocore signs, http.client receives straight into a small buffer that is used again: each piece is hashed and written
by whoever asked for it while it is still in the processor's cache, and the interpreter is free meanwhile.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import SplitResult, urlsplit

import botocore.session
from botocore.config import Config

from kigi.adapters.repositories import read_credentials
from kigi.api.repositories import Repositories, Repository
from kigi.domain.layers import Digest, Layer, object_key
from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerCorrupt,
    LayerNotInRepository,
    RepositoryUnknown,
    RepositoryUnreachable,
)

RANGE_BYTES = 8 * 2**20
"""Bytes of one request that is read ahead; they wait in memory."""
PIECE_BYTES = 2**19
"""Bytes received at once at most."""
CONNECTIONS = max(4, os.cpu_count() or 1)
"""To all repositories together, unless set otherwise: as many as processors that can hash what they bring. Each layer
that is fetched has one; a few layers share those that are left to read ahead."""
ATTEMPTS = 3
"""Tries in a row that bring nothing, after which the repository is said to be unreachable."""
TIMEOUT_S = 20.0
"""Silence after which a connection is given up; the range is asked for again from where it broke off."""
URL_LIFE_S = 600
IDLE_S = 10.0
"""A connection that was not used for this long is closed: a firewall or load balancer may have dropped it silently,
and a request on it would wait for TIMEOUT_S."""


class Source(Protocol):
    """Where bytes of layers come from: a repository, or other nodes."""

    def read(self, layer: Layer, start: int) -> Iterator[memoryview]:
        """The layer's bytes from ``start`` to its end, in order; blocks. Raises KigiError.

        Each piece is the reader's until it asks for the next one.
        """

    def distrust(self, digest: Digest) -> None:
        """What was read of that layer was not right."""

    def done(self, digest: Digest) -> None:
        """What was read of that layer was right."""


class S3Source:
    """The repositories of the settings. Thread-safe; connections are kept."""

    def __init__(
        self,
        repositories: Repositories,
        environment: Mapping[str, str] = os.environ,
        *,
        connections: int = CONNECTIONS,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """``timeout_s``: silence after which a connection is given up and the rest asked for on another."""
        self._repositories = repositories
        self._environment = environment
        self._connections = connections
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="read ahead")
        self._session = botocore.session.Session()
        self._lock = threading.Lock()
        self._clients: dict[str, tuple[tuple[Repository, str, str], Any]] = {}
        self._kept = _Connections(timeout_s)
        self._limits: dict[str, threading.BoundedSemaphore] = {}
        self._readers = 0
        self._spare: list[bytearray] = []
        self.use(repositories)

    def use(self, repositories: Repositories) -> None:
        """Take these settings from now on; what is being read goes on as it began."""
        old, self._repositories = self._repositories.repositories, repositories
        for name, repository in repositories.repositories.items():
            if name not in self._limits or repository.max_connections != old[name].max_connections:
                most = repository.max_connections or self._connections * 2
                self._limits[name] = threading.BoundedSemaphore(most)

    def max_depth(self, repository: str) -> int:
        """Layers that the repository takes above each other; raises RepositoryUnknown."""
        return self._repositories.get(repository).max_depth

    def prepare(self) -> None:
        """Make the signers of all repositories whose credentials are known, so that the first layer need not wait."""
        for repository in self._repositories.repositories.values():
            with contextlib.suppress(KigiError):
                self._client(repository, *read_credentials(repository, self._environment))

    def distrust(self, digest: Digest) -> None:
        """There is one repository to ask: it is asked again."""

    def done(self, digest: Digest) -> None:
        """Nothing is remembered of a layer."""

    def close(self) -> None:
        """End transfers and connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._kept.close()

    def read(self, layer: Layer, start: int) -> Iterator[memoryview]:
        """See Source. Raises RepositoryUnknown, AccessDenied, LayerNotInRepository, LayerCorrupt (another size) or
        RepositoryUnreachable; before that it gives what arrived in order.
        """
        repository = self._repositories.get(layer.repository)
        signed = _Signed(lambda: self._sign(repository, layer))
        ahead: deque[Future[_Range]] = deque()
        piece = memoryview(bytearray(PIECE_BYTES))
        asked, size_bytes = start, layer.size_bytes
        connections = min(self._connections, repository.max_connections or self._connections)
        with self._one_more_reader():
            try:
                while ahead or asked < size_bytes:
                    own, spare = asked, connections // self._readers - 1
                    if not ahead:  # on this thread's connection: all of it, or the first range if there are others
                        asked = min(asked + RANGE_BYTES, size_bytes) if spare > 0 else size_bytes
                    stop = asked
                    while asked < size_bytes and len(ahead) < spare:
                        ahead.append(self._pool.submit(self._read_ahead, signed, repository, layer, asked))
                        asked = min(asked + RANGE_BYTES, size_bytes)
                    if own < stop:
                        for size in self._receive(signed, repository, layer, own, stop, lambda position: piece):
                            yield piece[:size]
                        continue
                    arrived = ahead.popleft().result()
                    for offset in range(0, arrived.length, PIECE_BYTES):
                        yield memoryview(arrived.buffer)[offset : min(offset + PIECE_BYTES, arrived.length)]
                    self._spare.append(arrived.buffer)
                    if arrived.error is not None:
                        raise arrived.error
            finally:
                for future in ahead:
                    future.cancel()
                if self._readers == 1:
                    self._spare.clear()

    @contextlib.contextmanager
    def _one_more_reader(self) -> Iterator[None]:
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1

    def _sign(self, repository: Repository, layer: Layer) -> str:
        parameters = {"Bucket": repository.bucket, "Key": object_key(layer.digest)}
        client = self._client(repository, *read_credentials(repository, self._environment))
        url: str = client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=URL_LIFE_S)
        return url

    def _client(self, repository: Repository, access: str, secret: str) -> Any:
        """The signer of one repository, made anew when its credentials change; making one takes 50 ms."""
        with self._lock:
            known = self._clients.get(repository.endpoint + repository.bucket)
            if known is None or known[0] != (repository, access, secret):
                style: Literal["path", "virtual"] = "path" if repository.path_style else "virtual"
                client = self._session.create_client(
                    "s3",
                    region_name=repository.region,
                    endpoint_url=repository.endpoint,
                    aws_access_key_id=access,
                    aws_secret_access_key=secret,
                    config=Config(signature_version="s3v4", s3={"addressing_style": style}),
                )
                known = self._clients[repository.endpoint + repository.bucket] = (repository, access, secret), client
            return known[1]

    def _read_ahead(self, signed: _Signed, repository: Repository, layer: Layer, start: int) -> _Range:
        """One range, as far as it came."""
        stop = min(start + RANGE_BYTES, layer.size_bytes)
        try:
            buffer = self._spare.pop()
        except IndexError:
            buffer = bytearray(RANGE_BYTES)
        arrived = _Range(buffer)
        view = memoryview(buffer)
        try:
            for size in self._receive(
                signed, repository, layer, start, stop, lambda position: view[position - start :]
            ):
                arrived.length += size
        except KigiError as exc:
            arrived.error = exc
        return arrived

    def _receive(
        self,
        signed: _Signed,
        repository: Repository,
        layer: Layer,
        start: int,
        stop: int,
        place: Callable[[int], memoryview],
    ) -> Iterator[int]:
        """Receive the bytes from ``start`` to ``stop``, each piece at the place for its position; gives their sizes.

        What is cut off is asked for again from there, as long as each try brings something.
        """
        position, failures = start, 0
        limit = self._limits[layer.repository]
        while position < stop:
            before = position
            url = signed.url()
            try:
                with limit, self._kept.get(url, repository.ca_file) as connection:
                    answer = _ask(connection, url, repository, layer, position, stop)
                    while position < stop:
                        size = answer.readinto(place(position)[: min(PIECE_BYTES, stop - position)])
                        if not size:
                            raise http.client.IncompleteRead(b"")
                        position += size
                        yield size
                    if not answer.isclosed():
                        connection.close()  # more than was asked for: a server that ignores ranges
            except (http.client.HTTPException, OSError) as exc:
                failures = failures + 1 if position == before else 0
                if failures >= ATTEMPTS:
                    raise RepositoryUnreachable(
                        f"{repository.endpoint}: layer {layer.digest} broke off at byte {position} "
                        f"({type(exc).__name__}); it goes on from there when the repository answers"
                    ) from exc


@dataclass(slots=True)
class _Range:
    """A range that was read ahead: ``length`` of its bytes came, all unless there is an error."""

    buffer: bytearray
    length: int = 0
    error: KigiError | None = None


class _Signed:
    """A signed address of one object, signed anew before it expires. Thread-safe."""

    def __init__(self, sign: Callable[[], str]) -> None:
        self._sign = sign
        self._lock = threading.Lock()
        self._url = sign()
        self._since = time.monotonic()

    def url(self) -> str:
        """An address that is good for a while."""
        with self._lock:
            if time.monotonic() - self._since > URL_LIFE_S / 2:
                self._url, self._since = self._sign(), time.monotonic()
            return self._url


class _Connections:
    """Kept connections of each server; http.client receives straight into our buffers. Thread-safe.

    A new connection reads ``ca_file`` anew: a rotated authority counts. ``clock`` gives monotonic seconds.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self._idle: dict[Any, list[tuple[http.client.HTTPConnection, float]]] = {}
        self._all: list[http.client.HTTPConnection] = []
        self._closed = False

    @contextlib.contextmanager
    def get(self, url: str, ca_file: str | None) -> Iterator[http.client.HTTPConnection]:
        """A connection to the server of ``url`` for the block alone; closed if the block is left before its end."""
        if self._closed:
            raise ConnectionAbortedError("the source was closed")
        parts = urlsplit(url)
        idle = self._idle.setdefault((parts.scheme, parts.netloc, ca_file), [])
        connection = self._kept(idle)
        if connection is None:
            connection = self._connect(parts, ca_file)
            self._all.append(connection)
        try:
            yield connection
        except BaseException:
            self._drop(connection)
            raise
        if connection.sock is None:  # closed by us, or at the server's wish
            self._drop(connection)
        else:
            idle.append((connection, self._clock()))

    def _kept(self, idle: list[tuple[http.client.HTTPConnection, float]]) -> http.client.HTTPConnection | None:
        """The connection that was used last, if that is not too long ago; older ones are closed."""
        while True:
            try:
                connection, since = idle.pop()
            except IndexError:
                return None
            if self._clock() - since <= IDLE_S:
                return connection
            self._drop(connection)

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        with contextlib.suppress(ValueError):
            self._all.remove(connection)

    def close(self) -> None:
        """Close all of them; transfers that are under way end with an error."""
        self._closed = True
        for connection in list(self._all):
            connection.close()

    def _connect(self, parts: SplitResult, ca_file: str | None) -> http.client.HTTPConnection:
        """A connection that trusts the repository's authority, or the system's."""
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca_file)
            return http.client.HTTPSConnection(host, parts.port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, parts.port, timeout=self._timeout_s)


def _ask(
    connection: http.client.HTTPConnection, url: str, repository: Repository, layer: Layer, start: int, stop: int
) -> http.client.HTTPResponse:
    """The answer to a request for the bytes from ``start`` to ``stop``, its body not read yet."""
    parts = urlsplit(url)
    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
    answer = connection.getresponse()
    if answer.status not in (200, 206):
        raise _refusal(answer.status, answer.read(4096), repository, layer)
    _check_range(answer.status, answer.headers.get("Content-Range", ""), layer, start)
    return answer


def _check_range(status: int, content_range: str, layer: Layer, start: int) -> None:
    """The server sends what was asked for, of an object of the declared size."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
    if status == 206 and match and int(match.group(1)) == start and int(match.group(2)) == layer.size_bytes:
        return
    if status == 200 and start == 0:
        return  # a server that ignores ranges sends all of it; the size is checked when the layer is committed
    found = match.group(2) if match else "another number of"
    raise LayerCorrupt(f"layer {layer.digest}: the repository's object has {found} bytes instead of {layer.size_bytes}")


def _refusal(status: int, body: bytes, repository: Repository, layer: Layer) -> KigiError:
    code = re.search(rb"<Code>(\w+)</Code>", body)
    name = code.group(1).decode() if code else str(status)
    where = f"{repository.endpoint}: bucket {repository.bucket}"
    if name == "NoSuchBucket":
        return RepositoryUnknown(f"{where} does not exist; correct repositories.yaml or create it")
    if status == 404:
        return LayerNotInRepository(f"{where} has no layer {layer.digest}; publish it with 'kigi publish'")
    if status in (401, 403):
        return AccessDenied(f"{where}: {name}; the daemon's credentials must allow GetObject on layers/")
    if status == 416:
        return LayerCorrupt(f"layer {layer.digest}: the repository's object is shorter than {layer.size_bytes} bytes")
    return RepositoryUnreachable(f"{where} answers {name}; it is tried again")
