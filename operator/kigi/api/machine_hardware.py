"""Hardware of one machine of a SystemNode. A change of any of these fields restarts the VM."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from kigi.api.base import MAP_BY_NAME, MachineName, Model, ObjectName, ObjectRef, Rule
from kigi.domain.quantities import parse_quantity

MAC = r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$"
"""Unicast only: the lowest bit of the first byte is 0."""
CPU_MODEL = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
CLOUD_INIT_MAX = 2048
"""KubeVirt's limit on texts inside a VM's spec, in bytes; it refuses a VM above it."""
POD_NETWORK = "pod"


def _quantity(text: str) -> str:
    parse_quantity(text)
    return text


QuantityText = Annotated[str, Field(min_length=1, max_length=32), AfterValidator(_quantity)]
"""A Kubernetes quantity; the API server checks it with a rule."""


class Cpu(Model):
    """Virtual processors; a child's fields are merged over its parent's."""

    cores: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Cores of each socket; default 1.",
        json_schema_extra={},
    )
    sockets: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Number of sockets; default 1. Some guests are licensed by sockets.",
        json_schema_extra={},
    )
    threads: int | None = Field(default=None, ge=1, le=8, description="Threads of each core; default 1.")
    model: str | None = Field(
        default=None,
        max_length=63,
        pattern=CPU_MODEL,
        description="Model as KubeVirt names it, such as host-model or Skylake-Server-v4; default: KubeVirt's.",
    )


class Memory(Model):
    """Memory of a machine."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "isQuantity(self.guest) && quantity(self.guest).compareTo(quantity('16Mi')) >= 0"
            " && quantity(self.guest).compareTo(quantity('16Ti')) <= 0",
            "memory.guest: give a quantity from 16Mi to 16Ti, such as 512Mi",
            ".guest",
        ),
    )

    guest: QuantityText = Field(description="Memory that the guest sees, a quantity from 16Mi to 16Ti.")


class MatcherRef(Model):
    """A KubeVirt instancetype or preference."""

    name: ObjectName = Field(description="Name of the instancetype or preference.")
    kind: str | None = Field(
        default=None,
        max_length=63,
        description="Kind; default: KubeVirt's cluster-wide kind. The namespaced kind is looked up in the namespace of "
        "the SystemDeployment.",
    )


class Interface(Model):
    """One network interface of a machine."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.binding) || (self.networkName == 'pod' ? self.binding != 'SRIOV' : self.binding != "
            "'Masquerade')",
            "binding: network 'pod' takes Masquerade or Bridge, every other one Bridge or SRIOV",
            ".binding",
        ),
    )

    name: MachineName = Field(
        description="Name of the interface, unique in the machine; its MAC address derives from it."
    )
    network_name: MachineName = Field(
        description="Network of the state (spec.networks[].name), or 'pod': the pod network."
    )
    binding: Literal["Masquerade", "Bridge", "SRIOV"] | None = Field(
        default=None,
        description="How the interface is bound; default: Masquerade on 'pod', Bridge on every other network; further "
        "values may be added, treat an unknown one as omitted.",
    )
    mac_address: str | None = Field(
        default=None,
        max_length=17,
        pattern=MAC,
        description="MAC address, lower case; default: derived from deployment, instance, machine and interface.",
    )
    model: str | None = Field(
        default=None, min_length=1, max_length=32, description="Device model, such as e1000e; default virtio."
    )


class CloudInit(Model):
    """Cloud-init data for the NoCloud source: the texts, or a Secret."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.secretRef) != (has(self.userData) || has(self.networkData))",
            "cloudInit: give either secretRef or userData/networkData, and not both",
        ),
    )

    user_data: str | None = Field(
        default=None,
        max_length=CLOUD_INIT_MAX,
        description="User data as plain text, at most 2048 bytes; longer data needs secretRef; omitted: none.",
    )
    network_data: str | None = Field(
        default=None,
        max_length=CLOUD_INIT_MAX,
        description="Network data as plain text, at most 2048 bytes; longer data needs secretRef; omitted: none.",
    )
    secret_ref: ObjectRef | None = Field(
        default=None,
        description="Secret with the keys userdata, networkdata or both, in the namespace of the SystemDeployment.",
    )


class Hardware(Model):
    """Hardware of a machine; omitted fields are inherited from the parent state."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.instancetypeRef) && (has(self.cpu) || has(self.memory)))",
            "instancetypeRef: it sets cpu and memory; omit those, or omit instancetypeRef",
            ".instancetypeRef",
        ),
        Rule(
            "!has(self.interfaces) || self.interfaces.all(n, !has(n.macAddress) || "
            "self.interfaces.exists_one(m, has(m.macAddress) && m.macAddress == n.macAddress))",
            "interfaces: two interfaces have the same macAddress; give each its own, or omit macAddress",
            ".interfaces",
        ),
        Rule(
            "!has(self.interfaces) || self.interfaces.filter(i, i.networkName == 'pod').size() <= 1",
            "interfaces: a machine has at most one interface on the network 'pod'; delete the others",
            ".interfaces",
        ),
    )

    cpu: Cpu | None = Field(default=None, description="Virtual processors; default: one core.")
    memory: Memory | None = Field(default=None, description="Memory; default 512Mi.")
    instancetype_ref: MatcherRef | None = Field(
        default=None, description="KubeVirt instancetype instead of cpu and memory."
    )
    preference_ref: MatcherRef | None = Field(default=None, description="KubeVirt preference.")
    interfaces: list[Interface] | None = Field(
        default=None,
        max_length=16,
        description="Network interfaces, which replace all of the parent state; default: 'pod' on the network 'pod' "
        "with binding Masquerade. An empty list means none.",
        json_schema_extra=MAP_BY_NAME,
    )
    cloud_init: CloudInit | None = Field(default=None, description="Cloud-init data, attached as an additional disk.")
