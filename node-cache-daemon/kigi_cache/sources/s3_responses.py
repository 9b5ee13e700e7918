"""What a repository's HTTP response to a range request means; pure."""

from __future__ import annotations

import http.client
import re

from kigi.api.repositories import Repository
from kigi.domain.layers import Layer
from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerCorrupt,
    LayerNotInRepository,
    RepositoryUnknown,
    RepositoryUnreachable,
)

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_CODE = re.compile(rb"<Code>(\w{1,64})</Code>")


def check_range(status: int, content_range: str, layer: Layer, start: int) -> None:
    """Raise LayerCorrupt unless a successful response has the requested bytes, of an object of the declared size.

    Raises RemoteDisconnected for a head without a range: a connection that breaks off in the head looks like that.
    A server that ignores ranges sends the whole object with status 200. That is accepted from its first byte on; its
    size is then checked when the layer is committed.
    """
    match = _CONTENT_RANGE.fullmatch(content_range)
    if status == 206 and match and int(match.group(1)) == start and int(match.group(2)) == layer.size_bytes:
        return
    if status == 200 and start == 0:
        return
    if status == 206 and not content_range:
        raise http.client.RemoteDisconnected("the response's head broke off")
    if match and int(match.group(2)) != layer.size_bytes:
        cause = f"the repository's object has {match.group(2)} bytes instead of {layer.size_bytes}"
    else:
        wanted = f"bytes {start} to {layer.size_bytes - 1}"
        cause = f"the repository answers a request for {wanted} with {content_range or 'all'}"
    raise LayerCorrupt(f"layer {layer.digest}: {cause}")


def error_code(status: int, body: bytes) -> str:
    """The code of an unsuccessful response, such as ``NoSuchKey``; its status if ``body`` has none."""
    code = _CODE.search(body)
    return code.group(1).decode() if code else str(status)


def refusal(status: int, body: bytes, repository: Repository, layer: Layer) -> KigiError:
    """The error that an unsuccessful response means; ``body`` is its begin, an S3 error in XML or anything else."""
    name = error_code(status, body)
    where = f"{repository.endpoint}: bucket {repository.bucket}"
    if name == "NoSuchBucket":
        return RepositoryUnknown(f"{where} does not exist; correct the LayerRepository or create it")
    if status == 404:
        return LayerNotInRepository(f"{where} has no layer {layer.digest}; publish it with 'kigi publish'")
    if status in (401, 403):
        return AccessDenied(f"{where}: {name}; the daemon's credentials must allow GetObject on layers/")
    if status == 416:
        return LayerCorrupt(f"layer {layer.digest}: the repository's object is shorter than {layer.size_bytes} bytes")
    return RepositoryUnreachable(f"{where} answers {name}; it is tried again")
