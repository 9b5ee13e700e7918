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
    ObjectName,
    Rule,
    Status,
)
from kigi.api.layer_upload import LayerUpload
from kigi.api.node_facts import DaemonInfo, NodeFacts
from kigi.domain import kinds, names
from kigi.domain.layer_parts import MAX_PARTS
from kigi.domain.layers import MAX_FILE_BYTES

MAX_LAYERS = 2000
"""Layers of one node; with the daemon's status the object stays below etcd's 1.5 MiB."""
ATOMIC: dict[str, JsonValue] = {"x-kubernetes-list-type": "atomic"}
"""Schema of a list that one writer always replaces; managed fields per item would double the size of the object."""
Purpose = Literal["Disk", "Memory", "Prefetch"]
PURPOSES: tuple[Purpose, ...] = ("Prefetch", "Memory", "Disk")
"""The later purpose in this order is fetched first and evicted last, and keeps its place in a full NodeCache."""
MAX_PROTOCOL = 1000
MAX_COUNT = 10**9
MAX_CAPTURES = 1000
MAX_REPORTED = 4096
"""Layers that a daemon reports."""
MAX_VOLUMES = 1000
"""Overlays that a daemon reports."""
MAX_FILLING = 16
"""Those that fill the disk; the next ones follow when these are gone."""
MAX_REPORT_MESSAGE = 1024
MAX_MONITOR_MESSAGE = 256
MAX_SPEC_BYTES = 724 * 2**10
MAX_STATUS_BYTES = 500 * 2**10
"""Sizes as JSON that the writers of spec and status keep: the limits of the lists together would allow more."""
CaptureId = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
RepositoryName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
VolumeHandle = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9][-a-z0-9.]*$")]


