"""SystemDeployment: a system placed on nodes, in one or more instances."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

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
    Rule,
    Status,
    planned,
)
from kigi.api.instance import InstanceName, StateName, StateRef
from kigi.api.machine_hardware import QuantityText
from kigi.api.placement import Placement
from kigi.api.planned_deployment import AllowRule, Expiration, NetworkBinding, Schedule
from kigi.api.selectors import LABEL_KEY, LabelValue
from kigi.api.update_strategy import UpdateStrategy
from kigi.domain import kinds

MAX_REPLICAS = 1000
MAX_NAMED = 300
"""Named instances; with their labels they must fit into one object."""
MAX_UNREADY = 20
FIRST_ORDINAL = 1


class Ordinals(Model):
    """Names of the instances of ``replicas``."""

    start: int | None = Field(
        default=None, ge=0, le=1_000_000, description="Name of the first instance, as a number; omitted: 1."
    )


class NamedInstance(Model):
    """One instance with a name of its own."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.labels) || self.labels.all(k, k.size() <= 317 && k.matches('{LABEL_KEY}') && "
            "!k.startsWith('kigi.dev/'))",
            "labels: use valid label keys such as 'team' or 'example.org/team'; those of kigi.dev/ belong to Kigi",
            ".labels",
        ),
    )

    name: InstanceName = Field(description="Name of the instance: at most 16 lower-case letters and digits.")
    display_name: str | None = Field(default=None, max_length=128, description="Free text for people.")
    labels: dict[str, LabelValue] | None = Field(
        default=None,
        description="Labels that the SystemInstance gets when it is created.",
        json_schema_extra={"maxProperties": 6},
    )


