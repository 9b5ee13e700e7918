"""SystemQuota: limits of what namespaces may use. Administrators write it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from kigi.api.base import (
    AGE_COLUMN,
    MAP_BY_NAME,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    Metadata,
    Model,
    Rule,
    Status,
    planned,
)
from kigi.api.selectors import LabelSelector
from kigi.domain import kinds
from kigi.domain.quantities import parse_quantity

MAX_NAMESPACES = 500
"""Namespaces in the status; those that are nearest to a limit."""
QUANTITY_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?$"


def _check_quantity(value: int | str) -> int | str:
    if quantity_bytes(value) < 0:
        raise ValueError("must not be negative")
    return value


def quantity_bytes(value: int | str) -> int:
    """Bytes of a quantity; ValueError if it is none."""
    return value if isinstance(value, int) else parse_quantity(value)


Quantity = Annotated[
    int | str,
    AfterValidator(_check_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY_PATTERN, "maxLength": 24, "minimum": 0}),
]
"""Bytes, written as a number or as a quantity such as 500Gi."""
Count = Annotated[int, Field(ge=0, le=2**31 - 1, json_schema_extra={"format": "int32"})]


class QuotaHard(Model):
    """Limits. An omitted one does not limit, apart from pinnedBytes."""

    RULES: ClassVar[tuple[Rule, ...]] = (planned("memoryImageBytes"),)

    wanted_bytes: Quantity | None = Field(
        default=None,
        description="Bytes of the layers below the disks of a namespace, a quantity: on each node every layer once, "
        "whatever other namespaces use there. Omitted: no limit.",
    )
    prefetched_bytes: Quantity | None = Field(
        default=None,
        description="Bytes of the layers that the SystemPrefetches of a namespace order, a quantity: on each node "
        "every layer once. Omitted: no limit.",
    )
    pinned_bytes: Quantity | None = Field(
        default=None,
        description="Part of prefetchedBytes, a quantity, that may have the retention Pinned. Omitted: another "
        "SystemQuota decides; a namespace without any limit may pin nothing.",
    )
    overlay_bytes: Quantity | None = Field(
        default=None,
        description="Bytes of the overlays of a namespace on all nodes, a quantity: what its guests have written. At "
        "the limit it gets no new machines; those that run go on, and can be reset. Omitted: no limit.",
    )
    memory_image_bytes: Quantity | None = Field(
        default=None, description="Reserved: bytes of the memory images of a namespace, a quantity."
    )
    instances: Count | None = Field(
        default=None, description="Instances of all deployments that have disks. Omitted: no limit."
    )
    machines: Count | None = Field(
        default=None, description="Machines of all deployments that have disks, running or not. Omitted: no limit."
    )

    def limits(self) -> dict[str, int]:
        """The limits that are set, by the names of fields in ``QuotaUsed``."""
        return {
            name: quantity_bytes(value) for name in QuotaUsed.model_fields if (value := getattr(self, name)) is not None
        }


class QuotaDefaults(Model):
    """Settings of objects that leave them out."""

    write_limit: Quantity | None = Field(
        default=None, description="Reserved: bytes that a guest may write to each disk, a quantity."
    )


class SystemQuotaSpec(Model):
    """Limits, and the namespaces that they are for."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        planned("defaults"),
        planned("resetsPerInstancePerHour"),
        Rule(
            "has(self.hard.wantedBytes) || has(self.hard.prefetchedBytes) || has(self.hard.pinnedBytes) || "
            "has(self.hard.instances) || has(self.hard.machines) || has(self.hard.overlayBytes) || "
            "has(self.hard.memoryImageBytes)",
            "hard: limits nothing; give at least one limit",
            ".hard",
        ),
    )

    namespace_selector: LabelSelector = Field(description="Namespaces, by their labels; {}: all.")
    scope: Literal["PerNamespace", "Shared"] | None = Field(
        default=None,
        description="PerNamespace: each namespace may use the limits. Shared: all of them together. Omitted: "
        "PerNamespace; further values may be added: treat an unknown one as Shared.",
    )
    hard: QuotaHard = Field(
        description="Limits. What would exceed one gets no new disk and no new order; what exists stays and runs. All "
        "SystemQuotas that select a namespace must be met."
    )
    defaults: QuotaDefaults | None = Field(
        default=None, description="Reserved: settings of objects that leave them out."
    )
    resets_per_instance_per_hour: Count | None = Field(
        default=None, description="Reserved: resets of one instance that are accepted within an hour."
    )


class QuotaUsed(Model):
    """Amounts that count against the limits of the same names."""

    wanted_bytes: int = Field(default=0, description="Bytes of the layers below the namespace's disks.")
    prefetched_bytes: int = Field(default=0, description="Bytes of the layers that its SystemPrefetches order.")
    pinned_bytes: int = Field(default=0, description="Bytes of those that no disk evicts.")
    overlay_bytes: int = Field(default=0, description="Bytes of its overlays, as the nodes report them.")
    instances: int = Field(default=0, description="Instances with disks.", json_schema_extra={"format": "int32"})
    machines: int = Field(default=0, description="Machines with disks.", json_schema_extra={"format": "int32"})


class QuotaNamespace(Model):
    """What one namespace uses."""

    name: str = Field(max_length=63, description="Name of the namespace.")
    used: QuotaUsed = Field(description="Its amounts.")


class SystemQuotaStatus(Status):
    """Observed use, written by the operator. Decisions count themselves."""

    namespace_count: int | None = Field(
        default=None, description="Number of selected namespaces.", json_schema_extra={"format": "int32"}
    )
    namespaces: list[QuotaNamespace] = Field(
        default_factory=list,
        max_length=MAX_NAMESPACES,
        description="Selected namespaces that use something; if there are more than fit, those that use the most.",
        json_schema_extra=MAP_BY_NAME,
    )


class SystemQuota(Model):
    """Limits of what the namespaces that it selects may use."""

    KIND: ClassVar[str] = kinds.QUOTA
    PLURAL: ClassVar[str] = "systemquotas"
    SHORT: ClassVar[tuple[str, ...]] = ("kquota",)
    SCOPE: ClassVar[str] = "Cluster"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Scope", "string", ".spec.scope", "Whether the limits are for each namespace, or for all together."),
        Column("Namespaces", "integer", ".status.namespaceCount", "Number of selected namespaces."),
        AGE_COLUMN,
        MESSAGE_COLUMN,
    )

    metadata: Metadata
    spec: SystemQuotaSpec
    status: SystemQuotaStatus = Field(default_factory=SystemQuotaStatus)
