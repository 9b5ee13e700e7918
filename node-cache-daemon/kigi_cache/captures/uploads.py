"""Sends the layer of a copy with the request that the operator has signed for it.

The publisher has no credentials that write. The request stores this content, if it is absent, and nothing else; see
``kigi.domain.signed_put``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import aiohttp
from pydantic import ValidationError
from yarl import URL

from kigi.adapters.proxies import proxy_for
from kigi.adapters.tls import refused_certificate, tls_context, verification_error
from kigi.api.layer_upload import LayerUpload, SignedRequest
from kigi.domain.layer_parts import part_sizes
from kigi.domain.layers import Digest, digest_of_hex
from kigi.domain.s3_answers import S3Answer, misconfiguration, read_answer
from kigi.domain.signed_put import is_conditional, put_headers
from kigi.errors import AccessDenied, NoRoom, RepositoryUnreachable

STALL_S = 60.0
"""Longest time without progress: until the connection, until a piece is taken, and until the answer."""
PIECE_BYTES = 2**20
ERROR_BYTES = 4096
_FULL = ("StorageFull", "QuotaExceeded", "XMinioStorageFull", "InsufficientStorage")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one request stores: a range of a file, under its own digest."""

    path: Path
    digest: Digest
    size_bytes: int
    offset_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MadeLayer:
    """A layer that the publisher has made: one file."""

    path: Path
    digest: Digest
    size_bytes: int
    parts: tuple[Piece, ...] | None = None
    """None: it is not known yet whether it needs any. Empty: it is stored as a whole."""
    most_bytes: int | None = None
    """The repository's limit with which it was cut."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What to store, in this order."""
        return self.parts or (Piece(self.path, self.digest, self.size_bytes),)

    @property
    def report(self) -> dict[str, Any]:
        """As the copy's result has it."""
        parts = {"parts": [part.digest for part in self.parts]} if self.parts else {}
        return {"digest": self.digest, "sizeBytes": self.size_bytes, **parts}


def cut(layer: MadeLayer, most_bytes: int) -> MadeLayer:
    """The layer with its parts, if it is larger than ``most_bytes``. Blocks while it reads the file."""
    if layer.size_bytes <= most_bytes:
        return replace(layer, parts=(), most_bytes=most_bytes)
    parts, offset_bytes = [], 0
    with layer.path.open("rb") as file:
        for size_bytes in part_sizes(layer.size_bytes, most_bytes):
            sha, end = hashlib.sha256(), offset_bytes + size_bytes
            for at in range(offset_bytes, end, PIECE_BYTES):
                sha.update(file.read(min(PIECE_BYTES, end - at)))
            parts.append(Piece(layer.path, digest_of_hex(sha.hexdigest()), size_bytes, offset_bytes))
            offset_bytes = end
    return replace(layer, parts=tuple(parts), most_bytes=most_bytes)


def requests_for(layer: MadeLayer, upload: Mapping[str, Any]) -> tuple[SignedRequest, ...]:
    """The signed requests in the file ``upload.json``, one for each piece; none if they are missing or of others."""
    try:
        found = LayerUpload.model_validate(upload)
    except ValidationError:
        return ()
    if (found.digest, found.size_bytes) != (layer.digest, layer.size_bytes) or layer.parts is None:
        return ()
    if not layer.parts:
        return (found.request,) if found.request is not None else ()
    wanted = [(part.digest, part.size_bytes) for part in layer.parts]
    if [(part.digest, part.size_bytes) for part in found.parts] != wanted:
        return ()
    return tuple(part.request for part in found.parts)


async def send_layer(
    layer: Piece | MadeLayer,
    request: SignedRequest,
    ca_file: str | None,
    progress: Callable[[int], None],
    stall_s: float = STALL_S,
) -> bool:
    """Stores the layer; False if an object is there already. ``ca_file``: authorities of an https endpoint, as PEM.

    Raises AccessDenied (the request is too old, or its credentials are refused), NoRoom, RepositoryMisconfigured or
    RepositoryUnreachable.
    """
    status, body, headers = await _send(layer, request, ca_file, progress, stall_s, {})
    if status == 400 and _wants_md5(body):
        md5 = base64.b64encode(await asyncio.to_thread(_md5, layer)).decode()
        status, body, headers = await _send(layer, request, ca_file, lambda size: None, stall_s, {"content-md5": md5})
    return _is_new(request, read_answer(status, headers, body), layer.size_bytes)


