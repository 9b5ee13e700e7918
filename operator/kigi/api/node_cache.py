"""NodeCache: the wanted and the held layers of one node; spec by the operator, status by that node's daemon alone."""

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
from kigi.domain.layers import DEFAULT_REPOSITORY

MAX_FILE_BYTES = 64 * 2**40
MAX_LAYERS = 2000
"""Of one node; with the daemon's status this stays below etcd's 1.5 MiB."""
ATOMIC: dict[str, JsonValue] = {"x-kubernetes-list-type": "atomic"}
"""Each list here has one writer, who writes it whole; bookkeeping per item would double the size of the object."""
DISK_PRIORITY = 100
"""Of layers that a disk waits for; those below it are prefetched: they give way to the others when room is short."""
MAX_CAPTURES = 1000
CaptureId = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
VolumeHandle = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9][-a-z0-9.]*$")]


class WantedLayer(Model):
    """One layer that the node shall hold."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.parent) || self.parent != self.digest",
            "parent: a layer cannot stand on itself; name the layer below, or leave parent out",
            ".parent",
        ),
    )

    digest: DigestText = Field(description="SHA-256 of the file: 'sha256:' and 64 lower-case hex digits.")
    size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES, description="Length of the file in bytes.")
    virtual_size_bytes: int = Field(
        gt=0,
        le=MAX_FILE_BYTES,
        multiple_of=512,
        description="Size of the virtual disk in bytes, as its header must say.",
    )
    parent: DigestText | None = Field(default=None, description="Layer below, as its header must say; none: a root.")
    repository: str = Field(
        default=DEFAULT_REPOSITORY, max_length=63, pattern=DNS_LABEL, description="Where to fetch it."
    )
    priority: int = Field(default=0, ge=0, le=1000, description="Higher is fetched first and evicted last.")
    pinned: bool = Field(default=False, description="True: never evicted while listed, even when the budget is short.")


class CaptureOrder(Model):
    """One overlay of which the node shall make, or keep, a frozen copy."""

    id: CaptureId = Field(description="Name of the copy.")
    volume: VolumeHandle = Field(description="CSI volume handle of the overlay.")
    parent: DigestText = Field(description="Layer that the overlay stands on, as its header must say.")
    virtual_size_bytes: int = Field(
        gt=0, le=MAX_FILE_BYTES, multiple_of=512, description="Size of the virtual disk in bytes, as its header says."
    )
    repository: str = Field(
        default=DEFAULT_REPOSITORY, max_length=63, pattern=DNS_LABEL, description="Where its layer is stored."
    )
    action: Literal["Check", "Copy", "Keep"] = Field(
        description="Check: say whether a copy can be made and stored; the VM runs. Copy: make the copy, if there is "
        "none. Keep: the VM runs on; make none any more."
    )
    mounted: bool = Field(default=False, description="A VM has the overlay; it stands still while action is Copy.")


class NodeCacheSpec(Model):
    """What the node shall hold and forget; written by the operator."""

    layers: list[WantedLayer] = Field(
        default_factory=list,
        max_length=MAX_LAYERS,
        description="Layers that the node shall hold.",
        json_schema_extra=ATOMIC,
    )
    discard: list[VolumeHandle] = Field(
        default_factory=list,
        max_length=MAX_LAYERS,
        description="Volumes (CSI volume handles) whose overlays shall be deleted from the node.",
        json_schema_extra=ATOMIC,
    )
    captures: list[CaptureOrder] = Field(
        default_factory=list,
        max_length=MAX_CAPTURES,
        description="Overlays of which frozen copies are made and stored as layers; others that exist are deleted.",
        json_schema_extra=ATOMIC,
    )


class CachedLayer(Model):
    """One layer as the node sees it."""

    digest: str = Field(description="SHA-256 of the file.")
    state: Literal["Held", "Fetching", "Queued", "Refused"] = Field(
        description="Held: complete and verified. Refused: see reason; it is tried again."
    )
    size_bytes: int = Field(default=0, description="Length of the file in bytes.")
    fetched_bytes: int = Field(default=0, description="Bytes that are on the node's disk so far.")
    links: int = Field(default=0, description="Number of volumes that stand on it.")
    need: Literal["Running", "Wanted", "Prefetch", "Idle"] | None = Field(
        default=None,
        description="Why it stays. Running: a volume stands on it, or it is pinned. Idle: until the room is needed.",
    )
    reason: str | None = Field(default=None, description="Why it is refused, as one CamelCase word.")
    message: str | None = Field(default=None, max_length=4096, description="Why it is refused, for a person.")


class CachedVolume(Model):
    """One overlay on the node's disk."""

    name: str = Field(description="CSI volume handle.")
    mounted: bool = Field(default=False, description="A pod uses it.")


