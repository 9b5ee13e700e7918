"""SystemNode: one state of a whole system of virtual machines."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue

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

MAC = r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$"
"""Unicast only: the lowest bit of the first byte is 0."""
MEMORY = r"^[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)$"
"""A Kubernetes quantity above zero; the suffix is needed, or '512' would be 512 bytes."""
CLOUD_INIT_MAX = 2048
"""KubeVirt's own limit on texts inside a VM's spec, in bytes; it refuses the VM above."""

HOOK_ANNOTATION = "hooks.kubevirt.io/hookSidecars"
"""KubeVirt's list of hook sidecars: the operator's own disk hook stands there, and a VM never starts without it."""

_NAMED_ITEMS: dict[str, JsonValue] = {
    "type": "array",
    "maxItems": 64,
    "items": {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {"name": {"type": "string", "maxLength": 63, "description": "Name of the entry."}},
    },
}
_OPEN: dict[str, JsonValue] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_TEXTS: dict[str, JsonValue] = {
    "type": "object",
    "maxProperties": 64,
    "additionalProperties": {"type": "string", "nullable": True},
}
_FORBIDDEN_STATE: dict[str, JsonValue] = {
    "type": "boolean",
    "nullable": True,
    "description": "Not true: that state is outside the disk, and a reset would not reset it.",
}
_PATCH_PROPERTIES: dict[str, JsonValue] = {
    "metadata": {
        "type": "object",
        "description": "Over the template's metadata.",
        "properties": {
            "labels": _TEXTS | {"description": "More labels; kigi.dev/ is reserved."},
            "annotations": _TEXTS | {"description": "More annotations; kigi.dev/ and the hook sidecars are reserved."},
        },
    },
    "spec": _OPEN
    | {
        "description": "Over the VirtualMachineInstance's spec.",
        "properties": {
            "volumes": _NAMED_ITEMS | {"description": "More volumes; kigi- is reserved."},
            "domain": _OPEN
            | {
                "description": "Over spec.domain.",
                "properties": {
                    "devices": _OPEN
                    | {
                        "description": "Over spec.domain.devices.",
                        "properties": {
                            "disks": _NAMED_ITEMS | {"description": "More disks; kigi- is reserved."},
                            "tpm": _OPEN
                            | {
                                "description": "A TPM.",
                                "nullable": True,
                                "properties": {"persistent": _FORBIDDEN_STATE},
                            },
                        },
                    },
                    "firmware": _OPEN
                    | {
                        "description": "Over spec.domain.firmware.",
                        "nullable": True,
                        "properties": {
                            "bootloader": _OPEN
                            | {
                                "description": "BIOS or EFI.",
                                "nullable": True,
                                "properties": {
                                    "efi": _OPEN
                                    | {
                                        "description": "EFI.",
                                        "nullable": True,
                                        "properties": {"persistent": _FORBIDDEN_STATE},
                                    }
                                },
                            }
                        },
                    },
                },
            },
        },
    },
}
"""The parts of a patch that rules look into; all else of the VirtualMachineInstance is kept as it is written."""


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
            "(self.name == 'pod') != has(self.multus)",
            "multus: name the NetworkAttachmentDefinition of a network other than 'pod'; 'pod' has none",
            ".multus",
        ),
        Rule(
            "!has(self.binding) || (self.name == 'pod' ? self.binding != 'sriov' : self.binding != 'masquerade')",
            "binding: 'pod' takes masquerade or bridge, a Multus network takes bridge or sriov",
            ".binding",
        ),
    )

    name: MachineName = Field(description="Name of the interface; 'pod' is the pod network.")
    multus: ObjectName | None = Field(default=None, description="NetworkAttachmentDefinition, for all but 'pod'.")
    binding: Literal["masquerade", "bridge", "sriov"] | None = Field(
        default=None,
        description="How the interface is bound; default: masquerade for 'pod', bridge for a Multus network.",
    )
    mac: str | None = Field(
        default=None,
        max_length=17,
        pattern=MAC,
        description="Unicast MAC address, lower case, the same in every instance; default: from the VM's name.",
    )
    model: str | None = Field(default=None, max_length=32, description="Model of the device, such as virtio or e1000e.")


class CloudInit(Model):
    """Cloud-init by the NoCloud source; give the texts or the Secret."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.secretName) != (has(self.userData) || has(self.networkData))",
            "cloudInit: give either secretName or userData/networkData, and not both",
        ),
    )

    user_data: str | None = Field(
        default=None,
        max_length=CLOUD_INIT_MAX,
        description="User data, plain text, at most 2048 bytes; a longer one goes into the Secret.",
    )
    network_data: str | None = Field(
        default=None,
        max_length=CLOUD_INIT_MAX,
        description="Network data, plain text, at most 2048 bytes; a longer one goes into the Secret.",
    )
    secret_name: ObjectName | None = Field(default=None, description="Secret that holds userdata and networkdata.")


