"""How a node stores a captured layer: requests that the operator has signed; part of a NodeCache."""

from __future__ import annotations

from pydantic import Field

from kigi.api.base import DigestText, Model
from kigi.domain.layer_parts import MAX_PARTS
from kigi.domain.layers import MAX_FILE_BYTES

MAX_MESSAGE = 1024
MAX_TOKEN_CHARACTERS = 4096
"""Longest session token of temporary credentials; those of Amazon have less than half of it."""


class SignedRequest(Model):
    """A PUT request that the operator has signed."""

    url: str = Field(min_length=1, max_length=1024, description="URL of the object.")
    time: str = Field(
        max_length=16,
        pattern=r"^[0-9]{8}T[0-9]{6}Z$",
        description="Header x-amz-date: when it was signed. The server refuses it 15 minutes before and after.",
    )
    authorization: str = Field(min_length=1, max_length=1024, description="Header Authorization.")
    security_token: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TOKEN_CHARACTERS,
        description="Header x-amz-security-token: the token of temporary credentials, which signs nothing by itself; "
        "omitted: the credentials are lasting.",
    )


class PartUpload(Model):
    """Storing a part of a layer, under its own digest."""

    digest: DigestText = Field(description="SHA-256 of the part: 'sha256:' and 64 lower-case hex digits.")
    size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES, description="Size of the part in bytes.")
    request: SignedRequest = Field(description="Request that stores this content and no other, if it is absent.")


class LayerUpload(Model):
    """Storing the layer of one copy. The first layer that the daemon reports of a copy is the only one."""

    digest: DigestText = Field(description="SHA-256 of the file: 'sha256:' and 64 lower-case hex digits.")
    size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES, description="Size of the file in bytes.")
    request: SignedRequest | None = Field(
        default=None,
        description="Request that stores this content and no other, if it is absent; renewed while the daemon waits. "
        "Omitted: the layer is stored, is stored in parts, or must not be.",
    )
    parts_digest: DigestText | None = Field(
        default=None,
        description="SHA-256 of the list of the parts' digests; omitted: no parts were reported. The first list is the "
        "only one, unless the repository's limit changes.",
    )
    parts_of_bytes: int | None = Field(
        default=None,
        gt=0,
        le=MAX_FILE_BYTES,
        description="The repository's limits.maxPutBytes, in bytes, when the list of parts was accepted; omitted: no "
        "parts were reported.",
    )
    parts: list[PartUpload] = Field(
        default_factory=list,
        max_length=MAX_PARTS,
        description="Parts to store, in their order, of a layer that is larger than one request may be. The operator "
        "joins them when the daemon reports that all bytes are uploaded.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    reason: str | None = Field(
        default=None, max_length=63, description="Why there is no request, as one CamelCase word; omitted: none is due."
    )
    message: str | None = Field(
        default=None,
        max_length=MAX_MESSAGE,
        description="Explanation of the reason, with a remedy; omitted: none is due.",
    )