class CaptureReport(Model):
    """One frozen copy of an overlay, and the layer that is made of it."""

    id: str = Field(description="Name of the copy.")
    state: Literal["Possible", "Copied", "Storing", "Stored", "Unchanged", "Refused", "Lost"] = Field(
        description="Possible: nothing speaks against a copy. Copied: the VM may run on. Refused: see reason; tried "
        "again. Lost: there is no copy to keep."
    )
    copied_bytes: int = Field(default=0, description="Bytes of the overlay that were copied.")
    copy_milliseconds: int = Field(default=0, description="What copying took.")
    digest: str | None = Field(default=None, description="Digest of the new layer.")
    size_bytes: int | None = Field(default=None, description="Length of the new layer's file in bytes.")
    uploaded_bytes: int = Field(default=0, description="Bytes of it that are in the repository.")
    reason: str | None = Field(default=None, description="Why it does not go on, as one CamelCase word.")
    message: str | None = Field(default=None, max_length=4096, description="Why it does not go on, for a person.")


class NodeCacheStatus(Status):
    """What the node holds; written by that node's daemon alone."""

    layers: list[CachedLayer] = Field(
        default_factory=list,
        description="Layers held, on their way, or refused.",
        json_schema_extra=ATOMIC,
    )
    volumes: list[CachedVolume] = Field(
        default_factory=list,
        description="Overlays on the node's disk.",
        json_schema_extra=ATOMIC,
    )
    captures: list[CaptureReport] = Field(
        default_factory=list,
        description="Frozen copies of overlays, and what became of them.",
        json_schema_extra=ATOMIC,
    )
    budget_bytes: int = Field(default=0, description="Bytes that layers may take on the node.")
    used_bytes: int = Field(default=0, description="Bytes that layers take on the node, unfinished ones included.")
    free_bytes: int = Field(default=0, description="Bytes free in the file system of the cache.")
    fetched_bytes_total: int = Field(
        default=0, description="Bytes of verified layers fetched since the cache was made."
    )
    peer_address: str | None = Field(default=None, description="host:port where other nodes' daemons fetch layers.")
    last_heartbeat_time: datetime | None = Field(default=None, description="When the daemon last wrote, RFC 3339.")


class NodeCache(Model):
    """The layers of one node; has the node's name."""

    KIND: ClassVar[str] = "NodeCache"
    PLURAL: ClassVar[str] = "nodecaches"
    SHORT: ClassVar[tuple[str, ...]] = ("knc",)
    SCOPE: ClassVar[str] = "Cluster"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Used", "integer", ".status.usedBytes", "Bytes that layers take on the node."),
        Column("Budget", "integer", ".status.budgetBytes", "Bytes that layers may take on the node."),
        MESSAGE_COLUMN,
        Column("Heartbeat", "date", ".status.lastHeartbeatTime", "Time since the daemon last wrote."),
        AGE_COLUMN,
        Column("Free", "integer", ".status.freeBytes", "Bytes free in the file system of the cache.", 1),
        Column("Fetched", "integer", ".status.fetchedBytesTotal", "Bytes fetched since the cache was made.", 1),
        Column("Peer", "string", ".status.peerAddress", "Where other nodes fetch layers.", 1),
    )

    metadata: Metadata
    spec: NodeCacheSpec = Field(default_factory=NodeCacheSpec)
    status: NodeCacheStatus = Field(default_factory=NodeCacheStatus)
