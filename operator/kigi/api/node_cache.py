"""NodeCache: wanted and held layers of one node. The operator writes spec, only the node's daemon writes status."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

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
    Rule,
    Status,
)
from kigi.domain import kinds
from kigi.domain.layers import DEFAULT_REPOSITORY

MAX_FILE_BYTES = 64 * 2**40
MAX_LAYERS = 2000
"""Layers of one node; with the daemon's status the object stays below etcd's 1.5 MiB."""
ATOMIC: dict[str, JsonValue] = {"x-kubernetes-list-type": "atomic"}
"""Schema of a list that one writer always replaces; managed fields per item would double the size of the object."""
DISK_PRIORITY = 100
"""Priority of layers that a disk needs. Layers below it are prefetched, and yield when free space is short."""
MAX_CAPTURES = 1000
CaptureId = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
VolumeHandle = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9][-a-z0-9.]*$")]


class WantedLayer(Model):
    """One layer that the node should hold."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.parent) || self.parent != self.digest",
            "parent: a layer cannot be its own parent; name the layer below, or omit parent",
            ".parent",
        ),
    )

    digest: DigestText = Field(description="SHA-256 of the file: 'sha256:' and 64 lower-case hex digits.")
    size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES, description="Size of the file in bytes.")
    virtual_size_bytes: int = Field(
        gt=0,
        le=MAX_FILE_BYTES,
        multiple_of=512,
        description="Size of the virtual disk in bytes; the file's header must agree.",
    )
    parent: DigestText | None = Field(
        default=None, description="Layer below; the file's header must agree. Omitted: a root."
    )
    repository: str = Field(
        default=DEFAULT_REPOSITORY, max_length=63, pattern=DNS_LABEL, description="Repository to fetch it from."
    )
    priority: int = Field(
        default=0, ge=0, le=1000, description="Layers of higher priority are fetched first and evicted last."
    )
    pinned: bool = Field(default=False, description="True: not evicted while listed, even if the budget is exceeded.")


class CaptureOrder(Model):
    """One overlay to make a frozen copy of, or whose copy to keep."""

    id: CaptureId = Field(description="Identifier of the copy.")
    volume: VolumeHandle = Field(description="CSI volume handle of the overlay.")
    parent: DigestText = Field(description="Layer below the overlay; the overlay's header must agree.")
    virtual_size_bytes: int = Field(
        gt=0,
        le=MAX_FILE_BYTES,
        multiple_of=512,
        description="Size of the virtual disk in bytes; the overlay's header must agree.",
    )
    repository: str = Field(
        default=DEFAULT_REPOSITORY, max_length=63, pattern=DNS_LABEL, description="Repository to store its layer in."
    )
    action: Literal["Check", "Copy", "Keep"] = Field(
        description="Check: report whether a copy can be made and stored, while the VM runs. Copy: make the copy if "
        "there is none. Keep: the VM runs again; keep the copy and make no other."
    )
    mounted: bool = Field(
        default=False, description="True: a VM has mounted the overlay. It is paused while action is Copy."
    )


class NodeCacheSpec(Model):
    """Layers to hold, overlays to delete and copies to make; written by the operator."""

    layers: list[WantedLayer] = Field(
        default_factory=list,
        max_length=MAX_LAYERS,
        description="Layers that the node should hold.",
        json_schema_extra=ATOMIC,
    )
    discard: list[VolumeHandle] = Field(
        default_factory=list,
        max_length=MAX_LAYERS,
        description="CSI volume handles whose overlays must be deleted from the node.",
        json_schema_extra=ATOMIC,
    )
    captures: list[CaptureOrder] = Field(
        default_factory=list,
        max_length=MAX_CAPTURES,
        description="Overlays to copy and store as layers; copies that are not listed are deleted.",
        json_schema_extra=ATOMIC,
    )


