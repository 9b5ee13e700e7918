"""Fields of a SystemDeployment whose shape is fixed and whose function comes later; the API server refuses them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kigi.api.base import MAP_BY_NAME, Model, ObjectRef, Rule
from kigi.api.selectors import LabelValue

ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
MAX_RULES = 32

Word = Annotated[str, Field(min_length=1, max_length=63)]
Cron = Annotated[str, Field(min_length=1, max_length=128)]


class IpBlock(Model):
    """Addresses, as in a NetworkPolicy."""

    cidr: Annotated[str, Field(max_length=64)] = Field(description="Addresses, such as 192.0.2.0/24.")
    except_: list[Annotated[str, Field(max_length=64)]] | None = Field(
        default=None, alias="except", max_length=8, description="Addresses to leave out.", json_schema_extra=ATOMIC
    )


class PeerSelector(Model):
    """Objects by their labels."""

    match_labels: dict[str, LabelValue] = Field(
        description="Labels, each with the value that it must have.", json_schema_extra={"maxProperties": 4}
    )


class Peer(Model):
    """One side of a connection, as in a NetworkPolicy."""

    pod_selector: PeerSelector | None = Field(default=None, description="Pods by their labels.")
    namespace_selector: PeerSelector | None = Field(
        default=None, description="Namespaces of the pods; omitted: the namespace of the deployment."
    )
    ip_block: IpBlock | None = Field(default=None, description="Addresses outside of the cluster.")


class PeerPort(Model):
    """A port, as in a NetworkPolicy."""

    protocol: Literal["TCP", "UDP", "SCTP"] | None = Field(
        default=None, description="Omitted: TCP; further values may be added: an unknown one matches nothing."
    )
    port: int = Field(ge=1, le=65535, description="Number of the port.")
    end_port: int | None = Field(
        default=None, ge=1, le=65535, description="Last number of a range of ports; omitted: one port."
    )


class AllowRule(Model):
    """Connections that isolated VMs may have."""

    name: Word | None = Field(default=None, description="Name of the rule, for people; omitted: none.")
    to: Peer | None = Field(default=None, description="Peers that VMs may connect to.")
    from_: Peer | None = Field(default=None, alias="from", description="Peers that may connect to VMs.")
    ports: list[PeerPort] | None = Field(
        default=None, max_length=16, description="Ports; omitted: all.", json_schema_extra=ATOMIC
    )


class NetworkBinding(Model):
    """Network of the cluster that a network of the state is."""

    name: Word = Field(description="Name of the network in the state.")
    multus_ref: ObjectRef | None = Field(
        default=None, description="NetworkAttachmentDefinition, in the namespace of the deployment."
    )
    scope: Literal["Deployment", "Instance"] | None = Field(
        default=None,
        description="Deployment (default): one network for all instances. Instance: one for each, "
        "whose name ends in -INSTANCE; further values may be added: an unknown one is refused.",
    )


class PowerWindow(Model):
    """A time in which VMs are on."""

    name: Word = Field(description="Name of the window.")
    start: Cron = Field(description="Begin, in cron's form.")
    duration_minutes: int = Field(ge=1, le=10_080, description="Length in minutes.")
    prepare_minutes: int | None = Field(
        default=None, ge=0, le=1440, description="Minutes before the begin in which caches are filled; omitted: 0."
    )


class ScheduledReset(Model):
    """Resets at certain times."""

    name: Word = Field(description="Name, a part of the names of the SystemResets.")
    cron: Cron = Field(description="Times, in cron's form.")
    suspend: bool | None = Field(default=None, description="True: no further resets; omitted: false.")
    history_limit: int | None = Field(default=None, ge=0, le=100, description="SystemResets to keep; omitted: 3.")


class Schedule(Model):
    """Times at which VMs are on, and at which they are reset."""

    time_zone: Word = Field(description="Name in the IANA database, such as Europe/Berlin.")
    power_windows: list[PowerWindow] | None = Field(
        default=None,
        max_length=MAX_RULES,
        description="Times in which VMs with powerState Scheduled are on.",
        json_schema_extra=MAP_BY_NAME,
    )
    resets: list[ScheduledReset] | None = Field(
        default=None, max_length=MAX_RULES, description="Resets at certain times.", json_schema_extra=MAP_BY_NAME
    )


class Expiration(Model):
    """What happens to a deployment that is no longer needed."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.action != 'DeleteInstances'",
            "action: DeleteInstances is reserved for a later version of Kigi, which gives it its function; use "
            "PowerOff",
            ".action",
        ),
    )

    time: datetime = Field(description="Time of the action, RFC 3339, by the operator's clock.")
    notice_seconds: int | None = Field(
        default=None,
        ge=0,
        le=31_536_000,
        description="Seconds before the time at which the condition Expiring is True; omitted: 0.",
    )
    action: Literal["PowerOff", "DeleteInstances"] = Field(
        description="PowerOff: VMs are shut down, whatever power state the instances have, and disks stay. "
        "DeleteInstances: reserved; instances and disks are deleted, the deployment stays. Further values may be "
        "added: treat an unknown one as PowerOff."
    )
