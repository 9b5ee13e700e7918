"""MachineTemplate: hardware and guest settings of one machine of a SystemNode, and the rules for its patch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue

from kigi.api.base import MAP_BY_NAME, MachineName, Model, ObjectName, Rule
from kigi.domain.names import HOOK_SIDECARS

MAC = r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$"
"""Unicast only: the lowest bit of the first byte is 0."""
MEMORY = r"^[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)$"
"""A Kubernetes quantity above zero. The suffix is required: '512' would be 512 bytes."""
CLOUD_INIT_MAX = 2048
"""KubeVirt's limit on texts inside a VM's spec, in bytes; it refuses a VM above it."""

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
    "description": "Must not be true: that state is stored outside of the disk, where no reset reaches it.",
}
_PATCH_PROPERTIES: dict[str, JsonValue] = {
    "metadata": {
        "type": "object",
        "description": "Merged over the template's metadata.",
        "properties": {
            "labels": _TEXTS | {"description": "Additional labels; kigi.dev/ is reserved."},
            "annotations": _TEXTS
            | {"description": "Additional annotations; kigi.dev/ and the hook sidecars are reserved."},
        },
    },
    "spec": _OPEN
    | {
        "description": "Merged over the VirtualMachineInstance's spec.",
        "properties": {
            "volumes": _NAMED_ITEMS | {"description": "Additional volumes; kigi- is reserved."},
            "domain": _OPEN
            | {
                "description": "Merged over spec.domain.",
                "properties": {
                    "devices": _OPEN
                    | {
                        "description": "Merged over spec.domain.devices.",
                        "properties": {
                            "disks": _NAMED_ITEMS | {"description": "Additional disks; kigi- is reserved."},
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
                        "description": "Merged over spec.domain.firmware.",
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
"""The fields of a patch that rules check; the schema keeps all other fields as they are."""


class MatcherRef(Model):
    """A KubeVirt instancetype or preference."""

    name: ObjectName = Field(description="Name of the instancetype or preference.")
    kind: str | None = Field(default=None, max_length=63, description="Kind; default: KubeVirt's cluster-wide kind.")


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
    multus: ObjectName | None = Field(
        default=None, description="NetworkAttachmentDefinition; required unless the name is 'pod'."
    )
    binding: Literal["masquerade", "bridge", "sriov"] | None = Field(
        default=None,
        description="How the interface is bound; default: masquerade for 'pod', bridge for a Multus network.",
    )
    mac: str | None = Field(
        default=None,
        max_length=17,
        pattern=MAC,
        description="Unicast MAC address, lower case, the same in every instance; default: derived from the VM's name.",
    )
    model: str | None = Field(default=None, max_length=32, description="Device model, such as virtio or e1000e.")


class CloudInit(Model):
    """Cloud-init data for the NoCloud source: the texts, or a Secret."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.secretName) != (has(self.userData) || has(self.networkData))",
            "cloudInit: give either secretName or userData/networkData, and not both",
        ),
    )

    user_data: str | None = Field(
        default=None,
        max_length=CLOUD_INIT_MAX,
        description="User data as plain text, at most 2048 bytes; use secretName for longer data.",
    )
    network_data: str | None = Field(
        default=None,
        max_length=CLOUD_INIT_MAX,
        description="Network data as plain text, at most 2048 bytes; use secretName for longer data.",
    )
    secret_name: ObjectName | None = Field(default=None, description="Secret with the keys userdata and networkdata.")


class HttpProbe(Model):
    """HTTP GET that a ready guest answers with a status from 200 to 399."""

    port: int = Field(ge=1, le=65535, description="TCP port of the guest.")
    path: str = Field(default="/", max_length=1024, pattern=r"^/", description="Path of the request.")
    scheme: Literal["HTTP", "HTTPS"] = Field(default="HTTP", description="HTTP or HTTPS.")