class HttpProbe(Model):
    """An HTTP GET that a ready guest answers with 200 to 399."""

    port: int = Field(ge=1, le=65535, description="TCP port of the guest.")
    path: str = Field(default="/", max_length=1024, pattern=r"^/", description="Path of the request.")
    scheme: Literal["HTTP", "HTTPS"] = Field(default="HTTP", description="HTTP or HTTPS.")


class Readiness(Model):
    """What tells that the guest is up; without it a machine is ready when its VM runs."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.guestAgent) && self.guestAgent, has(self.tcpPort), has(self.http), has(self.exec)]"
            ".exists_one(x, x)",
            "readiness: give exactly one of guestAgent: true, tcpPort, http and exec",
        ),
    )

    guest_agent: bool | None = Field(default=None, description="True: the guest agent answers a ping.")
    tcp_port: int | None = Field(default=None, ge=1, le=65535, description="TCP port that takes connections.")
    http: HttpProbe | None = Field(default=None, description="HTTP request that succeeds.")
    exec: list[Annotated[str, Field(max_length=1024)]] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Command that the guest agent runs and that ends with 0.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    initial_delay_seconds: int | None = Field(default=None, ge=0, le=3600, description="Seconds before the first try.")
    period_seconds: int | None = Field(default=None, ge=1, le=3600, description="Seconds between tries; default 10.")
    timeout_seconds: int | None = Field(default=None, ge=1, le=3600, description="Seconds that a try may take.")
    failure_threshold: int | None = Field(
        default=None, ge=1, le=100, description="Failures in a row after which it is not ready any more; default 3."
    )


class MachineTemplate(Model):
    """Hardware and guest settings of a machine; a child state's template is merged over its parent's."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.instancetype) && (has(self.cpu) || has(self.memory)))",
            "instancetype: it sets cpu and memory; leave those out, or leave instancetype out",
            ".instancetype",
        ),
        Rule(
            "!has(self.networks) || self.networks.all(n, !has(n.mac) || "
            "self.networks.exists_one(m, has(m.mac) && m.mac == n.mac))",
            "networks: two interfaces have the same mac; give each its own, or leave mac out",
            ".networks",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.metadata) || !has(self.patch.metadata.labels) || "
            "self.patch.metadata.labels.all(k, !k.startsWith('kigi.dev/'))",
            "patch.metadata.labels: keys that begin with 'kigi.dev/' are reserved; take another key",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.metadata) || !has(self.patch.metadata.annotations) || "
            f"self.patch.metadata.annotations.all(k, !k.startsWith('kigi.dev/') && k != '{HOOK_ANNOTATION}')",
            f"patch.metadata.annotations: 'kigi.dev/' and '{HOOK_ANNOTATION}' are reserved; take another key",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.spec) || !has(self.patch.spec.volumes) || "
            "self.patch.spec.volumes.all(v, !has(v.name) || !v.name.startsWith('kigi-'))",
            "patch.spec.volumes: names that begin with 'kigi-' are reserved; take another name",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.spec) || !has(self.patch.spec.domain) || "
            "!has(self.patch.spec.domain.devices) || !has(self.patch.spec.domain.devices.disks) || "
            "self.patch.spec.domain.devices.disks.all(d, !has(d.name) || !d.name.startsWith('kigi-'))",
            "patch.spec.domain.devices.disks: names that begin with 'kigi-' are reserved; take another name",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.spec) || !has(self.patch.spec.domain) || "
            "!has(self.patch.spec.domain.devices) || !has(self.patch.spec.domain.devices.tpm) || "
            "!has(self.patch.spec.domain.devices.tpm.persistent) || !self.patch.spec.domain.devices.tpm.persistent",
            "patch.spec.domain.devices.tpm.persistent: KubeVirt keeps that state beside the disk, where no reset "
            "reaches it; leave persistent out",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.spec) || !has(self.patch.spec.domain) || "
            "!has(self.patch.spec.domain.firmware) || !has(self.patch.spec.domain.firmware.bootloader) || "
            "!has(self.patch.spec.domain.firmware.bootloader.efi) || "
            "!has(self.patch.spec.domain.firmware.bootloader.efi.persistent) || "
            "!self.patch.spec.domain.firmware.bootloader.efi.persistent",
            "patch.spec.domain.firmware.bootloader.efi.persistent: KubeVirt keeps that state beside the disk, where no "
            "reset reaches it; leave persistent out",
            ".patch",
        ),
    )

    cpu: int | None = Field(default=None, ge=1, le=256, description="Number of virtual cores.")
    memory: str | None = Field(
        default=None,
        max_length=32,
        pattern=MEMORY,
        description="Guest memory, a number above zero with its unit, such as 512Mi.",
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
        json_schema_extra=MAP_BY_NAME,
    )
    cloud_init: CloudInit | None = Field(default=None, description="Cloud-init, as one more disk.")
    after: list[MachineName] | None = Field(
        default=None,
        max_length=32,
        description="Machines of the system that are ready before this one starts on a new disk.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    readiness: Readiness | None = Field(default=None, description="What tells that the guest is up.")
    run_strategy: Literal["Always", "RerunOnFailure"] | None = Field(
        default=None,
        description="Always (default): started again whenever it ends. RerunOnFailure: a guest that powers itself off "
        "stays off, in state PoweredOff, until it is reset or switched off and on.",
    )
    patch: dict[str, Any] | None = Field(
        default=None,
        description="JSON merge patch over the VirtualMachineInstance template ('metadata' and 'spec').",
        json_schema_extra={"properties": _PATCH_PROPERTIES},
    )


class DiskSpec(Model):
    """One more disk of a machine; what it leaves out is as in the parent state."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.removed || !(has(self.image) || has(self.bus))",
            "removed: a removed disk has no image or bus; delete those fields, or removed",
            ".removed",
        ),
        Rule(
            "self.removed || has(self.image) || has(self.bus)",
            "disks: say what differs from the parent state: image, bus or removed",
        ),
        Rule("self.name != 'root'", "name: 'root' is the machine's own image; take another name", ".name"),
    )

    name: MachineName = Field(description="Name of the disk, unique in the machine, at most 20 characters.")
    image: NameRef | None = Field(default=None, description="VMImageNode that the disk starts from.")
    bus: Literal["virtio", "sata", "scsi"] | None = Field(default=None, description="Bus of the disk; default virtio.")
    removed: bool = Field(default=False, description="True: the parent's disk of this name is not in this state.")


class MachineSpec(Model):
    """What this state says of one machine; what it leaves out is as in the parent state."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.removed || !(has(self.image) || has(self.template) || has(self.disks))",
            "removed: a removed machine has no image, template or disks; delete those fields, or removed",
            ".removed",
        ),
        Rule(
            "self.removed || has(self.image) || has(self.template) || has(self.disks)",
            "machines: say what differs from the parent state: image, template, disks or removed",
        ),
    )

    name: MachineName = Field(description="Name of the machine, unique in the system, at most 20 characters.")
    image: NameRef | None = Field(default=None, description="VMImageNode that the machine starts from.")
    template: MachineTemplate | None = Field(default=None, description="Hardware and guest settings that differ.")
    disks: list[DiskSpec] | None = Field(
        default=None,
        max_length=8,
        description="More disks that differ from the parent state; each starts from an image of its own.",
        json_schema_extra=MAP_BY_NAME,
    )
    removed: bool = Field(default=False, description="True: the parent's machine of this name is not in this state.")


