"""SystemPrefetch: states and images whose layers nodes hold before a deployment uses them there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import ClassVar, Literal

from pydantic import Field

from kigi.api.base import (
    AGE_COLUMN,
    MAP_BY_NAME,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    Metadata,
    Model,
    ObjectName,
    Rule,
    Status,
    TreeRef,
)
from kigi.api.placement import Toleration
from kigi.api.selectors import LabelSelector
from kigi.domain import kinds

MAX_NODES = 5000
MAX_NAMED_NODES = 1000
MAX_UNREADY_NODES = 50
MAX_NODE_MESSAGE = 300


class PrefetchTarget(TreeRef):
    """A node of a tree whose layers are kept warm."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.kind != 'VMMemoryImage'",
            "kind: VMMemoryImage is reserved for a later version of Kigi, which gives it its function; "
            "name a SystemNode",
            ".kind",
        ),
    )

    kind: Literal["SystemNode", "VMImageNode", "VMMemoryImage"] = Field(
        description="SystemNode: the layers of all its machines. VMImageNode: those of its chain. VMMemoryImage: "
        "reserved. Further values may be added; treat an unknown one as a target that needs more layers."
    )


class NodeSelection(LabelSelector):
    """Nodes by name, or by label."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.names) || !(has(self.matchLabels) || has(self.matchExpressions))",
            "names: a list of names selects exactly these nodes; delete it, or delete matchLabels and matchExpressions",
            ".names",
        ),
        *LabelSelector.RULES,
    )

    names: list[ObjectName] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_NAMED_NODES,
        description="Names of Nodes.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class SystemPrefetchSpec(Model):
    """What to keep warm, and on which nodes."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.readyBy) || !has(self.activeDeadlineSeconds)",
            "readyBy: there is another deadline, activeDeadlineSeconds; delete one of the two",
            ".readyBy",
        ),
        Rule(
            "!has(self.nodeCount) || !has(self.nodes) || !has(self.nodes.names) || "
            "self.nodeCount <= self.nodes.names.size()",
            "nodeCount: more than the nodes that are named; name more, or lower it",
            ".nodeCount",
        ),
        Rule(
            "!has(self.content) || self.content == 'Layers'",
            "content: LayersAndMemory is reserved for a later version of Kigi, which gives it its function; use Layers",
            ".content",
        ),
    )

    target_refs: list[PrefetchTarget] = Field(
        min_length=1,
        max_length=64,
        description="States and images to keep warm.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    content: Literal["Layers", "LayersAndMemory"] | None = Field(
        default=None,
        description="Layers, or LayersAndMemory, which is reserved. Omitted: Layers. Further values may be added; "
        "treat an unknown one as Layers and more.",
    )
    nodes: NodeSelection | None = Field(
        default=None, description="Nodes that may hold the layers, by name or by label; omitted: all."
    )
    tolerations: list[Toleration] = Field(
        default_factory=list,
        max_length=32,
        description="Taints that a node may have.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    node_count: int | None = Field(
        default=None,
        ge=1,
        le=MAX_NODES,
        description="Number of these nodes: those that lack the fewest bytes; a lost node is replaced. Omitted: all.",
    )
    parallelism: int | None = Field(
        default=None,
        ge=1,
        le=MAX_NODES,
        description="Concurrency limit: number of nodes that fetch at the same time. Omitted: all.",
    )
    retention: Literal["Evictable", "Pinned"] | None = Field(
        default=None,
        description="Evictable: disks that need the space evict these layers. Pinned: these layers are never evicted, "
        "even if a disk needs the space or the node's disk is full; its author needs the verb pin, and the namespace "
        "pinnedBytes of a SystemQuota. Omitted: Evictable. Further values may be added; treat an unknown one as "
        "Evictable.",
    )

    ready_by: datetime | None = Field(
        default=None,
        description="Time by which all nodes should be ready, RFC 3339. A prefetch that is late has the condition "
        "DeadlineMissed, and goes on. Omitted: no deadline.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Seconds after the creation of this object by which all nodes should be ready, instead of readyBy. "
        "Omitted: no deadline.",
    )

    def deadline(self, created: datetime | None) -> datetime | None:
        """Time by which all nodes should be ready; None: no deadline. ``created``: metadata.creationTimestamp."""
        if self.active_deadline_seconds is not None and created is not None:
            return created + timedelta(seconds=self.active_deadline_seconds)
        return self.ready_by

    @property
    def pinned(self) -> bool:
        """Whether no disk evicts the layers."""
        return self.retention == "Pinned"

    def names_of(self, kind: str) -> frozenset[str]:
        """Names of the targets of a kind, as the namespace of the object writes them."""
        return frozenset(ref.tree_name for ref in self.target_refs if ref.kind == kind)

    def selects(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether ``nodes`` selects the node with that name and these labels."""
        if self.nodes is None:
            return True
        return name in self.nodes.names if self.nodes.names is not None else self.nodes.matches(labels)

    def selected_names(self) -> list[str]:
        """Names in ``nodes``; none: nodes are selected by label, or all."""
        return list(self.nodes.names or ()) if self.nodes is not None else []


class UnreadyNode(Model):
    """One node that does not hold every layer yet."""

    name: str = Field(max_length=253, description="Name of the node.")
    state: str = Field(
        max_length=16,
        description="Queued: waits for its turn. Fetching: layers are in transfer. Refused: see message; the node "
        "retries. Away: its cache daemon does not report. Further values may be added; treat an unknown one as "
        "Fetching.",
    )
    reason: str | None = Field(
        default=None, max_length=63, description="Why it is Refused or Away, as one CamelCase word; else omitted."
    )
    message: str | None = Field(
        default=None, max_length=MAX_NODE_MESSAGE, description="Why it is not ready, for a person; omitted: no cause."
    )


class SystemPrefetchStatus(Status):
    """Progress on all nodes. No decision reads it."""

    desired_nodes: int = Field(default=0, description="Number of chosen nodes.")
    ready_nodes: int = Field(default=0, description="Number of nodes that hold every layer, verified.")
    node_bytes: int = Field(
        default=0, description="Bytes of the targets' layers, each once: the desired bytes of each node."
    )
    held_bytes: int = Field(default=0, description="Bytes of these layers that the nodes hold, in all.")
    wanted_bytes: int = Field(default=0, description="Desired bytes of all nodes.")
    missing_bytes: int = Field(
        default=0, description="Bytes that the nodes lacked, in all, when the last change of the spec was planned."
    )
    deadline_time: datetime | None = Field(
        default=None, description="Time by which all nodes should be ready, RFC 3339; omitted: no deadline."
    )
    unready_nodes: list[UnreadyNode] = Field(
        default_factory=list,
        max_length=MAX_UNREADY_NODES,
        description="The first nodes that are not ready; those with a cause come first.",
        json_schema_extra=MAP_BY_NAME,
    )


class SystemPrefetch(Model):
    """Layers of states and images that are kept warm on nodes."""

    KIND: ClassVar[str] = kinds.PREFETCH
    PLURAL: ClassVar[str] = "systemprefetches"
    SHORT: ClassVar[tuple[str, ...]] = ("kpre",)
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Ready-Nodes", "integer", ".status.readyNodes", "Nodes that hold every layer, verified."),
        Column("Nodes", "integer", ".status.desiredNodes", "Chosen nodes."),
        Column("Bytes", "integer", ".status.nodeBytes", "Bytes that each node holds.", 1),
        MESSAGE_COLUMN,
        AGE_COLUMN,
    )

    metadata: Metadata
    spec: SystemPrefetchSpec
    status: SystemPrefetchStatus = Field(default_factory=SystemPrefetchStatus)