async def _send(
    layer: Piece | MadeLayer,
    request: SignedRequest,
    ca_file: str | None,
    progress: Callable[[int], None],
    stall_s: float,
    more: Mapping[str, str],
) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, begin of the body, and headers of the answer. ``more``: headers that are not signed."""
    is_conditional_put = is_conditional(request.authorization)
    signed = put_headers(
        layer.digest, layer.size_bytes, request.time, token=request.security_token, conditional=is_conditional_put
    )
    headers = {**signed, **more, "authorization": request.authorization}
    origin = str(URL(request.url, encoded=True).origin())
    tls = tls_context(ca_file=ca_file) if origin.startswith("https://") else True
    proxy = proxy_for(origin)
    try:
        async with _Stall(stall_s) as stall, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as session:
            put = session.put(
                URL(request.url, encoded=True),
                headers=headers,
                data=_pieces(layer, progress, stall),
                # A refusal arrives before the content is sent.
                expect100=layer.size_bytes > PIECE_BYTES,
                ssl=tls,
                proxy=proxy.geturl() if proxy is not None else None,
                allow_redirects=False,
                skip_auto_headers=("content-type", "accept-encoding"),
            )
            async with put as answer:
                body = await answer.content.read(ERROR_BYTES)
    except aiohttp.ClientHttpProxyError as exc:
        return exc.status, b"", {}
    except (aiohttp.ClientError, OSError) as exc:
        certificate = verification_error(exc)
        if certificate is not None:
            raise refused_certificate(_where(request), certificate) from exc
        cause = "no progress" if isinstance(exc, TimeoutError) else str(exc) or type(exc).__name__
        raise RepositoryUnreachable(f"{_where(request)}: {cause}; it is tried again") from exc
    return answer.status, body, answer.headers


def _wants_md5(body: bytes) -> bool:
    """Whether the answer asks for the header Content-MD5, as for a bucket whose objects have a retention."""
    return b"content-md5" in body.lower() or b"<Code>MissingContentMD5</Code>" in body


def _md5(layer: Piece | MadeLayer) -> bytes:
    """Blocks while it reads the file."""
    found, left_bytes = hashlib.md5(usedforsecurity=False), layer.size_bytes
    with layer.path.open("rb") as file:
        file.seek(layer.offset_bytes if isinstance(layer, Piece) else 0)
        while piece := file.read(min(PIECE_BYTES, left_bytes)):
            left_bytes -= len(piece)
            found.update(piece)
    return found.digest()


def _is_new(request: SignedRequest, answer: S3Answer, size_bytes: int) -> bool:
    if answer.status in (200, 201, 204):
        return True
    if answer.status == 412:
        return False
    found = misconfiguration(answer, _where(request), _region_of(request), size_bytes)
    # A request of another time is signed anew like one whose credentials were replaced.
    if found is not None and answer.code != "RequestTimeTooSkewed":
        raise found
    if answer.status in (401, 403):
        raise AccessDenied(
            f"{_where(request)}: {answer.name}; the operator signs the upload again within minutes; its "
            "writerSecretRef must allow PutObject on layers/*, and its clock must be right"
        )
    if answer.status == 507 or answer.code in _FULL:
        raise NoRoom(f"{_where(request)}: {answer.name}; free space there")
    raise RepositoryUnreachable(f"{_where(request)} answers {answer.name} ({answer.status}); it is tried again")


def _region_of(request: SignedRequest) -> str:
    """The region that the request was signed for: ``Credential=KEY/DATE/REGION/s3/aws4_request``."""
    scope = request.authorization.partition("Credential=")[2].split(",", 1)[0].split("/")
    return scope[-3] if len(scope) >= 4 else "of the request"


def _where(request: SignedRequest) -> str:
    """Server and bucket, or what names it: the URL's query and key stay out of messages."""
    return str(URL(request.url, encoded=True).origin())


async def _pieces(layer: Piece | MadeLayer, progress: Callable[[int], None], stall: _Stall) -> AsyncIterator[bytes]:
    left_bytes = layer.size_bytes
    with layer.path.open("rb") as file:
        file.seek(layer.offset_bytes if isinstance(layer, Piece) else 0)
        while piece := await asyncio.to_thread(file.read, min(PIECE_BYTES, left_bytes)):
            left_bytes -= len(piece)
            stall.progress()
            yield piece
            progress(len(piece))
    stall.progress()


class _Stall:
    """A time limit that begins again with each progress. Raises TimeoutError."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._timeout = asyncio.timeout(limit_s)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._timeout.__aexit__(*error)

    def progress(self) -> None:
        """Begin again."""
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._limit_s)