class SystemNetwork(Model):
    """A network of the system, for people and for isolation."""

    name: MachineName = Field(description="Name of the network.")
    multus: ObjectName | None = Field(default=None, description="NetworkAttachmentDefinition that carries it.")
    description: str | None = Field(default=None, max_length=1024, description="Free text for people.")


class SystemNodeSpec(Model):
    """One state of a system; a child names only what differs from its parent."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.parent) || !has(self.machines) || self.machines.all(m, has(m.image))",
            "machines: a state without parent names every machine's image; add image, or name the parent",
            ".machines",
        ),
    )

    parent: NameRef | None = Field(default=None, description="State that this one differs from; none: a root.")
    machines: list[MachineSpec] = Field(
        default_factory=list,
        max_length=256,
        description="Machines that differ from the parent state; in a root, all.",
        json_schema_extra=MAP_BY_NAME,
    )
    networks: list[SystemNetwork] = Field(
        default_factory=list,
        max_length=32,
        description="Networks that differ from the parent state.",
        json_schema_extra=MAP_BY_NAME,
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
        json_schema_extra=MAP_BY_NAME,
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
            "spec.parent.name: a state cannot be its own parent; name another state or leave parent out",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Parent", "string", ".spec.parent.name", "State that it differs from."),
        Column("Depth", "integer", ".status.depth", "Number of states from the root."),
        Column("Unique", "integer", ".status.uniqueBytes", "Bytes of all its layers, each layer once."),
        Column("Added", "integer", ".status.addedBytes", "Bytes of the layers that the parent does not have."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Machines", "string", ".status.machines[*].name", "Names of its machines.", 1),
        Column("Description", "string", ".spec.description", "Free text.", 1),
    )

    metadata: Metadata
    spec: SystemNodeSpec
    status: SystemNodeStatus = Field(default_factory=SystemNodeStatus)
