"""What a repository's HTTP response to a range request means; pure."""

from __future__ import annotations

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
_CODE = re.compile(rb"<Code>(\w+)</Code>")


def check_range(status: int, content_range: str, layer: Layer, start: int) -> None:
    """Raise LayerCorrupt unless a successful response has the requested bytes, of an object of the declared size.

    A server that ignores ranges sends the whole object with status 200. That is accepted from its first byte on; its
    size is then checked when the layer is committed.
    """
    match = _CONTENT_RANGE.fullmatch(content_range)
    if status == 206 and match and int(match.group(1)) == start and int(match.group(2)) == layer.size_bytes:
        return
    if status == 200 and start == 0:
        return
    found = match.group(2) if match else "another number of"
    raise LayerCorrupt(f"layer {layer.digest}: the repository's object has {found} bytes instead of {layer.size_bytes}")


def refusal(status: int, body: bytes, repository: Repository, layer: Layer) -> KigiError:
    """The error that an unsuccessful response means; ``body`` is its begin, an S3 error in XML or anything else."""
    code = _CODE.search(body)
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
