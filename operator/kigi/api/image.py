"""VMImageNode: one node of the image tree."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import Field

from kigi.api.base import (
    AGE_COLUMN,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    Metadata,
    Model,
    RepositoryRef,
    Rule,
    Status,
    TreeRef,
    planned,
)
from kigi.api.image_parts import (
    Guest,
    ImageSource,
    LayerDescriptor,
    Provenance,
)
from kigi.domain import kinds
from kigi.domain.layers import IMAGE_MEDIA_TYPE, MAX_DEPTH

_SAME_LAYER = (
    "!has(oldSelf.layer) || (has(self.layer)"
    " && self.layer.digest == oldSelf.layer.digest"
    " && self.layer.sizeBytes == oldSelf.layer.sizeBytes"
    " && self.layer.virtualSizeBytes == oldSelf.layer.virtualSizeBytes"
    " && has(self.layer.mediaType) == has(oldSelf.layer.mediaType)"
    " && (!has(self.layer.mediaType) || self.layer.mediaType == oldSelf.layer.mediaType))"
)


class VMImageNodeSpec(Model):
    """Identity of an image. ``repositoryRef``, ``guest.os``, ``guest.firmware`` and ``description`` may change."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.parentRef) == has(oldSelf.parentRef)"
            " && (!has(self.parentRef) || self.parentRef == oldSelf.parentRef)",
            "spec.parentRef is immutable; publish a new VMImageNode instead",
        ),
        Rule(
            "has(self.layer) || has(self.source)",
            "spec: an image has a layer, a source, or both; give spec.layer, which kigi publish writes",
        ),
        Rule(_SAME_LAYER, "spec.layer is immutable; publish a new VMImageNode instead"),
        Rule(
            "!has(oldSelf.guest) || !has(oldSelf.guest.architecture) || (has(self.guest)"
            " && has(self.guest.architecture) && self.guest.architecture == oldSelf.guest.architecture)",
            "spec.guest.architecture is immutable once it is set; publish a new VMImageNode instead",
        ),
        planned("source"),
    )

    parent_ref: TreeRef | None = Field(
        default=None, description="Image that this layer is based on; omitted: a root image. Immutable."
    )
    repository_ref: RepositoryRef | None = Field(
        default=None,
        description="Cluster-scoped repository that stores the layer; omitted: the default repository. It may change "
        "when the layer moves: a place is no part of the identity.",
    )
    layer: LayerDescriptor | None = Field(
        default=None, description="The layer file of this image. Immutable. Required until images can be imported."
    )
    source: ImageSource | None = Field(
        default=None,
        description="Where Kigi imports the image from, which then gives the layer. Reserved for a later version.",
    )
    guest: Guest | None = Field(default=None, description="Facts about the installed guest.")
    description: str | None = Field(default=None, max_length=4096, description="Free text.")
    provenance: Provenance | None = Field(
        default=None, description="Origin of the image, for people; Kigi decides nothing by it."
    )


class LayerStatus(Model):
    """The layer, from the spec or from an import, and what is known about the stored file."""

    digest: str = Field(max_length=71, description="SHA-256 of the file.")
    size_bytes: int = Field(description="Size of the file in bytes.")
    virtual_size_bytes: int = Field(description="Size of the virtual disk in bytes.")
    media_type: str = Field(
        max_length=255, description=f"Format of the file; {IMAGE_MEDIA_TYPE} unless the spec names another."
    )
    verified: bool = Field(description="Whether a node has read the whole file and found this digest.")
    chunks_verified: bool | None = Field(
        default=None, description="Whether the list of chunks was compared with the whole file; absent without chunks."
    )


class ImportStatus(Model):
    """Progress of an import from ``spec.source``."""

    start_time: datetime | None = Field(default=None, description="Time when the import began.")
    received_bytes: int | None = Field(default=None, description="Bytes received so far.")
    total_bytes: int | None = Field(default=None, description="Bytes of the source; absent while unknown.")


class VMImageNodeStatus(Status):
    """Observed state of an image; the operator writes it."""

    layer: LayerStatus | None = Field(default=None, description="The layer of this image; set once, never replaced.")
    repository_name: str | None = Field(
        default=None, max_length=63, description="Repository that spec.repositoryRef, or its absence, stands for."
    )
    import_: ImportStatus | None = Field(
        default=None, alias="import", description="Progress of an import; absent without spec.source."
    )
    depth: int | None = Field(
        default=None,
        description="Number of layers from the root to this image, both included.",
        json_schema_extra={},
    )
    chain: list[Annotated[str, Field(max_length=71)]] | None = Field(
        default=None,
        max_length=MAX_DEPTH,
        description="Digests of the layers from the root to this image.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    chain_size_bytes: int | None = Field(default=None, description="Sum of the layers' file sizes in bytes.")
    child_count: int | None = Field(default=None, description="Number of images whose parent is this one.")
    cached_node_count: int | None = Field(default=None, description="Number of nodes that hold the whole chain.")


class VMImageNode(Model):
    """One node of the image tree: a differential qcow2 layer and its parent."""

    KIND: ClassVar[str] = kinds.IMAGE
    PLURAL: ClassVar[str] = "vmimagenodes"
    SHORT: ClassVar[tuple[str, ...]] = ("kimg",)
    SELECTABLE: ClassVar[tuple[str, ...]] = (".spec.parentRef.name",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.spec.parentRef) || has(self.spec.parentRef.namespace)"
            " || self.spec.parentRef.name != self.metadata.name",
            "spec.parentRef.name: an image cannot be its own parent; use another image, or omit parentRef",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Parent", "string", ".spec.parentRef.name", "Image that it is based on."),
        Column("Depth", "integer", ".status.depth", "Number of layers from the root."),
        Column("Cached", "integer", ".status.cachedNodeCount", "Number of nodes that hold the whole chain."),
        AGE_COLUMN,
        MESSAGE_COLUMN,
        Column("Size", "integer", ".status.layer.sizeBytes", "Size of the layer's file in bytes.", 1),
        Column("Chain", "integer", ".status.chainSizeBytes", "Sum of the chain's file sizes in bytes.", 1),
        Column("Virtual", "integer", ".status.layer.virtualSizeBytes", "Size of the virtual disk in bytes.", 1),
        Column("Children", "integer", ".status.childCount", "Number of images that are based on it.", 1),
        Column("OS", "string", ".spec.guest.os", "Operating system.", 1),
        Column("Repository", "string", ".status.repositoryName", "Repository that stores the layer.", 1),
        Column("Digest", "string", ".status.layer.digest", "SHA-256 of the layer's file.", 1),
    )

    metadata: Metadata
    spec: VMImageNodeSpec
    status: VMImageNodeStatus = Field(default_factory=VMImageNodeStatus)