class Readiness(Model):
    """Readiness check of the guest; without it a machine is ready as soon as its VM runs."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.guestAgent) && self.guestAgent, has(self.tcpPort), has(self.http), has(self.exec)]"
            ".exists_one(x, x)",
            "readiness: give exactly one of guestAgent: true, tcpPort, http and exec",
        ),
    )

    guest_agent: bool | None = Field(default=None, description="True: ready when the guest agent answers a ping.")
    tcp_port: int | None = Field(
        default=None, ge=1, le=65535, description="Ready when this TCP port accepts connections."
    )
    http: HttpProbe | None = Field(default=None, description="Ready when this HTTP request succeeds.")
    exec: list[Annotated[str, Field(max_length=1024)]] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Ready when the guest agent runs this command and it exits with 0.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    initial_delay_seconds: int | None = Field(
        default=None, ge=0, le=3600, description="Seconds before the first check."
    )
    period_seconds: int | None = Field(default=None, ge=1, le=3600, description="Seconds between checks; default 10.")
    timeout_seconds: int | None = Field(
        default=None, ge=1, le=3600, description="Timeout of one check in seconds; default 1."
    )
    failure_threshold: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Consecutive failures after which the guest is not ready any more; default 3.",
    )


class MachineTemplate(Model):
    """Hardware and guest settings of a machine; the template of a child state is merged over its parent's."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.instancetype) && (has(self.cpu) || has(self.memory)))",
            "instancetype: it sets cpu and memory; omit those, or omit instancetype",
            ".instancetype",
        ),
        Rule(
            "!has(self.networks) || self.networks.all(n, !has(n.mac) || "
            "self.networks.exists_one(m, has(m.mac) && m.mac == n.mac))",
            "networks: two interfaces have the same mac; give each its own, or omit mac",
            ".networks",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.metadata) || !has(self.patch.metadata.labels) || "
            "self.patch.metadata.labels.all(k, !k.startsWith('kigi.dev/'))",
            "patch.metadata.labels: keys that begin with 'kigi.dev/' are reserved; use another key",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.metadata) || !has(self.patch.metadata.annotations) || "
            f"self.patch.metadata.annotations.all(k, !k.startsWith('kigi.dev/') && k != '{HOOK_SIDECARS}')",
            f"patch.metadata.annotations: 'kigi.dev/' and '{HOOK_SIDECARS}' are reserved; use another key",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.spec) || !has(self.patch.spec.volumes) || "
            "self.patch.spec.volumes.all(v, !has(v.name) || !v.name.startsWith('kigi-'))",
            "patch.spec.volumes: names that begin with 'kigi-' are reserved; use another name",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.spec) || !has(self.patch.spec.domain) || "
            "!has(self.patch.spec.domain.devices) || !has(self.patch.spec.domain.devices.disks) || "
            "self.patch.spec.domain.devices.disks.all(d, !has(d.name) || !d.name.startsWith('kigi-'))",
            "patch.spec.domain.devices.disks: names that begin with 'kigi-' are reserved; use another name",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.spec) || !has(self.patch.spec.domain) || "
            "!has(self.patch.spec.domain.devices) || !has(self.patch.spec.domain.devices.tpm) || "
            "!has(self.patch.spec.domain.devices.tpm.persistent) || !self.patch.spec.domain.devices.tpm.persistent",
            "patch.spec.domain.devices.tpm.persistent: KubeVirt stores that state outside of the disk, where "
            "no reset reaches it; omit persistent",
            ".patch",
        ),
        Rule(
            "!has(self.patch) || !has(self.patch.spec) || !has(self.patch.spec.domain) || "
            "!has(self.patch.spec.domain.firmware) || !has(self.patch.spec.domain.firmware.bootloader) || "
            "!has(self.patch.spec.domain.firmware.bootloader.efi) || "
            "!has(self.patch.spec.domain.firmware.bootloader.efi.persistent) || "
            "!self.patch.spec.domain.firmware.bootloader.efi.persistent",
            "patch.spec.domain.firmware.bootloader.efi.persistent: KubeVirt stores that state outside of the disk, "
            "where no reset reaches it; omit persistent",
            ".patch",
        ),
    )

    cpu: int | None = Field(default=None, ge=1, le=256, description="Number of virtual cores.")
    memory: str | None = Field(
        default=None,
        max_length=32,
        pattern=MEMORY,
        description="Guest memory as a number above zero with a unit, such as 512Mi.",
    )
    instancetype: MatcherRef | None = Field(
        default=None, description="KubeVirt instancetype instead of cpu and memory."
    )
    preference: MatcherRef | None = Field(default=None, description="KubeVirt preference.")
    disk_bus: Literal["virtio", "sata", "scsi"] | None = Field(
        default=None, description="Bus of the boot disk; default virtio."
    )
    boot_order: int | None = Field(
        default=None, ge=1, le=64, description="Boot order of the boot disk inside the VM; default 1."
    )
    networks: list[MachineNetwork] | None = Field(
        default=None,
        max_length=16,
        description="Network interfaces; default: 'pod' with binding masquerade. An empty list means none.",
        json_schema_extra=MAP_BY_NAME,
    )
    cloud_init: CloudInit | None = Field(default=None, description="Cloud-init data, attached as an additional disk.")
    after: list[MachineName] | None = Field(
        default=None,
        max_length=32,
        description="Machines of the system that must be ready before this one starts on a new disk.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    readiness: Readiness | None = Field(default=None, description="Readiness check of the guest.")
    run_strategy: Literal["Always", "RerunOnFailure"] | None = Field(
        default=None,
        description="Always (default): the VM is restarted when it ends. RerunOnFailure: a guest that powers itself "
        "off stays off, in state PoweredOff, until the machine is reset or switched off and on.",
    )
    patch: dict[str, Any] | None = Field(
        default=None,
        description="JSON merge patch for the VirtualMachineInstance template ('metadata' and 'spec').",
        json_schema_extra={"properties": _PATCH_PROPERTIES},
    )
