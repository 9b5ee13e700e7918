"""Layers from S3 repositories, in order; connections that no other layer uses read ahead, in threads.

http.client receives straight into a small buffer that is used again. So the caller hashes and writes each piece while
it is still in the processor's cache.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from kigi.adapters.credentials import EnvironmentKeys
from kigi.adapters.tls import refused_certificate
from kigi.api.repositories import Repositories, Repository
from kigi.domain.layers import Digest, Layer, object_key
from kigi.domain.repository_points import WRITE_KEY
from kigi.domain.s3_answers import S3Answer, other_region, read_answer
from kigi.errors import KigiError, RepositoryUnreachable
from kigi_cache.settings import CONNECTIONS
from kigi_cache.sources.connections import Connections, ForwardingConnection
from kigi_cache.sources.pace import LeastPace, Pace, PacedResponse, TooSlow, within
from kigi_cache.sources.s3_responses import check_range, hidden_layer, proxy_refusal, refusal
from kigi_cache.sources.signing import SignedUrl, Signer
from kigi_cache.sources.source import never

RANGE_BYTES = 8 * 2**20
"""Size of one request that reads ahead; its bytes wait in memory."""
PIECE_BYTES = 2**19
"""Most bytes of one ``recv`` and of one yielded piece."""
MAX_ATTEMPTS = 3
"""Failed attempts in a row after which a repository is reported as unreachable.

