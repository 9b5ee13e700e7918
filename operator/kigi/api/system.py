"""SystemNode: one state of a whole system of virtual machines."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kigi.api.base import (
    AGE_COLUMN,
    MAP_BY_NAME,
    MAX_TREE_NAME,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    MachineName,
    Metadata,
    Model,
    ObjectRef,
    Rule,
    Status,
    TreeRef,
    planned,
)
from kigi.api.image_parts import Provenance
from kigi.api.machine_hardware import Hardware, QuantityText
from kigi.api.machine_patch import MachinePatch
from kigi.api.readiness import ReadinessProbe
from kigi.domain import kinds

MAX_MACHINES_OF_STATE = 128
MAX_DISKS = 8

Unset = Literal[
    "cpu",
    "memory",
    "instancetypeRef",
    "preferenceRef",
    "interfaces",
    "cloudInit",
    "patch",
    "startAfter",
    "readinessProbe",
    "guestPowerOffPolicy",
]
"""The keys of ``domain.machine_settings.UNSET``."""


class Disk(Model):
    """A disk of a machine; omitted fields are inherited from the parent state."""

    RULES: ClassVar[tuple[Rule, ...]] = (planned("writeLimit"),)

    image_ref: TreeRef | None = Field(default=None, description="VMImageNode that the disk is based on.")
    bus: Literal["virtio", "sata", "scsi"] | None = Field(
        default=None,
        description="Bus of the disk; default virtio; further values may be added, treat an unknown one as virtio.",
    )
    boot_order: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Position in the boot order of the VM; default 1 for the root disk, none for others.",
        json_schema_extra={},
    )
    write_limit: QuantityText | None = Field(
        default=None, description="Most bytes that a guest may write to the disk. Reserved for a later version."
    )


class ExtraDisk(Disk):
    """A disk of a machine beside its root disk."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.removed) || !self.removed || !(has(self.imageRef) || has(self.bus) || has(self.bootOrder))",
            "removed: a removed disk has no other fields; delete those, or removed",
            ".removed",
        ),
        Rule(
            "(has(self.removed) && self.removed) || has(self.imageRef) || has(self.bus) || has(self.bootOrder)",
            "disks: give what differs from the parent state: imageRef, bus, bootOrder or removed: true",
        ),
        Rule("self.name != 'root'", "name: 'root' is the root disk; use another name", ".name"),
        *Disk.RULES,
    )

    name: MachineName = Field(description="Name of the disk, unique in the machine, at most 20 characters.")
    removed: bool | None = Field(
        default=None, description="True: the state does not have the parent's disk of this name; default false."
    )


_CHANGES = (
    "has(self.rootDisk) || has(self.disks) || has(self.hardware) || has(self.patch) || has(self.unset)"
    " || has(self.startAfter) || has(self.readinessProbe) || has(self.guestPowerOffPolicy)"
)


class MachineSpec(Model):
    """One machine of the state; omitted fields are inherited from the parent state."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.removed) || !self.removed || !({_CHANGES})",
            "removed: a removed machine has no other fields; delete those, or removed",
            ".removed",
        ),
        Rule(
            f"(has(self.removed) && self.removed) || {_CHANGES}",
            "machines: give what differs from the parent state, such as rootDisk or hardware, or removed: true",
        ),
        planned("memoryRef"),
    )

    name: MachineName = Field(description="Name of the machine, unique in the system, at most 20 characters.")
    root_disk: Disk | None = Field(default=None, description="The disk that the machine boots from.")
    disks: list[ExtraDisk] | None = Field(
        default=None,
        max_length=MAX_DISKS,
        description="Further disks that differ from the parent state, each based on its own image.",
        json_schema_extra=MAP_BY_NAME,
    )
    hardware: Hardware | None = Field(default=None, description="Hardware that differs. A change restarts the VM.")
    patch: MachinePatch | None = Field(
        default=None,
        description="Changes of the VM's other fields, joined with the parent state's. A change restarts the VM.",
    )
    unset: list[Annotated[Unset, Field(description="Name of a field; further values may be added.")]] | None = Field(
        default=None,
        max_length=16,
        description="Inherited fields that the state does not have; they are dropped before this entry's own fields "
        "apply. An unknown one drops nothing.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    start_after: list[MachineName] | None = Field(
        default=None,
        max_length=32,
        description="Machines of the system that must be ready before this one starts on a new disk; the list replaces "
        "the parent's.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    readiness_probe: ReadinessProbe | None = Field(
        default=None, description="Readiness check of the guest. A change restarts the VM."
    )
    guest_power_off_policy: Literal["Restart", "StayOff"] | None = Field(
        default=None,
        description="Restart (default): a guest that powers itself off starts again. StayOff: it stays off, in state "
        "PoweredOff, until the machine is reset or switched off and on; further values may be added, treat an unknown "
        "one as Restart.",
    )
    memory_ref: TreeRef | None = Field(
        default=None, description="VMMemoryImage that the machine resumes from. Reserved for a later version."
    )
    removed: bool | None = Field(
        default=None, description="True: the state does not have the parent's machine of this name; default false."
    )


class SystemNetwork(Model):
    """A network of the system; interfaces of machines refer to it by name."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("self.name != 'pod'", "name: 'pod' is the built-in pod network; use another name", ".name"),
    )

    name: MachineName = Field(description="Name of the network, unique in the system.")
    description: str | None = Field(default=None, max_length=1024, description="Free text.")
    multus_ref: ObjectRef | None = Field(
        default=None,
        description="Default binding: a NetworkAttachmentDefinition, looked up in the namespace of the "
        "SystemDeployment. A network that an interface uses needs one.",
    )


