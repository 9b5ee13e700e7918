"""What a repository's HTTP response to a range request means; pure."""

from __future__ import annotations

import http.client
import re

from kigi.api.repositories import Repository
from kigi.domain.layers import Layer
from kigi.domain.s3_answers import S3Answer, misconfiguration
from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerCorrupt,
    LayerNotInRepository,
    RepositoryMisconfigured,
    RepositoryUnknown,
    RepositoryUnreachable,
)

_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


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


def refusal(answer: S3Answer, repository: Repository, layer: Layer, region: str) -> KigiError:
    """The error that an unsuccessful response means. ``region``: the one that the request was signed for."""
    name = answer.name
    where = f"{repository.endpoint}: bucket {repository.bucket}"
    found = misconfiguration(answer, where, region)
    if found is not None:
        return found
    if name == "NoSuchBucket":
        return RepositoryUnknown(f"{where} does not exist; correct the LayerRepository or create it")
    if answer.status == 404:
        return LayerNotInRepository(f"{where} has no layer {layer.digest}; publish it with 'kigi publish'")
    if answer.is_right_missing:
        return AccessDenied(
            f"{where}: {name}; the daemon's credentials lack GetObject on layers/*, or they lack ListBucket, and layer "
            f"{layer.digest} is not stored"
        )
    if answer.status in (401, 403):
        return AccessDenied(f"{where}: {name}; the daemon's credentials must allow GetObject on layers/")
    if answer.status == 416:
        return LayerCorrupt(f"layer {layer.digest}: the repository's object is shorter than {layer.size_bytes} bytes")
    return RepositoryUnreachable(f"{where} answers {name}; it is tried again")


def hidden_layer(repository: Repository, layer: Layer) -> LayerNotInRepository:
    """The error for a layer that is answered with 403, if the same credentials can read another object."""
    return LayerNotInRepository(
        f"{repository.endpoint}: bucket {repository.bucket} has no layer {layer.digest}; publish it with 'kigi publish'"
    )


def proxy_refusal(exc: Exception, repository: Repository, region: str) -> KigiError | None:
    """The error if a proxy has refused the tunnel: http.client has its status in the text of an OSError."""
    found = _TUNNEL.match(str(exc))
    if found is None:
        return None
    where, status = f"{repository.endpoint}: bucket {repository.bucket}", int(found[1])
    if status >= 500:
        return None  # the proxy does not reach the server, now
    return misconfiguration(S3Answer(status), where, region) or RepositoryMisconfigured(
        f"{where}: the proxy of HTTPS_PROXY refuses the connection ({status}); permit it there, or name the server in "
        "NO_PROXY"
    )