An attempt fails if it breaks off with fewer bytes than a window of the least pace needs."""
TIMEOUT_S = 20.0
LEAST_PACE = LeastPace(bytes_per_s=16 * 2**10, window_s=20.0)
"""Of each connection."""
MAX_ERROR_BYTES = 4096


class S3Source:
    """A ``Source`` that reads the configured repositories. Connections are kept."""

    def __init__(
        self,
        repositories: Repositories,
        environment: Mapping[str, str] = os.environ,
        *,
        connections: int = CONNECTIONS,
        timeout_s: float = TIMEOUT_S,
        least_pace: LeastPace = LEAST_PACE,
        keys: EnvironmentKeys | None = None,
    ) -> None:
        """``connections``: most of them in use at a time, over all layers and repositories.

        ``environment`` and ``keys``: credentials of repositories without their own; ``environment`` has the proxies.

        A connection that is silent for ``timeout_s``, or slower than ``least_pace``, is closed, and the rest is
        requested on another one.
        """
        self._timeout_s = timeout_s
        self._least_pace = least_pace
        self._repositories = repositories
        self._connections = connections
        self._signer = Signer(environment, keys)
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="read ahead")
        self._lock = threading.Lock()
        self._kept = Connections(timeout_s, environment=environment)
        self._limits: dict[str, threading.BoundedSemaphore] = {}
        """Most requests in progress, for each repository."""
        self._readers = 0
        """Layers that are being read."""
        self._buffers: list[bytearray] = []
        """Of finished ranges, for the next ones."""
        self.use(repositories)

    def use(self, repositories: Repositories) -> None:
        """Use these settings for layers that are read from now on."""
        old, self._repositories = self._repositories.repositories, repositories
        for name, repository in repositories.repositories.items():
            limit, before = repository.connections_per_node, old.get(name)
            if name not in self._limits or before is None or limit != before.connections_per_node:
                self._limits[name] = threading.BoundedSemaphore(limit or self._connections * 2)

    def max_depth(self, repository: str) -> int:
        """Longest chain that the repository accepts, in layers. Raises RepositoryUnknown."""
        return self._repositories.get(repository).max_depth

    def prepare(self) -> None:
        """Get the credentials of all repositories whose settings can be used, so that the first layer does not wait."""
        for repository in self._repositories.repositories.values():
            with contextlib.suppress(KigiError):
                self._signer.sign(repository, WRITE_KEY)

    def distrust(self, digest: Digest) -> None:
        """See Source. There is no other place to ask: the next read asks the same repository."""

    def done(self, digest: Digest) -> None:
        """See Source. Nothing is recorded about a layer."""

    def close(self) -> None:
        """End transfers and close connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._kept.close()

    def read(self, layer: Layer, start: int, is_urgent: Callable[[], bool] = never) -> Iterator[memoryview]:
        """See Source; there is no other source to ask. Before it raises, it yields the bytes that arrived in order.

        Raises RepositoryUnknown, RepositoryMisconfigured, AccessDenied, LayerNotInRepository, LayerCorrupt (the object
        has another size), RepositoryUnreachable, or SpecInvalid (no credentials).
        """
        request = self._request(layer)
        ahead: deque[Future[_Range]] = deque()
        piece = memoryview(bytearray(PIECE_BYTES))
        requested, size_bytes = start, layer.size_bytes
        with self._one_more_reader():
            try:
                while ahead or requested < size_bytes:
                    own_start, spare = requested, request.connections // self._readers - 1
                    if not ahead:  # on this thread's connection: all of it, or the first range if others read ahead
                        requested = min(requested + RANGE_BYTES, size_bytes) if spare > 0 else size_bytes
                    own_stop = requested
                    while requested < size_bytes and len(ahead) < spare:
                        ahead.append(self._pool.submit(self._read_ahead, request, requested))
                        requested = min(requested + RANGE_BYTES, size_bytes)
                    if own_start < own_stop:
                        for size in self._receive(request, own_start, own_stop, lambda position: piece):
                            yield piece[:size]
                    else:
                        yield from self._pieces(ahead.popleft().result())
            finally:
                for future in ahead:
                    future.cancel()
                if self._readers == 1:
                    self._buffers.clear()

    def _request(self, layer: Layer) -> _Request:
        repository = self._repositories.get(layer.repository)
        return _Request(
            layer,
            repository,
            SignedUrl(lambda: self._sign(repository, layer)),
            min(self._connections, repository.connections_per_node or self._connections),
        )

    def _sign(self, repository: Repository, layer: Layer) -> str:
        """With the credentials as they are now: temporary ones of a Secret may be replaced while a layer is read."""
        now = self._repositories.repositories.get(layer.repository)
        is_same = now is not None and (now.endpoint, now.bucket) == (repository.endpoint, repository.bucket)
        return self._signer.sign(now if now is not None and is_same else repository, object_key(layer.digest))

    @contextlib.contextmanager
    def _one_more_reader(self) -> Iterator[None]:
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1

    def _read_ahead(self, request: _Request, start: int) -> _Range:
        """One range, or its first bytes and the error that ended it."""
        stop = min(start + RANGE_BYTES, request.layer.size_bytes)
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray(RANGE_BYTES)
        arrived = _Range(buffer)
        view = memoryview(buffer)
        try:
            for size in self._receive(request, start, stop, lambda position: view[position - start :]):
                arrived.length += size
        except KigiError as exc:
            arrived.error = exc
        return arrived

    def _pieces(self, arrived: _Range) -> Iterator[memoryview]:
        for offset in range(0, arrived.length, PIECE_BYTES):
            yield memoryview(arrived.buffer)[offset : min(offset + PIECE_BYTES, arrived.length)]
        self._buffers.append(arrived.buffer)
        if arrived.error is not None:
            raise arrived.error

    def _receive(self, request: _Request, start: int, stop: int, place: Callable[[int], memoryview]) -> Iterator[int]:
        """Receive the bytes from ``start`` to ``stop`` and yield the size of each piece.

        ``place`` gives the buffer for the bytes from a position on. After an interruption the rest is requested again,
        for as long as attempts bring bytes, and enough of them.
        """
        position, failures, tried = start, 0, set[str]()
        limit = self._limits[request.layer.repository]
        while position < stop:
            before = position
            url = request.url.get()
            try:
                with limit, self._kept.get(url, request.repository.ca_file) as connection:
                    with within(self._timeout_s, connection):
                        response = _get(connection, url, position, stop)
                        if response.status not in (200, 206):
                            self._refused(request, url, _read_error(response), tried)
                            connection.close()  # the rest of the answer may be pending
                            continue
                        content_range = response.headers.get("Content-Range", "")
                        check_range(response.status, content_range, request.layer, position)
                    pace = Pace(self._least_pace)
                    while position < stop:
                        size = pace.receive(response, place(position)[: min(PIECE_BYTES, stop - position)])
                        if not size:
                            raise http.client.IncompleteRead(b"")
                        position += size
                        yield size
                    if not response.isclosed():
                        connection.close()  # bytes are left: the server ignores ranges
            except ssl.SSLCertVerificationError as exc:
                raise refused_certificate(request.repository.endpoint, exc) from exc
            except (http.client.HTTPException, OSError) as exc:
                refused = proxy_refusal(exc, request.repository, self._signer.region(request.repository))
                if refused is not None:
                    raise refused from exc
                few = position - before < self._least_pace.bytes_per_s * self._least_pace.window_s
                failures = failures + 1 if few or isinstance(exc, TooSlow) else 0
                if failures >= MAX_ATTEMPTS:
                    raise RepositoryUnreachable(
                        f"{request.repository.endpoint}: layer {request.layer.digest} broke off at byte {position} "
                        f"({_words(exc)}); it goes on from there when the repository answers"
                    ) from exc

    def _refused(self, request: _Request, url: str, answer: S3Answer, tried: set[str]) -> None:
        """Return if the request can be sent again, for another region; else raise what the answer means.

        ``tried``: the regions that were right by earlier answers to the same request.
        """
        repository = request.repository
        used, known = _region_of(url), self._signer.region(repository)
        # Another connection may have learned the region meanwhile.
        region = other_region(answer, used) or (known if answer.is_wrong_region and known != used else None)
        if region is not None and region not in tried:
            tried.add(region)
            self._signer.use_region(repository, region)
            request.url.expire()
            return
        if answer.is_right_missing and self._can_read(repository):
            raise hidden_layer(repository, request.layer)
        raise refusal(answer, repository, request.layer, used)

    def _can_read(self, repository: Repository) -> bool:
        """Whether the credentials read the object that each writer stores: then 403 means a missing layer."""
        try:
            url = self._signer.sign(repository, WRITE_KEY)
            with self._kept.get(url, repository.ca_file) as connection, within(self._timeout_s, connection):
                response = _get(connection, url, 0, 1)
                status = response.status
                connection.close()
        except (http.client.HTTPException, OSError, KigiError):
            return False
        return status in (200, 206, 416)  # 416: it is empty