class Isolation(Model):
    """Traffic that the VMs of an instance may have."""

    RULES: ClassVar[tuple[Rule, ...]] = (planned("allow"),)

    mode: Literal["None", "Instance"] | None = Field(
        default=None,
        description="None (default): all. Instance: a NetworkPolicy per instance restricts its VMs to traffic with "
        "each other; additional policies make exceptions. Unknown: as Instance; further values may be added.",
    )
    allow: list[AllowRule] | None = Field(
        default=None,
        max_length=32,
        description="Reserved. Exceptions from the isolation.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


PLANNED = ("startPolicy", "memoryPolicy", "networks", "writeLimit", "schedule")


class SystemDeploymentSpec(Model):
    """The state to run, its instances, and their nodes. The operator never writes the spec."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.instances) || !(has(self.replicas) || has(self.ordinals))",
            "instances: names all instances; delete replicas and ordinals, or instances",
            ".instances",
        ),
        Rule(
            "!has(self.powerState) || self.powerState != 'Scheduled'",
            "powerState: Scheduled is reserved for a later version of Kigi, which has schedules; use On or Off",
            ".powerState",
        ),
        *map(planned, PLANNED),
    )

    system_ref: StateRef = Field(description="SystemNode: the state to run. Changing it is a switch.")
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=MAX_REPLICAS,
        description="Number of instances, which are copies of the whole system; omitted: 1. Their names are numbers. "
        "kubectl scale needs a value here.",
    )
    ordinals: Ordinals | None = Field(default=None, description="Names of the instances of replicas.")
    instances: list[NamedInstance] | None = Field(
        default=None,
        max_length=MAX_NAMED,
        description="Instances by name, in place of replicas. A name that leaves the list is deleted with its disks.",
        json_schema_extra=MAP_BY_NAME,
    )
    power_state: Literal["On", "Off", "Scheduled"] | None = Field(
        default=None,
        description="On (default), or Off: caches are warm and disks are ready, but VMs are off. Unknown: as On; "
        "further values may be added.",
    )
    reset_token: str | None = Field(
        default=None,
        max_length=128,
        description="Any text; a text that a machine's disk has not had before resets the machine. For declarations in "
        "Git: each disk remembers the last 16 texts, so that neither an older text nor none resets anything.",
    )
    start_policy: Literal["WhenCached", "WhenReadable"] | None = Field(
        default=None,
        description="Reserved. When a VM starts: WhenCached (default), WhenReadable. Unknown: as WhenCached; further "
        "values may be added.",
    )
    memory_policy: Literal["Never", "IfCompatible", "Required"] | None = Field(
        default=None,
        description="Reserved. Whether a VM starts from a memory image: Never, IfCompatible (default), Required. "
        "Unknown: as Never; further values may be added.",
    )
    update_strategy: UpdateStrategy | None = Field(
        default=None, description="How machines take another state; omitted: every field has its default."
    )
    placement: Placement = Field(default_factory=Placement, description="Rules for placing instances on nodes.")
    networks: list[NetworkBinding] | None = Field(
        default=None,
        max_length=32,
        description="Reserved. Networks of the cluster for the networks that the state names.",
        json_schema_extra=MAP_BY_NAME,
    )
    isolation: Isolation | None = Field(
        default=None, description="Traffic that the VMs of an instance may have; omitted: all."
    )
    prefetch_refs: list[StateRef] = Field(
        default_factory=list,
        max_length=64,
        description="Other SystemNodes whose layers are kept on the same nodes, so that a switch moves no bytes.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    write_limit: QuantityText | None = Field(
        default=None, description="Reserved. Most bytes that a guest may write to each disk."
    )
    schedule: Schedule | None = Field(default=None, description="Reserved. Times of power and resets.")
    expiration: Expiration | None = Field(
        default=None, description="End of the deployment's use, which a condition announces; omitted: none."
    )

    def instance_names(self) -> tuple[str, ...]:
        """Names of the instances that the spec asks for, in their order."""
        if self.instances is not None:
            return tuple(instance.name for instance in self.instances)
        return tuple(str(number) for number in range(self._first, self._first + self._count))

    def selects(self, name: str) -> bool:
        """Whether the spec asks for an instance of that name; faster than ``instance_names``."""
        if self.instances is not None:
            return any(instance.name == name for instance in self.instances)
        number = int(name) if name.isascii() and name.isdecimal() else -1
        return str(number) == name and self._first <= number < self._first + self._count

    @property
    def _first(self) -> int:
        return self.ordinals.start if self.ordinals and self.ordinals.start is not None else FIRST_ORDINAL

    @property
    def _count(self) -> int:
        return 1 if self.replicas is None else self.replicas

    @property
    def isolated(self) -> bool:
        """Whether each instance has a NetworkPolicy."""
        return self.isolation is not None and self.isolation.mode not in (None, "None")


class PlanStatus(Model):
    """Cost of the last change of the spec in bytes, over all nodes; each node counts a layer once."""

    total_bytes: int = Field(default=0, description="Bytes without trees and caches: the whole chains of all machines.")
    missing_bytes: int = Field(default=0, description="Bytes of the layers that the nodes lacked when it was made.")
    moved_bytes: int = Field(default=0, description="Bytes of those layers that the nodes have received since.")


class Progress(Model):
    """Progress of moving layers to the nodes."""

    held_bytes: int = Field(
        default=0, description="Bytes of wanted layers that the nodes hold; each node counts a layer once."
    )
    wanted_bytes: int = Field(default=0, description="Bytes of wanted layers; each node counts a layer once.")
    percent: int = Field(default=0, description="heldBytes as a percentage of wantedBytes.")


class LastChange(Model):
    """Times at which the last change of the spec reached each phase, since the operator first saw it."""

    start_time: datetime | None = Field(
        default=None, description="Time at which the operator first saw the change, RFC 3339."
    )
    placed_milliseconds: int | None = Field(default=None, description="Milliseconds until every machine had a node.")
    cached_milliseconds: int | None = Field(default=None, description="Milliseconds until every layer was on its node.")
    machines_created_milliseconds: int | None = Field(
        default=None, description="Milliseconds until every VM named its disk."
    )
    ready_milliseconds: int | None = Field(default=None, description="Milliseconds until every VM ran.")


class SystemDeploymentStatus(Status):
    """Observed state of the deployment: counts over its SystemInstances, which have the details."""

    replicas: int = Field(default=0, description="Number of SystemInstances that exist.")
    ready_replicas: int = Field(default=0, description="Number of them whose machines are all as desired.")
    updated_replicas: int = Field(
        default=0,
        description="Number of them whose machines all have the present content of their state; the others wait for a "
        "reset, see spec.updateStrategy.onEdit.",
    )
    stopped_replicas: int = Field(default=0, description="Number of ready instances whose VMs should all be off.")
    summary: str | None = Field(
        default=None, max_length=16, description="Ready instances of all that the spec asks for, such as 29/30."
    )
    selector: str | None = Field(
        default=None, max_length=256, description="Label selector of the VMs, for the scale subresource."
    )
    system_name: StateName | None = Field(
        default=None, description="State that ran on every instance when the deployment was last ready."
    )
    unready_instances: list[Annotated[str, Field(max_length=16)]] = Field(
        default_factory=list,
        max_length=MAX_UNREADY,
        description=f"Names of instances that are not ready, at most {MAX_UNREADY}.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    plan: PlanStatus | None = Field(default=None, description="Cost in bytes of the last change.")
    progress: Progress | None = Field(default=None, description="Progress of moving layers to the nodes.")
    last_change: LastChange | None = Field(default=None, description="Duration of each phase of the last change.")


_ORDINAL_LENGTH = (
    "string((has(self.spec.ordinals) && has(self.spec.ordinals.start) ? self.spec.ordinals.start : 1) + "
    "(has(self.spec.replicas) ? self.spec.replicas : 1)).size()"
)


class SystemDeployment(Model):
    """A system placed on nodes, in one or more instances."""

    KIND: ClassVar[str] = kinds.DEPLOYMENT
    PLURAL: ClassVar[str] = "systemdeployments"
    SHORT: ClassVar[tuple[str, ...]] = ("ksd",)
    SELECTABLE: ClassVar[tuple[str, ...]] = (".spec.systemRef.name",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.size() <= 35 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name: it is part of the VMs' names; use at most 35 lower-case letters, digits and '-', "
            "beginning with a letter and ending with a letter or digit",
        ),
        Rule(
            "has(self.spec.instances) ? self.spec.instances.all(i, self.metadata.name.size() + i.name.size() <= 36) : "
            f"self.metadata.name.size() + {_ORDINAL_LENGTH} <= 36",
            "metadata.name: together with the longest name of an instance it has at most 36 characters; use a shorter "
            "one, as both are part of the VMs' names",
        ),
    )
    SCALE: ClassVar[tuple[str, str, str]] = (".spec.replicas", ".status.replicas", ".status.selector")
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("System", "string", ".spec.systemRef.name", "Desired state."),
        Column("Instances", "string", ".status.summary", "Ready instances of all that the spec asks for."),
        Column("Cached%", "integer", ".status.progress.percent", "Wanted bytes that the nodes hold, in percent."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Running", "string", ".status.systemName", "State that runs on every instance.", 1),
        Column("Missing", "integer", ".status.plan.missingBytes", "Bytes that the last change had to move.", 1),
        Column("Total", "integer", ".status.plan.totalBytes", "Bytes of the last change without trees and caches.", 1),
        Column("Strategy", "string", ".spec.placement.strategy", "Strategy of placing instances on nodes.", 1),
    )

    metadata: Metadata
    spec: SystemDeploymentSpec
    status: SystemDeploymentStatus = Field(default_factory=SystemDeploymentStatus)
