"""Bytes of layers out of an S3 repository: ranged reads in parallel, in threads, handed over in order.

botocore signs, http.client receives straight into one buffer per range, which is used again: the interpreter is free
while bytes are received, hashed and written, and none is copied on the way.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
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

from kigi.api.repositories import Repositories, Repository
from kigi.domain.layers import Layer, object_key
from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerCorrupt,
    LayerNotInRepository,
    RepositoryUnknown,
    RepositoryUnreachable,
)

RANGE_BYTES = 8 * 2**20
"""Bytes of one request; a window of them is held in memory."""
PIECE_BYTES = 2**18
"""Bytes received at once at most."""
WINDOW = 4
"""Ranges of one layer that are on their way or wait for their turn."""
THREADS = 8
ATTEMPTS = 3
"""Tries in a row that bring nothing, after which the repository is said to be unreachable."""
TIMEOUT_S = 20.0
"""Silence after which a connection is given up; the range is asked for again from where it broke off."""
URL_LIFE_S = 600


class Source(Protocol):
    """Where bytes of layers come from: a repository, later also other nodes."""

    def read(self, layer: Layer, start: int) -> Iterator[memoryview]:
        """The layer's bytes from ``start`` to its end, in order; blocks. Raises KigiError.

        Each piece is the reader's until it asks for the next one.
        """


class S3Source:
    """The repositories of the settings. Thread-safe; each thread of its pool keeps one connection to each."""

    def __init__(
        self,
        repositories: Repositories,
        environment: Mapping[str, str] = os.environ,
        *,
        threads: int = THREADS,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """``timeout_s``: silence after which a connection is given up and the rest asked for on another."""
        self._repositories = repositories
        self._environment = environment
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="range")
        self._session = botocore.session.Session()
        self._signing = threading.Lock()
        self._clients: dict[str, tuple[tuple[Repository, str, str], Any]] = {}
        self._connections = _Connections(timeout_s)

    def close(self) -> None:
        """End transfers and connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._connections.close()

    def read(self, layer: Layer, start: int) -> Iterator[memoryview]:
        """See Source. Raises RepositoryUnknown, AccessDenied, LayerNotInRepository, LayerCorrupt (another size) or
        RepositoryUnreachable; before that it gives what arrived in order.
        """
        repository = self._repositories.get(layer.repository)
        signed = _Signed(lambda: self._sign(repository, layer))
        window: deque[Future[_Range]] = deque()
        spare: list[bytearray] = []
        offsets = iter(range(start, layer.size_bytes, RANGE_BYTES))
        try:
            while True:
                for offset in itertools.islice(offsets, WINDOW - len(window)):
                    buffer = spare.pop() if spare else bytearray(min(RANGE_BYTES, layer.size_bytes - start))
                    window.append(self._pool.submit(self._read_range, signed, repository, layer, offset, buffer))
                if not window:
                    return
                arrived = window.popleft().result()
                yield memoryview(arrived.buffer)[: arrived.length]
                if arrived.error is not None:
                    raise arrived.error
                spare.append(arrived.buffer)
        finally:
            for future in window:
                future.cancel()

    def _sign(self, repository: Repository, layer: Layer) -> str:
        parameters = {"Bucket": repository.bucket, "Key": object_key(layer.digest)}
        client = self._client(repository, *repository.credentials(self._environment))
        url: str = client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=URL_LIFE_S)
        return url

    def _client(self, repository: Repository, access: str, secret: str) -> Any:
        """The signer of one repository, made anew when its credentials change; making one takes 50 ms."""
        with self._signing:
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

    def _read_range(
        self, signed: _Signed, repository: Repository, layer: Layer, start: int, buffer: bytearray
    ) -> _Range:
        """One range; what is cut off is asked for again from there, as long as each try brings something."""
        arrived = _Range(buffer, start, min(RANGE_BYTES, layer.size_bytes - start))
        failures = 0
        while arrived.length < arrived.wanted and arrived.error is None:
            before = arrived.length
            try:
                self._receive(signed.url(), repository, layer, arrived)
            except KigiError as exc:
                arrived.error = exc
            except (http.client.HTTPException, OSError) as exc:
                failures = failures + 1 if arrived.length == before else 0
                if failures >= ATTEMPTS:
                    arrived.error = RepositoryUnreachable(
                        f"{repository.endpoint}: layer {layer.digest} broke off at byte {start + arrived.length} "
                        f"({type(exc).__name__}); it goes on from there when the repository answers"
                    )
        return arrived

    def _receive(self, url: str, repository: Repository, layer: Layer, arrived: _Range) -> None:
        """Ask for what is missing, and note each piece. The connection is kept if all of it came."""
        first, last = arrived.start + arrived.length, arrived.start + arrived.wanted - 1
        with self._connections.get(url, repository.ca_file) as connection:
            parts = urlsplit(url)
            headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
            connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
            answer = connection.getresponse()
            if answer.status not in (200, 206):
                raise _refusal(answer.status, answer.read(4096), repository, layer)
            _check_range(answer.status, answer.headers.get("Content-Range", ""), layer, first)
            view = memoryview(arrived.buffer)
            while arrived.length < arrived.wanted:
                size = answer.readinto(view[arrived.length : min(arrived.length + PIECE_BYTES, arrived.wanted)])
                if not size:
                    raise http.client.IncompleteRead(b"")
                arrived.length += size
            if not answer.isclosed():
                connection.close()  # more than was asked for: a server that ignores ranges


@dataclass(slots=True)
class _Range:
    """One range of a layer in a buffer: ``length`` of the ``wanted`` bytes have come, all unless there is an error."""

    buffer: bytearray
    start: int
    wanted: int
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
    """One kept connection for each thread and server; http.client receives straight into our buffers."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._of_thread = threading.local()
        self._all: list[http.client.HTTPConnection] = []

    @contextlib.contextmanager
    def get(self, url: str, ca_file: str | None) -> Iterator[http.client.HTTPConnection]:
        """This thread's connection to the server of ``url``; closed if the block raises."""
        parts = urlsplit(url)
        key = (parts.scheme, parts.netloc, ca_file)
        kept: dict[Any, http.client.HTTPConnection] = self._of_thread.__dict__
        connection = kept.get(key)
        if connection is None:
            connection = kept[key] = self._connect(parts, ca_file)
            self._all.append(connection)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close all of them; transfers that are under way end with an error."""
        for connection in list(self._all):
            connection.close()

    def _connect(self, parts: SplitResult, ca_file: str | None) -> http.client.HTTPConnection:
        """A connection that trusts the repository's authority, or the system's."""
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca_file)
            return http.client.HTTPSConnection(host, parts.port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, parts.port, timeout=self._timeout_s)


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