class WantedLayer(Model):
    """One layer that the node should hold."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.parentDigest) || self.parentDigest != self.digest",
            "parentDigest: a layer cannot be its own parent; name the layer below, or omit parentDigest",
            ".parentDigest",
        ),
        Rule(
            "self.purpose != 'Memory'",
            "purpose: Memory is reserved for a later version of Kigi, which gives it its function; use another value",
            ".purpose",
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
    parent_digest: DigestText | None = Field(
        default=None, description="Layer below; the file's header must agree. Omitted: a root."
    )
    repository_name: RepositoryName = Field(description="Repository to fetch it from.")
    purpose: Purpose = Field(
        description="What the layer is for. Disk: a volume is based on it. Prefetch: a volume may be, later. Memory: a "
        "VM resumes from it. Disks are fetched before prefetches and evicted after them. Further values may be added."
    )
    retention: Literal["Pinned"] | None = Field(
        default=None,
        description="Pinned: not evicted while listed, even if the budget is exceeded. Omitted: as the purpose "
        "decides. Further values may be added.",
    )


class CaptureOrder(Model):
    """One overlay to make a frozen copy of, or whose copy to keep."""

    id: CaptureId = Field(description="Identifier of the copy.")
    volume: VolumeHandle = Field(description="CSI volume handle of the overlay.")
    parent_digest: DigestText = Field(description="Layer below the overlay; the overlay's header must agree.")
    virtual_size_bytes: int = Field(
        gt=0,
        le=MAX_FILE_BYTES,
        multiple_of=512,
        description="Size of the virtual disk in bytes; the overlay's header must agree.",
    )
    repository_name: RepositoryName = Field(description="Repository to store its layer in.")
    action: Literal["Check", "Copy", "Keep"] = Field(
        description="Check: report whether a copy can be made and stored, while the VM runs. Copy: make the copy if "
        "there is none. Keep: the VM runs again; keep the copy and make no other. Further values may be added."
    )
    mounted: bool = Field(
        description="True: a VM has mounted the overlay. It is paused while action is Copy, or see pausedBy."
    )
    paused_by: Literal["Daemon"] | None = Field(
        default=None,
        description="Daemon: with action Copy, the daemon stops the VM through QEMU's monitor for the time of the "
        "copy, together with the VMs of all such orders of the capture. Omitted: the VM is paused already. Further "
        "values may be added.",
    )
    upload: LayerUpload | None = Field(
        default=None, description="How to store the layer; omitted: the daemon has not reported one."
    )


class Omitted(Model):
    """Numbers of entries that do not fit into the lists of a NodeCache."""

    disk_layers: int = Field(ge=0, le=MAX_COUNT, description="Layers of disks; their machines wait.")
    prefetch_layers: int = Field(ge=0, le=MAX_COUNT, description="Layers of prefetches, which give way to disks.")
    captures: int = Field(ge=0, le=MAX_COUNT, description="Overlays to copy; their captures report it.")


class NodeCacheSpec(Model):
    """Layers to hold, overlays to delete and copies to make; written by the operator."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.nodeName == oldSelf.nodeName",
            "nodeName: it cannot change; create another NodeCache for another node",
            ".nodeName",
        ),
    )

    node_name: ObjectName = Field(
        description="Name of the Kubernetes Node; immutable. Only this node's daemon may write the status."
    )
    operator_protocol: int = Field(
        ge=1,
        le=MAX_PROTOCOL,
        description="Protocol of the operator. The daemon reports VersionSkew if it does not understand it.",
    )
    operator_version: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        description="Version of Kigi that the operator runs. The daemon reports VersionSkew if its own is more than "
        "one minor version apart; omitted: not known.",
    )
    protocol: int = Field(
        ge=1,
        le=MAX_PROTOCOL,
        description="Protocol of the fields below, which is older while the daemon does not understand the operator's. "
        "The daemon acts on none that it does not understand.",
    )
    layers: list[WantedLayer] = Field(
        default_factory=list,
        max_length=MAX_LAYERS,
        description="Layers that the node should hold.",
        json_schema_extra=ATOMIC,
    )
    discard_volumes: list[VolumeHandle] = Field(
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
    omitted: Omitted | None = Field(
        default=None, description="What does not fit into these lists; omitted: everything fits."
    )


class CachedLayer(Model):
    """One layer as observed on the node."""

    digest: str = Field(max_length=71, description="SHA-256 of the file.")
    state: str = Field(
        max_length=24,
        description="Held: complete and verified. Fetching and Queued: on its way. Refused: see reason; the daemon "
        "retries. Further values may be added; treat an unknown one as Queued.",
    )
    size_bytes: int = Field(default=0, description="Size of the file in bytes.")
    fetched_bytes: int = Field(default=0, description="Bytes fetched to the node's disk so far.")
    links: int = Field(default=0, description="Number of volumes that are based on it.")
    need: str | None = Field(
        default=None,
        max_length=24,
        description="Why it is kept. Running: a volume needs it, or it is pinned. Wanted, Prefetch: ordered. Idle: "
        "until its space is needed. Further values may be added.",
    )
    reason: str | None = Field(default=None, max_length=63, description="Reason of the refusal as one CamelCase word.")
    message: str | None = Field(
        default=None, max_length=MAX_REPORT_MESSAGE, description="Explanation of the refusal, for the first refusals."
    )


class CachedVolume(Model):
    """One overlay on the node's disk."""

    name: str = Field(max_length=253, description="CSI volume handle.")
    mounted: bool = Field(default=False, description="True: a pod has mounted it.")
    written_bytes: int | None = Field(
        default=None,
        description="Bytes that its guest has written, rounded up by at most a quarter; 0 below 1 MiB. Counted once in "
        "a minute. Omitted: not counted yet.",
    )


class NamespaceUse(Model):
    """What the machines of one namespace use on the node's disk."""

    name: str = Field(max_length=63, description="Name of the namespace.")
    overlay_bytes: int = Field(
        default=0, description="Bytes of its overlays, rounded up to 64 MiB; counted once in a minute."
    )


class CaptureReport(Model):
    """One frozen copy of an overlay, and the layer that is created from it."""

    id: str = Field(max_length=63, description="Identifier of the copy.")
    state: str = Field(
        max_length=24,
        description="Possible: a copy can be made. Copied: the VM may run again. Storing, Stored: its layer is "
        "uploaded. Unchanged: nothing was written. Refused: see reason; the daemon retries. Lost: the copy does not "
        "exist any more. Further values may be added; treat an unknown one as in progress.",
    )
    copied_bytes: int = Field(default=0, description="Bytes of the overlay that were copied.")
    copy_milliseconds: int = Field(default=0, description="Duration of copying in milliseconds.")
    copy_uid: str | None = Field(
        default=None,
        max_length=16,
        description="Random id of this copy: the operator recognizes one that replaces a lost copy. Omitted: there is "
        "no copy.",
    )
    digest: str | None = Field(default=None, max_length=71, description="Digest of the new layer.")
    size_bytes: int | None = Field(default=None, description="Size of the new layer's file in bytes.")
    parts: list[Annotated[str, Field(max_length=71)]] = Field(
        default_factory=list,
        max_length=MAX_PARTS,
        description="Digests of the new layer's parts in their order, if it is larger than one request may be.",
        json_schema_extra=ATOMIC,
    )
    uploaded_bytes: int = Field(default=0, description="Bytes uploaded to the repository so far.")
    monitor: str | None = Field(
        default=None,
        max_length=16,
        description="Available: the daemon can stop the capture's VMs on this node together. Unavailable: it cannot. "
        "Broken: it tried, and they were not stopped until all copies were made, so that there are none. Omitted: it "
        "is not known, or of no interest any more. Further values may be added; treat an unknown one as Unavailable.",
    )
    monitor_message: str | None = Field(
        default=None, max_length=MAX_MONITOR_MESSAGE, description="Why it is Unavailable or Broken, for a person."
    )
    stop_time: datetime | None = Field(
        default=None,
        description="Time at which the daemon stopped the VM, by QEMU's event, RFC 3339. Present once the copy was "
        "made and the VM continued: it did not run between this time and continueTime.",
    )
    continue_time: datetime | None = Field(
        default=None, description="Time at which the daemon continued it, by QEMU's event, RFC 3339."
    )
    reason: str | None = Field(
        default=None, max_length=63, description="Reason of a refusal or delay as one CamelCase word."
    )
    message: str | None = Field(
        default=None, max_length=MAX_REPORT_MESSAGE, description="Explanation of the reason, for the first copies."
    )


class NodeCacheStatus(Status):
    """Observed layers, overlays and copies; only the node's daemon writes it, when something has changed."""

    daemon: DaemonInfo | None = Field(
        default=None, description="The daemon that wrote the status; omitted: none has written it yet."
    )
    node: NodeFacts | None = Field(
        default=None, description="What the daemon found on its node; omitted: it has not looked, or could not."
    )
    layers: list[CachedLayer] = Field(
        default_factory=list,
        max_length=MAX_REPORTED,
        description="Layers that are held, queued, being fetched, or refused.",
        json_schema_extra=ATOMIC,
    )
    volumes: list[CachedVolume] = Field(
        default_factory=list,
        max_length=MAX_VOLUMES,
        description="Overlays on the node's disk: those to be deleted first, then those that a pod has mounted.",
        json_schema_extra=ATOMIC,
    )
    namespaces: list[NamespaceUse] = Field(
        default_factory=list,
        max_length=MAX_VOLUMES,
        description="Namespaces with overlays on the node.",
        json_schema_extra=ATOMIC,
    )
    filling_volumes: list[Annotated[str, Field(max_length=253)]] = Field(
        default_factory=list,
        max_length=MAX_FILLING,
        description="CSI volume handles of overlays that fill the node's disk; the operator pauses their VMs.",
        json_schema_extra=ATOMIC,
    )
    captures: list[CaptureReport] = Field(
        default_factory=list,
        max_length=MAX_CAPTURES,
        description="Frozen copies of overlays and their progress.",
        json_schema_extra=ATOMIC,
    )
    omitted_layers: int = Field(
        default=0,
        description="Number of idle layers on the node that the list omits, because the object would be too large.",
    )
    budget_bytes: int = Field(default=0, description="Space that layers may use on the node, in bytes.")
    used_bytes: int = Field(
        default=0, description="Space that layers use on the node, incomplete ones included, in bytes."
    )
    free_bytes: int = Field(
        default=0,
        description="Free space in the cache's file system, in bytes; written when "
        "it has changed by a fiftieth of the budget.",
    )
    kept_free_bytes: int | None = Field(
        default=None, description="Free space that layers leave to others (KIGI_MIN_FREE), in bytes."
    )
    fetched_bytes_total: int = Field(
        default=0, description="Bytes of verified layers fetched since the cache was created."
    )
    peer_address: str | None = Field(
        default=None, max_length=300, description="host:port from which daemons of other nodes fetch layers."
    )


class NodeCache(Model):
    """Layers and overlays of one node. Internal: only Kigi's operator and the node's daemon write it."""

    GROUP: ClassVar[str] = names.NODE_GROUP
    VERSION: ClassVar[str] = names.NODE_VERSION
    KIND: ClassVar[str] = kinds.NODE_CACHE
    PLURAL: ClassVar[str] = "nodecaches"
    SHORT: ClassVar[tuple[str, ...]] = ("knc",)
    SCOPE: ClassVar[str] = "Cluster"
    SELECTABLE: ClassVar[tuple[str, ...]] = (".spec.nodeName",)
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Used", "integer", ".status.usedBytes", "Space that layers use on the node, in bytes.", 1),
        Column("Budget", "integer", ".status.budgetBytes", "Space that layers may use on the node, in bytes.", 1),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Free", "integer", ".status.freeBytes", "Free space in the cache's file system, in bytes.", 1),
        Column("Fetched", "integer", ".status.fetchedBytesTotal", "Bytes fetched since the cache was created.", 1),
        Column("Peer", "string", ".status.peerAddress", "Address from which other nodes fetch layers.", 1),
    )

    metadata: Metadata
    spec: NodeCacheSpec
    status: NodeCacheStatus = Field(default_factory=NodeCacheStatus)