class SystemNodeSpec(Model):
    """One state of a system; a child has only what differs from its parent."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.parentRef) || !has(self.machines) || self.machines.all(m, has(m.rootDisk) && "
            "has(m.rootDisk.imageRef))",
            "machines: in a state without a parent every machine needs rootDisk.imageRef; add it, or set parentRef",
            ".machines",
        ),
        planned("warmPolicy"),
    )

    parent_ref: TreeRef | None = Field(default=None, description="Parent state; omitted: this state is a root.")
    description: str | None = Field(default=None, max_length=4096, description="Free text.")
    warm_policy: Literal["None", "Prepared"] | None = Field(
        default=None,
        description="Prepared: Kigi boots the state once and keeps its memory. Default None; further values may be "
        "added, treat an unknown one as None. Reserved for a later version.",
    )
    networks: list[SystemNetwork] = Field(
        default_factory=list,
        max_length=32,
        description="Networks that differ from the parent state; 'pod' is built in.",
        json_schema_extra=MAP_BY_NAME,
    )
    machines: list[MachineSpec] = Field(
        default_factory=list,
        max_length=MAX_MACHINES_OF_STATE,
        description="Machines that differ from the parent state; in a root, all machines.",
        json_schema_extra=MAP_BY_NAME,
    )
    provenance: Provenance | None = Field(
        default=None, description="Origin of the state, for people; Kigi decides nothing by it."
    )


class ResolvedMachineStatus(Model):
    """One machine of the state with its inherited fields."""

    name: str = Field(max_length=20, description="Name of the machine.")
    image_name: str = Field(
        max_length=MAX_TREE_NAME,
        description="VMImageNode that its root disk is based on, NAMESPACE/NAME if it is of another namespace; empty "
        "if only states of other namespaces name it.",
    )
    chain_length: int = Field(description="Number of layers below its overlay.")


class SystemNodeStatus(Status):
    """The state with everything that it inherits; the operator writes it."""

    content_hash: str | None = Field(
        default=None,
        max_length=16,
        description="Hash of what the state gives its machines: the layers of their disks and their hardware. An edit "
        "of the state or of an ancestor changes it; machines take the new content with their next reset or switch, "
        "see SystemDeployment spec.updateStrategy.onEdit.",
    )
    depth: int | None = Field(
        default=None,
        description="Number of states from the root to this one, both included.",
    )
    machine_count: int | None = Field(default=None, description="Number of machines of the state.")
    machines: list[ResolvedMachineStatus] | None = Field(
        default=None,
        max_length=MAX_MACHINES_OF_STATE,
        description="The first 128 machines of the state by name.",
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
    SELECTABLE: ClassVar[tuple[str, ...]] = (".spec.parentRef.name",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.spec.parentRef) || has(self.spec.parentRef.namespace)"
            " || self.spec.parentRef.name != self.metadata.name",
            "spec.parentRef.name: a state cannot be its own parent; use another state, or omit parentRef",
        ),
        Rule(
            "self.metadata.name.size() <= 63",
            "metadata.name: the status of an instance has the name once per machine; use at most 63 characters",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Parent", "string", ".spec.parentRef.name", "Parent state."),
        Column("Machines", "integer", ".status.machineCount", "Number of machines."),
        AGE_COLUMN,
        MESSAGE_COLUMN,
        Column("Depth", "integer", ".status.depth", "Number of states from the root.", 1),
        Column("Added", "integer", ".status.addedBytes", "Bytes of the layers that the parent does not have.", 1),
        Column("Unique", "integer", ".status.uniqueBytes", "Bytes of all layers, each layer once.", 1),
        Column("Description", "string", ".spec.description", "Free text.", 1),
    )

    metadata: Metadata
    spec: SystemNodeSpec
    status: SystemNodeStatus = Field(default_factory=SystemNodeStatus)
