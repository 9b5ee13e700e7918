"""Parts of a VMImageNode: its layer, where an import reads from, facts about the guest, and its origin."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kigi.api.base import DigestText, Model, ObjectName, ObjectRef, RepositoryRef, Rule, planned
from kigi.domain.layers import IMAGE_MEDIA_TYPE

TIB = 2**40
CHECKSUM = r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"
MEDIA_TYPE = r"^[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*$"
ARCHITECTURE = r"^[a-z0-9][a-z0-9._-]*$"


def exactly_one(*fields: str) -> str:
    """CEL: the object has exactly one of the fields."""
    return "[" + ", ".join(f"has(self.{name})" for name in fields) + "].exists_one(x, x)"


class ChunkList(Model):
    """List of a layer's chunks, by which parts of the file can be checked before the whole is there."""

    digest: DigestText = Field(description="SHA-256 of the list of the chunks' digests.")
    chunk_size_bytes: int = Field(ge=65536, le=2**30, description="Size of each chunk in bytes; the last may be less.")


class LayerDescriptor(Model):
    """A differential qcow2 file in a repository."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.mediaType) || self.mediaType == '{IMAGE_MEDIA_TYPE}'",
            f"layer.mediaType: this version of Kigi reads only {IMAGE_MEDIA_TYPE}; omit mediaType",
            ".mediaType",
        ),
        Rule(
            "!has(oldSelf.chunks) || (has(self.chunks) && self.chunks == oldSelf.chunks)",
            "layer.chunks is immutable once it is set; publish a new VMImageNode instead",
        ),
        planned("chunks"),
    )

    digest: DigestText = Field(description="SHA-256 of the file as stored: 'sha256:' and 64 lower-case hex digits.")
    size_bytes: int = Field(gt=0, le=64 * TIB, description="Size of the file in bytes, not of the virtual disk.")
    virtual_size_bytes: int = Field(
        gt=0,
        le=64 * TIB,
        multiple_of=512,
        description="Size of the virtual disk in bytes, at least that of the parent.",
    )
    media_type: str | None = Field(
        default=None,
        max_length=255,
        pattern=MEDIA_TYPE,
        description=f"Format of the file; omitted: {IMAGE_MEDIA_TYPE}, the only one of this version.",
    )
    chunks: ChunkList | None = Field(
        default=None, description="List of the file's chunks; set once. Reserved for a later version."
    )


class HttpSource(Model):
    """A disk image on a web server."""

    url: str = Field(max_length=2048, pattern=r"^https?://", description="Address of the file, http or https.")
    checksum: str | None = Field(
        default=None,
        max_length=135,
        pattern=CHECKSUM,
        description="'sha256:' or 'sha512:' and hex digits of the file; omitted: not checked.",
    )
    secret_ref: ObjectRef | None = Field(
        default=None, description="Secret of this namespace with user and password; omitted: no authentication."
    )


class RegistrySource(Model):
    """A containerDisk in a container registry."""

    image: str = Field(
        min_length=1, max_length=1024, description="Image with its digest, such as quay.io/x/disk@sha256:..."
    )
    secret_ref: ObjectRef | None = Field(
        default=None, description="Pull Secret of this namespace; omitted: no authentication."
    )


class S3Source(Model):
    """A disk image in the bucket of a LayerRepository."""

    repository_ref: RepositoryRef = Field(description="LayerRepository, cluster-scoped, whose bucket has the file.")
    key: str = Field(min_length=1, max_length=1024, description="Key of the object in the bucket.")
    checksum: str | None = Field(
        default=None,
        max_length=135,
        pattern=CHECKSUM,
        description="'sha256:' or 'sha512:' and hex digits of the file; omitted: not checked.",
    )


class ImageSource(Model):
    """Where Kigi imports an image from: exactly one of the fields. Immutable."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            exactly_one("http", "registry", "s3", "persistentVolumeClaimRef", "volumeSnapshotRef"),
            "source: give exactly one of http, registry, s3, persistentVolumeClaimRef and volumeSnapshotRef",
        ),
        Rule("self == oldSelf", "source is immutable; create a new VMImageNode instead"),
    )

    http: HttpSource | None = Field(default=None, description="A file on a web server.")
    registry: RegistrySource | None = Field(default=None, description="A containerDisk in a registry.")
    s3: S3Source | None = Field(default=None, description="A file in the bucket of a LayerRepository.")
    persistent_volume_claim_ref: ObjectRef | None = Field(
        default=None, description="A PersistentVolumeClaim of this namespace."
    )
    volume_snapshot_ref: ObjectRef | None = Field(default=None, description="A VolumeSnapshot of this namespace.")


class Guest(Model):
    """Facts about the installed guest; a child inherits architecture and firmware from its parent image."""

    os: str | None = Field(
        default=None, max_length=253, description="Operating system, free text, such as 'debian-12'."
    )
    architecture: str | None = Field(
        default=None,
        max_length=63,
        pattern=ARCHITECTURE,
        description="Processor architecture as in the label kubernetes.io/arch of nodes, such as amd64 or arm64: VMs "
        "run only on such nodes. Omitted: that of the parent image, or any. Immutable once it is set.",
    )
    firmware: Literal["BIOS", "EFI"] | None = Field(
        default=None,
        description="Firmware that the guest boots with; a machine whose hardware has the other one is refused. "
        "Omitted: that of the parent image, or not checked; further values may be added, treat an unknown one as "
        "omitted.",
    )


class CapturedOrigin(Model):
    """Origin of an object that a capture made."""

    instance_name: str = Field(max_length=63, description="Instance that was captured: <deployment>-<instance>.")
    request_name: ObjectName = Field(description="SystemCapture that made the object.")


class FlattenedOrigin(Model):
    """Origin of an image that ``kigi flatten`` made."""

    image_name: ObjectName = Field(description="Image with the same disk content.")
    digest: DigestText = Field(description="Digest of that image's layer.")


class Provenance(Model):
    """Origin of an object: exactly one of the fields. Further fields may be added."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            exactly_one("captured", "flattened"),
            "provenance: give exactly one of captured and flattened, or omit provenance",
        ),
    )

    captured: CapturedOrigin | None = Field(default=None, description="A SystemCapture made the object.")
    flattened: FlattenedOrigin | None = Field(default=None, description="kigi flatten made the image.")
