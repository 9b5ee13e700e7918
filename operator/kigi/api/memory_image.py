"""VMMemoryImage: the memory of one machine of a state, from which it resumes. Reserved for a later version."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kigi.api.base import (
    AGE_COLUMN,
    MAP_BY_NAME,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    DigestText,
    MachineName,
    Metadata,
    Model,
    RepositoryRef,
    Rule,
    Status,
    TreeRef,
)
from kigi.api.image_parts import MEDIA_TYPE, TIB
from kigi.domain import kinds

MEMORY_MEDIA_TYPE = "application/vnd.kigi.memory.v1.mapped-ram+zstd"
Word = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Feature = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class MemoryLayer(Model):
    """A file with the memory and device state of a VM in a repository."""

    digest: DigestText = Field(description="SHA-256 of the file as stored: 'sha256:' and 64 lower-case hex digits.")
    size_bytes: int = Field(gt=0, le=64 * TIB, description="Size of the file in bytes.")
    memory_bytes: int = Field(gt=0, le=64 * TIB, description="Size of the guest's memory in bytes.")
    media_type: str | None = Field(
        default=None,
        max_length=255,
        pattern=MEDIA_TYPE,
        description=f"Format of the file; omitted: {MEMORY_MEDIA_TYPE}.",
    )


class MemoryEncryption(Model):
    """Encryption of the file: memory contains secrets."""

    key_name: Word = Field(description="Name of a key of the repository.")


class MemoryDisk(Model):
    """A disk that the memory belongs to."""

    name: MachineName = Field(description="Name of the disk; root: the root disk.")
    digest: DigestText = Field(description="Digest of the topmost layer of its chain.")


class Compatibility(Model):
    """What a node and its QEMU must be like to resume the memory; the capture writes it."""

    qemu_version: Word = Field(description="Version of the QEMU that wrote the memory.")
    machine_type: Word = Field(description="QEMU's machine type, such as pc-q35-rhel9.6.0.")
    cpu_model: Word = Field(description="Model of the virtual processors.")
    cpu_features: list[Feature] | None = Field(
        default=None,
        max_length=512,
        description="Features of the virtual processors beside their model's; omitted: none.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    device_hash: DigestText = Field(description="SHA-256 of the VM's devices in canonical form.")


class VMMemoryImageSpec(Model):
    """Identity of a memory image; immutable."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("self == oldSelf", "spec is immutable; create a new VMMemoryImage instead"),
    )

    parent_ref: TreeRef | None = Field(
        default=None,
        description="Memory image, in this namespace or one with a TreeGrant, that this one is a difference to; "
        "omitted: it is complete.",
    )
    repository_ref: RepositoryRef | None = Field(
        default=None, description="Cluster-scoped repository that stores the file; omitted: the default repository."
    )
    layer: MemoryLayer = Field(description="The file with the memory.")
    encryption: MemoryEncryption | None = Field(default=None, description="Encryption of the file; omitted: none.")
    machine: MachineName = Field(description="Machine of the state that the memory is of.")
    disks: list[MemoryDisk] = Field(
        min_length=1,
        max_length=9,
        description="Disks of the machine, the root disk among them: the memory fits these disks and no others.",
        json_schema_extra=MAP_BY_NAME,
    )
    compatibility: Compatibility = Field(description="What resuming requires of a node.")


class VMMemoryImageStatus(Status):
    """Observed state of a memory image; the operator writes it."""

    compatible_node_count: int | None = Field(default=None, description="Number of nodes that can resume the memory.")
    cached_node_count: int | None = Field(default=None, description="Number of nodes that hold the file.")


class VMMemoryImage(Model):
    """The memory of one machine of a state. Reserved for a later version of Kigi: the API server refuses objects."""

    KIND: ClassVar[str] = kinds.MEMORY_IMAGE
    PLURAL: ClassVar[str] = "vmmemoryimages"
    SHORT: ClassVar[tuple[str, ...]] = ("kmem",)
    SELECTABLE: ClassVar[tuple[str, ...]] = (".spec.parentRef.name",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "false",
            "VMMemoryImage: reserved for a later version of Kigi, which resumes machines from memory; do not create it",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Machine", "string", ".spec.machine", "Machine that the memory is of."),
        Column("Compatible", "integer", ".status.compatibleNodeCount", "Number of nodes that can resume it."),
        Column("Cached", "integer", ".status.cachedNodeCount", "Number of nodes that hold the file."),
        AGE_COLUMN,
        MESSAGE_COLUMN,
    )

    metadata: Metadata
    spec: VMMemoryImageSpec
    status: VMMemoryImageStatus = Field(default_factory=VMMemoryImageStatus)
