"""SystemNode: one state of a whole system of virtual machines."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from kigi.api.base import MachineName, Metadata, Model, NameRef, ObjectName, Rule, Status

MAC = r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|K|M|G|T)?$"


class MatcherRef(Model):
    """A KubeVirt instancetype or preference."""

    name: ObjectName = Field(description="Name of the instancetype or preference.")
    kind: str | None = Field(
        default=None, max_length=63, description="Its kind; KubeVirt's default is the cluster-wide one."
    )


class MachineNetwork(Model):
    """One network interface of a machine."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.name == 'pod' || has(self.multus)",
            "multus: name the NetworkAttachmentDefinition; only 'pod' has none",
        ),
    )

    name: MachineName = Field(description="Name of the interface; 'pod' is the pod network.")
    multus: ObjectName | None = Field(default=None, description="NetworkAttachmentDefinition, for all but 'pod'.")
    binding: Literal["masquerade", "bridge", "sriov"] = Field(
        default="masquerade",
        description="How the interface is bound; masquerade for 'pod', bridge for Multus networks.",
    )
    mac: str | None = Field(
        default=None, pattern=MAC, description="MAC address; left out: derived from the machine's name."
    )
    model: str | None = Field(default=None, max_length=32, description="Model of the device, such as virtio or e1000e.")


class CloudInit(Model):
    """Cloud-init by the NoCloud source; give the texts or the Secret."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.secretName) != (has(self.userData) || has(self.networkData))",
            "give either secretName or userData/networkData",
        ),
    )

    user_data: str | None = Field(default=None, max_length=16384, description="User data, plain text, at most 16 KiB.")
    network_data: str | None = Field(
        default=None, max_length=16384, description="Network data, plain text, at most 16 KiB."
    )
    secret_name: ObjectName | None = Field(default=None, description="Secret that holds userdata and networkdata.")


class MachineTemplate(Model):
    """Hardware and guest settings of a machine; a child state's template is merged over its parent's."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("!(has(self.instancetype) && (has(self.cpu) || has(self.memory)))", "an instancetype sets cpu and memory"),
    )

    cpu: int | None = Field(default=None, ge=1, le=256, description="Number of virtual cores.")
    memory: str | None = Field(
        default=None, max_length=32, pattern=QUANTITY, description="Guest memory, such as 512Mi."
    )
    instancetype: MatcherRef | None = Field(
        default=None, description="KubeVirt instancetype, in place of cpu and memory."
    )
    preference: MatcherRef | None = Field(default=None, description="KubeVirt preference.")
    disk_bus: Literal["virtio", "sata", "scsi"] | None = Field(
        default=None, description="Bus of the disk; default virtio."
    )
    boot_order: int | None = Field(
        default=None, ge=1, le=64, description="Boot order of the disk inside the VM; default 1."
    )
    networks: list[MachineNetwork] | None = Field(
        default=None,
        max_length=16,
        description="Interfaces; default: one, 'pod', by masquerade. An empty list: none.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    cloud_init: CloudInit | None = Field(default=None, description="Cloud-init, as one more disk.")
    patch: dict[str, Any] | None = Field(
        default=None,
        description="JSON merge patch over the VirtualMachineInstance template ('metadata' and 'spec').",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class MachineSpec(Model):
    """What this state says of one machine; what it leaves out is as in the parent state."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.removed || !(has(self.image) || has(self.template))",
            "removed: a removed machine has no image or template",
        ),
        Rule("self.removed || has(self.image) || has(self.template)", "say what differs: image, template or removed"),
    )

    name: MachineName = Field(description="Name of the machine, unique in the system, at most 20 characters.")
    image: NameRef | None = Field(default=None, description="VMImageNode that the machine starts from.")
    template: MachineTemplate | None = Field(default=None, description="Hardware and guest settings that differ.")
    removed: bool = Field(default=False, description="True: the parent's machine of this name is not in this state.")


class SystemNetwork(Model):
    """A network of the system, for people and for isolation."""

    name: MachineName = Field(description="Name of the network.")
    multus: ObjectName | None = Field(default=None, description="NetworkAttachmentDefinition that carries it.")
    description: str | None = Field(default=None, max_length=1024, description="Free text for people.")


class SystemNodeSpec(Model):
    """One state of a system; a child names only what differs from its parent."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.parent) || self.machines.all(m, has(m.image))", "a root state names every machine's image"),
    )

    parent: NameRef | None = Field(default=None, description="State that this one differs from; none: a root.")
    machines: list[MachineSpec] = Field(
        default_factory=list,
        max_length=256,
        description="Machines that differ from the parent state; in a root, all.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    networks: list[SystemNetwork] = Field(
        default_factory=list,
        max_length=32,
        description="Networks that differ from the parent state.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    description: str | None = Field(default=None, max_length=4096, description="Free text for people.")


class ResolvedMachineStatus(Model):
    """One machine of the state, with what it inherits."""

    name: str = Field(description="Name of the machine.")
    image: str = Field(description="VMImageNode that it starts from.")
    chain_length: int = Field(description="Number of layers under its overlay.")


class SystemNodeStatus(Status):
    """The state, resolved."""

    depth: int | None = Field(default=None, description="Number of states from the root to this one, itself counted.")
    machines: list[ResolvedMachineStatus] | None = Field(
        default=None,
        description="All machines of the state.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    unique_bytes: int | None = Field(default=None, description="Bytes of all layers of the state, each layer once.")
    added_bytes: int | None = Field(
        default=None, description="Bytes of the layers that the parent state does not have."
    )


class SystemNode(Model):
    """One state of a whole system of virtual machines."""

    KIND: ClassVar[str] = "SystemNode"
    PLURAL: ClassVar[str] = "systemnodes"
    SHORT: ClassVar[tuple[str, ...]] = ("ksys",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.spec.parent) || self.spec.parent.name != self.metadata.name",
            "spec.parent.name: a state cannot be its own parent",
        ),
    )

    metadata: Metadata
    spec: SystemNodeSpec
    status: SystemNodeStatus = Field(default_factory=SystemNodeStatus)
