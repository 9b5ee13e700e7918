"""LayerRepository: one bucket that stores layers, and the namespaces that may use it. Administrators write it."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from kigi.api.base import (
    AGE_COLUMN,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    Metadata,
    Model,
    ObjectRef,
    Rule,
    Status,
    planned,
)
from kigi.api.selectors import LabelSelector
from kigi.domain import kinds
from kigi.domain.layers import MAX_DEPTH, MAX_FILE_BYTES

DEFAULT_REGION = "us-east-1"
ENDPOINT_PATTERN = r"^https?://[^/\s@?#]+/?$"
BUCKET_PATTERN = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"


def _endpoint(url: str) -> str:
    """Refuses what no program can connect to, such as ``http://[`` and a port of 99999, besides the wrong form."""
    try:
        usable = re.fullmatch(ENDPOINT_PATTERN, url) is not None and urlsplit(url).port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("is no URL with a scheme, a host and perhaps a port of 1 to 65535")
    return url


Endpoint = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_endpoint)]
"""Its rules in the schema are those of ``S3Location``, which have sentences instead of a pattern."""
Bucket = Annotated[str, Field(min_length=3, max_length=63, pattern=BUCKET_PATTERN)]
Region = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9-]+$")]
Addressing = Literal["Path", "VirtualHost"]


class S3Location(Model):
    """A bucket of an S3 server."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.endpoint.matches('^https?://')",
            "endpoint: it does not begin with http:// or https://; write https:// before the host",
            ".endpoint",
        ),
        Rule(
            "self.endpoint.matches('^([a-zA-Z0-9+.-]*://)?[^/@?#\\\\s]+/?$')",
            "endpoint: write scheme, host and port alone, such as https://s3.example:9000; the bucket has its own "
            "field, credentials are in Secrets, and a server below a path is not supported",
            ".endpoint",
        ),
        Rule(
            "!has(self.caBundleRef) || self.endpoint.startsWith('https://')",
            "caBundleRef: an http endpoint has no certificate; use https, or delete it",
            ".caBundleRef",
        ),
    )

    endpoint: Endpoint = Field(description="URL of the S3 server without bucket and path, such as https://s3.example.")
    bucket: Bucket = Field(description="Name of the bucket.")
    region: Region | None = Field(
        default=None,
        description="Region that requests are signed for; omitted: AWS_REGION of Kigi's pods, else "
        f"{DEFAULT_REGION}. If the server names another one in its answer, Kigi uses that.",
    )
    addressing: Addressing | None = Field(
        default=None,
        description="Where requests name the bucket: Path or VirtualHost (the host name); omitted: Path; further "
        "values may be added: treat an unknown one as unusable.",
    )
    ca_bundle_ref: ObjectRef | None = Field(
        default=None,
        description="ConfigMap in Kigi's namespace whose key ca.crt has the authorities of an https endpoint as PEM; "
        "omitted: those of Kigi's image.",
    )


class RepositoryCredentials(Model):
    """Secrets in Kigi's namespace with the keys accessKeyId, secretAccessKey and, for temporary ones, sessionToken."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.writerSecretRef) || !has(self.readerSecretRef) || "
            "self.writerSecretRef.name != self.readerSecretRef.name",
            "writerSecretRef: every node gets the reader's Secret, so the writer needs another one",
            ".writerSecretRef",
        ),
        planned("grants"),
        planned("grantSigningSecretRef"),
    )

    reader_secret_ref: ObjectRef | None = Field(
        default=None,
        description="Secret, in Kigi's namespace, that the nodes' daemons read layers with. It should permit "
        "GetObject on layers/* and ListBucket, and nothing else. Omitted: daemons and operator use the credentials of "
        "their pods: a web identity, AWS_* variables, or those of the machine.",
    )
    writer_secret_ref: ObjectRef | None = Field(
        default=None,
        description="Secret, in Kigi's namespace, with which the operator signs the upload of each captured layer: "
        "PutObject on layers/*, and GetObject there for layers that are stored in parts; nodes do not get it. "
        "Omitted: captures cannot use this repository, or, if readerSecretRef is omitted too, the operator signs with "
        "the credentials of its pod.",
    )
    grants: Literal["Presigned", "Secret"] | None = Field(
        default=None,
        description="Reserved: how nodes get access to layers; further values may be added: treat an unknown one as "
        "unusable.",
    )
    grant_signing_secret_ref: ObjectRef | None = Field(
        default=None, description="Reserved: Secret that signs the nodes' access to single layers."
    )


class RepositoryEncryption(Model):
    """Keys of encrypted layers."""

    key_secret_ref: ObjectRef = Field(description="Reserved: Secret in Kigi's namespace with the keys.")


