"""VMImageNode: one node of the image tree."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from kigi.api.base import (
    AGE_COLUMN,
    DNS_LABEL,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    DigestText,
    Metadata,
    Model,
    NameRef,
    Rule,
    Status,
)
from kigi.domain import kinds
from kigi.domain.layers import DEFAULT_REPOSITORY

TIB = 2**40


class LayerRef(Model):
    """A differential qcow2 file in a repository."""

    digest: DigestText = Field(description="SHA-256 of the file as stored: 'sha256:' and 64 lower-case hex digits.")
    size_bytes: int = Field(gt=0, le=64 * TIB, description="Size of the file in bytes, not of the virtual disk.")
    virtual_size_bytes: int = Field(
        gt=0,
        le=64 * TIB,
        multiple_of=512,
        description="Size of the virtual disk in bytes, at least that of the parent.",
    )
    repository: str = Field(
        default=DEFAULT_REPOSITORY,
        max_length=63,
        pattern=DNS_LABEL,
        description="Repository that stores the file, by its name in the configuration of operator and daemons.",
    )


class VMImageNodeSpec(Model):
    """Identity of an image; all fields except description and os are immutable."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.parent) == has(oldSelf.parent) && (!has(self.parent) || self.parent == oldSelf.parent)",
            "spec.parent is immutable; publish a new VMImageNode instead",
        ),
        Rule("self.layer == oldSelf.layer", "spec.layer is immutable; publish a new VMImageNode instead"),
    )

    parent: NameRef | None = Field(
        default=None, description="Image that this layer is based on; omitted: a root image."
    )
    layer: LayerRef = Field(description="The layer file of this image.")
    description: str | None = Field(default=None, max_length=4096, description="Free text.")
    os: str | None = Field(
        default=None, max_length=253, description="Operating system, free text, such as 'debian-12'."
    )


class VMImageNodeStatus(Status):
    """Observed state of an image."""

    depth: int | None = Field(default=None, description="Number of layers from the root to this image, both included.")
    chain: list[str] | None = Field(default=None, description="Digests of the layers from the root to this image.")
    chain_size_bytes: int | None = Field(default=None, description="Sum of the layers' file sizes in bytes.")
    children: int | None = Field(default=None, description="Number of images whose parent is this one.")
    cached_on: int | None = Field(default=None, description="Number of nodes that hold the whole chain.")


class VMImageNode(Model):
    """One node of the image tree: a differential qcow2 layer and its parent."""

    KIND: ClassVar[str] = kinds.IMAGE
    PLURAL: ClassVar[str] = "vmimagenodes"
    SHORT: ClassVar[tuple[str, ...]] = ("kimg",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.spec.parent) || self.spec.parent.name != self.metadata.name",
            "spec.parent.name: an image cannot be its own parent; use another image, or omit parent",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Parent", "string", ".spec.parent.name", "Image that it is based on."),
        Column("Depth", "integer", ".status.depth", "Number of layers from the root."),
        Column("Size", "integer", ".spec.layer.sizeBytes", "Size of the layer's file in bytes."),
        Column("Cached", "integer", ".status.cachedOn", "Number of nodes that hold the whole chain."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Chain", "integer", ".status.chainSizeBytes", "Sum of the chain's file sizes in bytes.", 1),
        Column("Virtual", "integer", ".spec.layer.virtualSizeBytes", "Size of the virtual disk in bytes.", 1),
        Column("Children", "integer", ".status.children", "Number of images that are based on it.", 1),
        Column("OS", "string", ".spec.os", "Operating system.", 1),
        Column("Digest", "string", ".spec.layer.digest", "SHA-256 of the layer's file.", 1),
    )

    metadata: Metadata
    spec: VMImageNodeSpec
    status: VMImageNodeStatus = Field(default_factory=VMImageNodeStatus)