@dataclass(frozen=True, slots=True)
class _Request:
    """The read of one layer, with the settings that were current when it began."""

    layer: Layer
    repository: Repository
    url: SignedUrl
    connections: int
    """Most of them that it may use."""


@dataclass(slots=True)
class _Range:
    """A range that was read ahead: the first ``length`` bytes of ``buffer``, all of them unless there is an error."""

    buffer: bytearray
    length: int = 0
    error: KigiError | None = None


def _get(connection: http.client.HTTPConnection, url: str, start: int, stop: int) -> PacedResponse:
    """Response to a request for the bytes from ``start`` to ``stop``; its body is not read yet."""
    parts = urlsplit(url)
    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    if isinstance(connection, ForwardingConnection):
        connection.request("GET", url, headers={**headers, **connection.proxy_headers})
    else:
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
    response = connection.getresponse()
    assert isinstance(response, PacedResponse)
    return response


def _read_error(response: http.client.HTTPResponse) -> S3Answer:
    return read_answer(response.status, dict(response.headers.items()), response.read(MAX_ERROR_BYTES))


def _region_of(url: str) -> str:
    """The region that a URL is signed for: ``X-Amz-Credential=KEY/DATE/REGION/s3/aws4_request``."""
    return parse_qs(urlsplit(url).query)["X-Amz-Credential"][0].split("/")[-3]


def _words(exc: Exception) -> str:
    """What broke off, in the words of OpenSSL or the system where there are any."""
    text = exc.reason if isinstance(exc, ssl.SSLError) else str(exc.strerror or exc) if isinstance(exc, OSError) else ""
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
