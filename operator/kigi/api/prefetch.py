"""SystemPrefetch: states whose layers nodes hold before a deployment uses them there."""

from __future__ import annotations

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
    NameRef,
    ObjectName,
    Rule,
    Status,
)
from kigi.api.deployment import SELECTOR_RULE, LabelValue, Toleration
from kigi.domain import kinds

MAX_NODES = 2000
PrefetchState = Literal["Queued", "Fetching", "Ready", "Refused", "Away"]


class SystemPrefetchSpec(Model):
    """Which states to keep warm, and on which nodes."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.count) || !has(self.nodes) || self.nodes.size() == 0 || self.count <= self.nodes.size()",
            "count: more than the nodes that are named; name more, or lower it",
            ".count",
        ),
        SELECTOR_RULE,
    )

    systems: list[NameRef] = Field(
        min_length=1,
        max_length=64,
        description="SystemNodes of the same namespace: the states to keep warm.",
        json_schema_extra=MAP_BY_NAME,
    )
    nodes: list[ObjectName] = Field(
        default_factory=list,
        max_length=MAX_NODES,
        description="Names of nodes; none: all that nodeSelector matches.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    node_selector: dict[str, LabelValue] = Field(
        default_factory=dict, description="Labels that a node must have.", json_schema_extra={"maxProperties": 32}
    )
    tolerations: list[Toleration] = Field(
        default_factory=list,
        max_length=32,
        description="Taints that a node may have.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    count: int | None = Field(
        default=None,
        ge=1,
        le=MAX_NODES,
        description="Number of these nodes: those that lack the fewest bytes; a lost node is replaced. None: all.",
    )
    parallelism: int | None = Field(
        default=None,
        ge=1,
        le=MAX_NODES,
        description="Concurrency limit: number of nodes that fetch at the same time. None: all.",
    )
    pinned: bool = Field(
        default=False,
        description="True: these layers are never evicted, even if a disk needs the space or the node's disk is full.",
    )


class PrefetchedNode(Model):
    """One node that keeps the states warm."""

    name: str = Field(description="Name of the node.")
    state: PrefetchState = Field(
        description="Queued: waits for its turn. Ready: holds every layer, verified. Refused: see message; the node "
        "retries. Away: its cache daemon does not report."
    )
    held_bytes: int = Field(default=0, description="Bytes of the layers that it holds.")
    ordered: list[str] = Field(
        default_factory=list,
        description="States whose layers the node is ordered to hold; none while it is Queued.",
        max_length=64,
    )
    reason: str | None = Field(default=None, description="Why it is Refused or Away, as one CamelCase word.")
    message: str | None = Field(default=None, description="Why it is not Ready, for a person.")


class SystemPrefetchStatus(Status):
    """Progress on each node. No decision reads it."""

    nodes: list[PrefetchedNode] = Field(
        default_factory=list, description="Chosen nodes.", json_schema_extra=MAP_BY_NAME
    )
    wanted_nodes: int = Field(default=0, description="Number of chosen nodes.")
    ready_nodes: int = Field(default=0, description="Number of nodes that hold every layer, verified.")
    node_bytes: int = Field(
        default=0, description="Bytes of the states' layers, each once: the desired bytes of each node."
    )
    held_bytes: int = Field(default=0, description="Bytes of these layers that the nodes hold, in all.")
    wanted_bytes: int = Field(default=0, description="Desired bytes of all nodes.")
    missing_bytes: int = Field(
        default=0, description="Bytes that the nodes lacked, in all, when the last change of the spec was planned."
    )


class SystemPrefetch(Model):
    """States that are kept warm on nodes."""

    KIND: ClassVar[str] = kinds.PREFETCH
    PLURAL: ClassVar[str] = "systemprefetches"
    SHORT: ClassVar[tuple[str, ...]] = ("kpre",)
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Ready-Nodes", "integer", ".status.readyNodes", "Nodes that hold every layer, verified."),
        Column("Nodes", "integer", ".status.wantedNodes", "Nodes that are meant."),
        Column("Bytes", "integer", ".status.nodeBytes", "Bytes that each node holds."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
    )

    metadata: Metadata
    spec: SystemPrefetchSpec
    status: SystemPrefetchStatus = Field(default_factory=SystemPrefetchStatus)
