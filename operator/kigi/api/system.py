"""SystemNode: one state of a whole system of virtual machines."""

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
    MachineName,
    Metadata,
    Model,
    NameRef,
    ObjectName,
    Rule,
    Status,
)
from kigi.api.machine_template import MachineTemplate
from kigi.domain import kinds


class DiskSpec(Model):
    """An extra disk of a machine; omitted fields are inherited from the parent state."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.removed || !(has(self.image) || has(self.bus))",
            "removed: a removed disk has no image or bus; delete those fields, or removed",
            ".removed",
        ),
        Rule(
            "self.removed || has(self.image) || has(self.bus)",
            "disks: give what differs from the parent state: image, bus or removed",
        ),
        Rule("self.name != 'root'", "name: 'root' is the boot disk; use another name", ".name"),
    )

    name: MachineName = Field(description="Name of the disk, unique in the machine, at most 20 characters.")
    image: NameRef | None = Field(default=None, description="VMImageNode that the disk is based on.")
    bus: Literal["virtio", "sata", "scsi"] | None = Field(default=None, description="Bus of the disk; default virtio.")
    removed: bool = Field(default=False, description="True: the state does not have the parent's disk of this name.")


class MachineSpec(Model):
    """One machine of the state; omitted fields are inherited from the parent state."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.removed || !(has(self.image) || has(self.template) || has(self.disks))",
            "removed: a removed machine has no image, template or disks; delete those fields, or removed",
            ".removed",
        ),
        Rule(
            "self.removed || has(self.image) || has(self.template) || has(self.disks)",
            "machines: give what differs from the parent state: image, template, disks or removed",
        ),
    )

    name: MachineName = Field(description="Name of the machine, unique in the system, at most 20 characters.")
    image: NameRef | None = Field(default=None, description="VMImageNode that the boot disk is based on.")
    template: MachineTemplate | None = Field(default=None, description="Hardware and guest settings that differ.")
    disks: list[DiskSpec] | None = Field(
        default=None,
        max_length=8,
        description="Extra disks that differ from the parent state, each based on its own image.",
        json_schema_extra=MAP_BY_NAME,
    )
    removed: bool = Field(default=False, description="True: the state does not have the parent's machine of this name.")


class SystemNetwork(Model):
    """A network of the system, as documentation; machines name their networks in their templates."""

    name: MachineName = Field(description="Name of the network.")
    multus: ObjectName | None = Field(default=None, description="NetworkAttachmentDefinition of the network.")
    description: str | None = Field(default=None, max_length=1024, description="Free text.")


class SystemNodeSpec(Model):
    """One state of a system; a child has only what differs from its parent."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.parent) || !has(self.machines) || self.machines.all(m, has(m.image))",
            "machines: in a state without a parent every machine needs an image; add image, or set parent",
            ".machines",
        ),
    )

    parent: NameRef | None = Field(default=None, description="Parent state; omitted: this state is a root.")
    machines: list[MachineSpec] = Field(
        default_factory=list,
        max_length=256,
        description="Machines that differ from the parent state; in a root, all machines.",
        json_schema_extra=MAP_BY_NAME,
    )
    networks: list[SystemNetwork] = Field(
        default_factory=list,
        max_length=32,
        description="Networks that differ from the parent state.",
        json_schema_extra=MAP_BY_NAME,
    )
    description: str | None = Field(default=None, max_length=4096, description="Free text.")


class ResolvedMachineStatus(Model):
    """One machine of the state with its inherited fields."""

    name: str = Field(description="Name of the machine.")
    image: str = Field(description="VMImageNode that its boot disk is based on.")
    chain_length: int = Field(description="Number of layers below its overlay.")


class SystemNodeStatus(Status):
    """The state with everything that it inherits."""

    depth: int | None = Field(default=None, description="Number of states from the root to this one, both included.")
    machines: list[ResolvedMachineStatus] | None = Field(
        default=None,
        description="All machines of the state.",
        json_schema_extra=MAP_BY_NAME,
    )
    unique_bytes: int | None = Field(default=None, description="Bytes of all layers of the state, each layer once.")
    added_bytes: int | None = Field(
        default=None, description="Bytes of the layers that the parent state does not have."
    )


class SystemNode(Model):
    """One state of a whole system of virtual machines."""

    KIND: ClassVar[str] = kinds.SYSTEM
    PLURAL: ClassVar[str] = "systemnodes"
    SHORT: ClassVar[tuple[str, ...]] = ("ksys",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.spec.parent) || self.spec.parent.name != self.metadata.name",
            "spec.parent.name: a state cannot be its own parent; use another state, or omit parent",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Parent", "string", ".spec.parent.name", "Parent state."),
        Column("Depth", "integer", ".status.depth", "Number of states from the root."),
        Column("Unique", "integer", ".status.uniqueBytes", "Bytes of all layers, each layer once."),
        Column("Added", "integer", ".status.addedBytes", "Bytes of the layers that the parent does not have."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Machines", "string", ".status.machines[*].name", "Names of its machines.", 1),
        Column("Description", "string", ".spec.description", "Free text.", 1),
    )

    metadata: Metadata
    spec: SystemNodeSpec
    status: SystemNodeStatus = Field(default_factory=SystemNodeStatus)