class CachedLayer(Model):
    """One layer as observed on the node."""

    digest: str = Field(description="SHA-256 of the file.")
    state: Literal["Held", "Fetching", "Queued", "Refused"] = Field(
        description="Held: complete and verified. Refused: see reason; the daemon retries."
    )
    size_bytes: int = Field(default=0, description="Size of the file in bytes.")
    fetched_bytes: int = Field(default=0, description="Bytes fetched to the node's disk so far.")
    links: int = Field(default=0, description="Number of volumes that are based on it.")
    need: Literal["Running", "Wanted", "Prefetch", "Idle"] | None = Field(
        default=None,
        description="Why it is kept. Running: a volume needs it, or it is pinned. Idle: until its space is needed.",
    )
    reason: str | None = Field(default=None, description="Reason of the refusal as one CamelCase word.")
    message: str | None = Field(default=None, max_length=4096, description="Explanation of the refusal.")


class CachedVolume(Model):
    """One overlay on the node's disk."""

    name: str = Field(description="CSI volume handle.")
    mounted: bool = Field(default=False, description="True: a pod has mounted it.")


class CaptureReport(Model):
    """One frozen copy of an overlay, and the layer that is created from it."""

    id: str = Field(description="Identifier of the copy.")
    state: Literal["Possible", "Copied", "Storing", "Stored", "Unchanged", "Refused", "Lost"] = Field(
        description="Possible: a copy can be made. Copied: the VM may run again. Refused: see reason; the daemon "
        "retries. Lost: the copy does not exist any more."
    )
    copied_bytes: int = Field(default=0, description="Bytes of the overlay that were copied.")
    copy_milliseconds: int = Field(default=0, description="Duration of copying in milliseconds.")
    digest: str | None = Field(default=None, description="Digest of the new layer.")
    size_bytes: int | None = Field(default=None, description="Size of the new layer's file in bytes.")
    uploaded_bytes: int = Field(default=0, description="Bytes uploaded to the repository so far.")
    reason: str | None = Field(default=None, description="Reason of a refusal or delay as one CamelCase word.")
    message: str | None = Field(default=None, max_length=4096, description="Explanation of the reason.")


class NodeCacheStatus(Status):
    """Observed layers, overlays and copies; only the node's daemon writes it."""

    layers: list[CachedLayer] = Field(
        default_factory=list,
        description="Layers that are held, queued, being fetched, or refused.",
        json_schema_extra=ATOMIC,
    )
    volumes: list[CachedVolume] = Field(
        default_factory=list,
        description="Overlays on the node's disk.",
        json_schema_extra=ATOMIC,
    )
    captures: list[CaptureReport] = Field(
        default_factory=list,
        description="Frozen copies of overlays and their progress.",
        json_schema_extra=ATOMIC,
    )
    budget_bytes: int = Field(default=0, description="Space that layers may use on the node, in bytes.")
    used_bytes: int = Field(
        default=0, description="Space that layers use on the node, incomplete ones included, in bytes."
    )
    free_bytes: int = Field(default=0, description="Free space in the cache's file system, in bytes.")
    fetched_bytes_total: int = Field(
        default=0, description="Bytes of verified layers fetched since the cache was created."
    )
    peer_address: str | None = Field(
        default=None, description="host:port from which daemons of other nodes fetch layers."
    )
    last_heartbeat_time: datetime | None = Field(
        default=None, description="Time at which the daemon last wrote the status, RFC 3339."
    )


class NodeCache(Model):
    """Layers and overlays of one node; the object has the node's name."""

    KIND: ClassVar[str] = kinds.NODE_CACHE
    PLURAL: ClassVar[str] = "nodecaches"
    SHORT: ClassVar[tuple[str, ...]] = ("knc",)
    SCOPE: ClassVar[str] = "Cluster"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Used", "integer", ".status.usedBytes", "Space that layers use on the node, in bytes."),
        Column("Budget", "integer", ".status.budgetBytes", "Space that layers may use on the node, in bytes."),
        MESSAGE_COLUMN,
        Column("Heartbeat", "date", ".status.lastHeartbeatTime", "Time since the daemon last wrote the status."),
        AGE_COLUMN,
        Column("Free", "integer", ".status.freeBytes", "Free space in the cache's file system, in bytes.", 1),
        Column("Fetched", "integer", ".status.fetchedBytesTotal", "Bytes fetched since the cache was created.", 1),
        Column("Peer", "string", ".status.peerAddress", "Address from which other nodes fetch layers.", 1),
    )

    metadata: Metadata
    spec: NodeCacheSpec = Field(default_factory=NodeCacheSpec)
    status: NodeCacheStatus = Field(default_factory=NodeCacheStatus)