class RepositoryTransport(Model):
    """How layers travel from the repository to nodes."""

    encodings: list[Annotated[str, Field(min_length=1, max_length=63)]] | None = Field(
        default=None,
        max_length=16,
        description="Reserved: encodings to use, the preferred first.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    min_plain_bytes_per_second: int | None = Field(
        default=None, ge=0, le=2**53 - 1, description="Reserved: rate from which layers travel without an encoding."
    )


class RepositoryLimits(Model):
    """Limits of the use of a repository."""

    max_depth: int | None = Field(
        default=None,
        ge=1,
        le=MAX_DEPTH,
        description="Longest chain, in layers, that may be published; 'kigi flatten' shortens one. "
        f"Omitted: {MAX_DEPTH}.",
        json_schema_extra={"format": "int32"},
    )
    connections_per_node: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Connections that one node's daemon opens at the same time; omitted: KIGI_CONNECTIONS.",
        json_schema_extra={"format": "int32"},
    )
    max_put_bytes: int | None = Field(
        default=None,
        ge=5 * 2**20,
        le=MAX_FILE_BYTES,
        description="Largest object, in bytes, that the server takes in one request; a larger captured layer is stored "
        "in at most 64 parts, which the operator joins. 'kigi publish' sends smaller parts below 16 MiB. Omitted: "
        "5368709120 (5 GiB), Amazon's limit.",
    )


class LayerRepositorySpec(Model):
    """A place of layers, and who may use it."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        planned("encryption"),
        planned("transport"),
        Rule(
            "!has(self.defaultFor) || self.defaultFor != 'AllNamespaces' || ("
            "(!has(self.namespaceSelector.matchLabels) || self.namespaceSelector.matchLabels.size() == 0) && "
            "(!has(self.namespaceSelector.matchExpressions) || self.namespaceSelector.matchExpressions.size() == 0))",
            "AllNamespaces needs namespaceSelector: {}, which selects every namespace; or use SelectedNamespaces",
            ".defaultFor",
        ),
    )

    s3: S3Location = Field(description="Bucket that stores the layers.")
    credentials: RepositoryCredentials = Field(description="Access to the bucket; {}: the credentials of Kigi's pods.")
    encryption: RepositoryEncryption | None = Field(default=None, description="Reserved: keys of encrypted layers.")
    transport: RepositoryTransport | None = Field(default=None, description="Reserved: encodings of transfers.")
    limits: RepositoryLimits | None = Field(default=None, description="Limits; omitted: those of its fields.")
    namespace_selector: LabelSelector = Field(
        description="Namespaces, by their labels, whose images and captures may use this repository; {}: all."
    )
    default_for: Literal["None", "SelectedNamespaces", "AllNamespaces"] | None = Field(
        default=None,
        description="Namespaces in which images and captures without repositoryRef use this repository: "
        "SelectedNamespaces (of namespaceSelector), AllNamespaces (those for which no other repository is it), None. "
        "Omitted: None; further values may be added: treat an unknown one as None.",
    )


class LayerRepositoryStatus(Status):
    """Observed state of a repository, written by the operator."""

    reachable: bool | None = Field(
        default=None, description="Whether the operator could read at its last attempt, with the reader's Secret."
    )
    conditional_writes: str | None = Field(
        default=None,
        max_length=32,
        description="Whether the server refuses to overwrite a stored layer: Supported, Unsupported (it ignores "
        "If-None-Match), Refused (it answers 501 to it) or Unknown (no writer, or not tested yet); an open set.",
    )


class LayerRepository(Model):
    """A bucket of an S3 server that stores layers, for the namespaces that it selects."""

    KIND: ClassVar[str] = kinds.REPOSITORY
    PLURAL: ClassVar[str] = "layerrepositories"
    SHORT: ClassVar[tuple[str, ...]] = ("krepo",)
    SCOPE: ClassVar[str] = "Cluster"
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
            "metadata.name: use at most 63 lower-case letters, digits and '-'",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Endpoint", "string", ".spec.s3.endpoint", "URL of the S3 server."),
        Column("Bucket", "string", ".spec.s3.bucket", "Name of the bucket."),
        Column("Default", "string", ".spec.defaultFor", "Namespaces that use it by default."),
        AGE_COLUMN,
        Column("Writes", "string", ".status.conditionalWrites", "Whether the server refuses to overwrite layers.", 1),
        MESSAGE_COLUMN._replace(priority=1),
    )

    metadata: Metadata
    spec: LayerRepositorySpec
    status: LayerRepositoryStatus = Field(default_factory=LayerRepositoryStatus)
