"""Bytes of layers out of an S3 repository: ranged reads in parallel, in threads, handed over in order.

botocore signs, urllib3 transfers; reading a body into one large buffer per range lets the interpreter go while bytes
are received, hashed and written.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Protocol

import botocore.session
import urllib3
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
CHUNK_BYTES = 2**20
"""Bytes of one read: what a broken connection can cost."""
WINDOW = 4
"""Ranges of one layer that are on their way or wait for their turn."""
ATTEMPTS = 3
TIMEOUT_S = 20.0
"""Silence after which a connection is given up; the range is asked for again from where it broke off."""
URL_LIFE_S = 600


class Source(Protocol):
    """Where bytes of layers come from: a repository, later also other nodes."""

    def read(self, layer: Layer, start: int) -> Iterator[bytes]:
        """The layer's bytes from ``start`` to its end, in order; blocks. Raises KigiError."""


class S3Source:
    """The repositories of the settings. Thread-safe; one connection pool for all."""

    def __init__(
        self, repositories: Repositories, environment: Mapping[str, str] = os.environ, threads: int = 8
    ) -> None:
        self._repositories = repositories
        self._environment = environment
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="range")
        self._session = botocore.session.Session()
        self._threads = threads
        self._http_pools: dict[str | None, urllib3.PoolManager] = {}

    def close(self) -> None:
        """End transfers and connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for pool in self._http_pools.values():
            pool.clear()

    def read(self, layer: Layer, start: int) -> Iterator[bytes]:
        """See Source. Raises RepositoryUnknown, AccessDenied, LayerNotInRepository, LayerCorrupt (another size) or
        RepositoryUnreachable.
        """
        repository = self._repositories.get(layer.repository)
        url = self._signed_url(repository, layer)
        offsets = iter(range(start, layer.size_bytes, RANGE_BYTES))
        window: deque[Future[bytes]] = deque()
        try:
            for offset in offsets:
                window.append(self._pool.submit(self._read_range, url, repository, layer, offset))
                if len(window) >= WINDOW:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()

    def _http(self, repository: Repository) -> urllib3.PoolManager:
        """Connections that trust the repository's authority, or the system's."""
        if repository.ca_file not in self._http_pools:
            timeout = urllib3.Timeout(connect=5, read=TIMEOUT_S)
            self._http_pools[repository.ca_file] = urllib3.PoolManager(
                maxsize=self._threads, timeout=timeout, retries=False, ca_certs=repository.ca_file
            )
        return self._http_pools[repository.ca_file]

    def _signed_url(self, repository: Repository, layer: Layer) -> str:
        access, secret = repository.credentials(self._environment)
        style: Literal["path", "virtual"] = "path" if repository.path_style else "virtual"
        client: Any = self._session.create_client(
            "s3",
            region_name=repository.region,
            endpoint_url=repository.endpoint,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            config=Config(signature_version="s3v4", s3={"addressing_style": style}),
        )
        parameters = {"Bucket": repository.bucket, "Key": object_key(layer.digest)}
        url: str = client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=URL_LIFE_S)
        return url

    def _read_range(self, url: str, repository: Repository, layer: Layer, start: int) -> bytes:
        """One range, whole; what is cut off is asked for again from there."""
        end = min(start + RANGE_BYTES, layer.size_bytes)
        parts: list[bytes] = []
        position, attempt = start, 0
        while position < end:
            try:
                position += self._read_once(url, repository, layer, position, end, parts)
                cause = "the body ended early"
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                position = start + sum(map(len, parts))
                cause = f"{type(exc).__name__}"
            if position < end:
                attempt += 1
                if attempt >= ATTEMPTS:
                    raise RepositoryUnreachable(
                        f"{repository.endpoint}: layer {layer.digest} broke off at byte {position} ({cause}); "
                        "it goes on from there when the repository answers"
                    )
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_once(
        self, url: str, repository: Repository, layer: Layer, start: int, end: int, parts: list[bytes]
    ) -> int:
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with self._http(repository).request(
            "GET", url, headers=headers, preload_content=False, decode_content=False
        ) as answer:
            if answer.status not in (200, 206):
                raise _refusal(answer.status, answer.read(4096), repository, layer)
            _check_range(answer.status, answer.headers.get("Content-Range", ""), layer, start)
            received = 0
            while received < end - start:
                chunk = answer.read(min(CHUNK_BYTES, end - start - received))
                if not chunk:
                    break
                parts.append(chunk)
                received += len(chunk)
            return received


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
