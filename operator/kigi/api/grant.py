"""TreeGrant: lets other namespaces use trees of this one."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kigi.api.base import (
    AGE_COLUMN,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    Metadata,
    Model,
    ObjectName,
    Rule,
    Status,
)
from kigi.api.selectors import LabelSelector
from kigi.domain import kinds

MAX_TARGETS = 64


class GrantFrom(Model):
    """Who may use the trees."""

    namespace_selector: LabelSelector = Field(
        description="Namespaces whose objects may use the trees, by their labels; {} selects every namespace. The "
        "label kubernetes.io/metadata.name of each namespace is its name."
    )


class GrantTo(Model):
    """A node of a tree, with its ancestors and their images."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.kind != 'VMMemoryImage'",
            "kind: VMMemoryImage is reserved for a later version of Kigi, which gives it its function; "
            "name a SystemNode or VMImageNode",
            ".kind",
        ),
    )

    kind: Literal["SystemNode", "VMImageNode", "VMMemoryImage"] = Field(
        description="Kind of the node; further values may be added: treat an unknown one as naming nothing."
    )
    name: ObjectName = Field(
        description="Name of the node, in the grant's namespace. It may be created later than the grant."
    )
    descendants: bool | None = Field(
        default=None,
        description="True: the node's descendants in this namespace are covered, too; omitted: they are not.",
    )


class TreeGrantSpec(Model):
    """Several grants add up. Users write it; it is evaluated whenever a reference is resolved."""

    from_: GrantFrom = Field(alias="from", description="Who may use the trees.")
    to: list[GrantTo] = Field(
        min_length=1,
        max_length=MAX_TARGETS,
        description="What they may use: each node, its ancestors, the images that these name, and their ancestors.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class TreeGrantStatus(Status):
    """Counts only: a grant names no namespace that uses it."""

    namespace_count: int | None = Field(
        default=None, description="Number of other namespaces that the selector matches now."
    )


class TreeGrant(Model):
    """Lets the objects of other namespaces use trees of this namespace, without giving the right to read them."""

    KIND: ClassVar[str] = kinds.GRANT
    PLURAL: ClassVar[str] = "treegrants"
    SHORT: ClassVar[tuple[str, ...]] = ("kgrant",)
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Namespaces", "integer", ".status.namespaceCount", "Number of other namespaces that it is for."),
        AGE_COLUMN,
        MESSAGE_COLUMN,
    )

    metadata: Metadata
    spec: TreeGrantSpec
    status: TreeGrantStatus = Field(default_factory=TreeGrantStatus)
