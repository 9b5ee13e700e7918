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
    MachineName,
    Metadata,
    Model,
    NameRef,
    Rule,
    Status,
)
from kigi.domain import kinds

LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$"
MAX_REPLICAS = 1000
MAX_MESSAGE = 300
"""Characters of a machine's message in status: KubeVirt's messages can have thousands, for each of many machines."""
MAX_MACHINES = 10_000
"""Machines of all instances together: their status is part of one object, which etcd limits to 1.5 MiB."""


LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]


class MachineOverride(Model):
    """Settings of one machine of one instance that differ."""

    name: MachineName = Field(description="Name of the machine.")
    system: NameRef | None = Field(default=None, description="State of this machine only.")
    reset: str | None = Field(
        default=None, max_length=128, description="Reset token: changing it to another text resets this machine."
    )
    running: bool | None = Field(default=None, description="False: this machine's VM is off.")


class InstanceOverride(Model):
    """Settings of one instance that differ."""

    instance: int = Field(
        ge=0,
        le=MAX_REPLICAS - 1,
        description="Index of the instance, from 0; it may exceed spec.replicas and then has no effect yet.",
    )
    system: NameRef | None = Field(default=None, description="State of this instance.")
    reset: str | None = Field(
        default=None, max_length=128, description="Reset token: changing it to another text resets this instance."
    )
    running: bool | None = Field(default=None, description="False: this instance's VMs are off.")
    machines: list[MachineOverride] = Field(
        default_factory=list,
        max_length=256,
        description="Machines that differ from the rest of the instance.",
        json_schema_extra=MAP_BY_NAME,
    )


class Toleration(Model):
    """A toleration, as in a pod's spec."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "operator: a toleration without key tolerates every taint and needs operator Exists",
            ".operator",
        ),
        Rule(
            "!has(self.value) || self.value == '' || !has(self.operator) || self.operator != 'Exists'",
            "value: operator Exists has no value; delete value, or use operator Equal",
            ".value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds: only effect NoExecute has it; set that effect, or delete tolerationSeconds",
            ".tolerationSeconds",
        ),
    )

    key: str | None = Field(
        default=None, max_length=317, pattern=LABEL_KEY, description="Taint key; omitted: all keys."
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Exists, or Equal (default): whether the value matters."
    )
    value: LabelValue | None = Field(default=None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect to tolerate; omitted: all."
    )
    toleration_seconds: int | None = Field(default=None, description="Seconds for which NoExecute is tolerated.")


SELECTOR_RULE = Rule(
    f"!has(self.nodeSelector) || self.nodeSelector.all(k, k.size() <= 317 && k.matches('{LABEL_KEY}'))",
    "nodeSelector: a key is not a valid label key; write it as on the node, such as topology.kubernetes.io/zone",
    ".nodeSelector",
)


class Placement(Model):
    """Rules for placing instances on nodes."""

    RULES: ClassVar[tuple[Rule, ...]] = (SELECTOR_RULE,)

    strategy: Literal["CacheAware", "Spread", "Pack"] = Field(
        default="CacheAware",
        description="CacheAware: fewest bytes to move. Spread: evenly over nodes. Pack: on as few nodes as possible.",
    )
    node_selector: dict[str, LabelValue] = Field(
        default_factory=dict, description="Labels that a node must have.", json_schema_extra={"maxProperties": 32}
    )
    tolerations: list[Toleration] = Field(
        default_factory=list,
        max_length=32,
        description="Taints that the VMs tolerate.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class SystemDeploymentSpec(Model):
    """The state to run, the number of its instances, and their nodes. The operator never writes the spec."""

    system: NameRef = Field(description="SystemNode: the state to run. Changing it is a switch.")
    replicas: int = Field(
        default=1, ge=0, le=MAX_REPLICAS, description="Number of instances, which are copies of the whole system."
    )
    running: bool = Field(default=True, description="False: caches are warm and disks are ready, but VMs are off.")
    reset: str | None = Field(
        default=None, max_length=128, description="Reset token: changing it to another text resets all machines."
    )
    switch_policy: Literal["ResetAll", "KeepUnchanged"] = Field(
        default="ResetAll",
        description="A switch gives fresh disks to all machines (ResetAll), or only to those with other images.",
    )
    overrides: list[InstanceOverride] = Field(
        default_factory=list,
        max_length=MAX_REPLICAS,
        description="Instances that differ from the rest.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["instance"]},
    )
    placement: Placement = Field(default_factory=Placement, description="Rules for placing instances on nodes.")
    isolation: Literal["None", "Instances"] = Field(
        default="None",
        description="Instances: a NetworkPolicy per instance restricts its VMs to traffic with each other; additional "
        "policies make exceptions.",
    )
    prefetch: list[NameRef] = Field(
        default_factory=list,
        max_length=64,
        description="Other states whose layers are kept on the same nodes, so that a switch moves no bytes.",
        json_schema_extra=MAP_BY_NAME,
    )


class PlanStatus(Model):
    """Cost of the last change of the spec in bytes, over all nodes."""

    total_bytes: int = Field(default=0, description="Bytes without trees and caches: the whole chains of all machines.")
    missing_bytes: int = Field(
        default=0, description="Bytes of the layers that the nodes lacked when the change was planned."
    )
    moved_bytes: int = Field(default=0, description="Bytes of those layers that the nodes have received since.")
    saved_ratio: float = Field(default=0.0, description="1 - missingBytes / totalBytes, between 0 and 1.")


class Progress(Model):
    """Progress of moving layers to the nodes."""

    held_bytes: int = Field(
        default=0, description="Bytes of wanted layers that the nodes hold; each node counts a layer once."
    )
    wanted_bytes: int = Field(default=0, description="Bytes of wanted layers; each node counts a layer once.")
    percent: int = Field(default=0, ge=0, le=100, description="heldBytes as a percentage of wantedBytes.")


class MachineStatus(Model):
    """One machine of one instance."""

    name: str = Field(description="Name of the machine.")
    node: str | None = Field(default=None, description="Node of its disks.")
    state: str = Field(
        description="Pending, Warming, Waiting (for machines that start before it), Starting, Running, Paused, "
        "PoweredOff, Unschedulable, CrashLooping, Failed, Restarting, Stopping or Stopped."
    )
    system: str | None = Field(default=None, description="State that its disk was created for.")
    revision: int = Field(default=0, description="Revision of its disks, from 1; a reset or switch increments it.")
    message: str | None = Field(
        default=None, description=f"Why it does not run although it should; at most {MAX_MESSAGE} characters."
    )


class InstanceStatus(Model):
    """One instance."""

    instance: int = Field(description="Index, from 0.")
    ready: bool = Field(default=False, description="True if all its machines are as desired.")
    system: str | None = Field(default=None, description="Desired state.")
    placement: str | None = Field(default=None, description="Reason for the choice of nodes.")
    machines: list[MachineStatus] = Field(
        default_factory=list,
        description="Its machines. If the status would not fit into one object (some thousand machines), machines of "
        "ready instances omit their node, and their system if it equals that of the instance.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class HistoryEntry(Model):
    """One decision to replace disks of machines."""

    time: datetime = Field(description="Time of the decision, RFC 3339.")
    action: Literal["Deployed", "Switched", "Reset", "Renewed"] = Field(
        description="Deployed: the first disk. Renewed: the disk was lost with its node, or a user deleted it."
    )
    by: str = Field(
        description="Field manager that wrote the spec last, such as kubectl, kigi-cli or a GitOps controller."
    )
    instances: list[int] = Field(
        description="Indices of the instances.", json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    machines: list[str] = Field(
        default_factory=list,
        description="Machines of each instance; empty: all machines.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    from_system: str | None = Field(default=None, description="State of the previous disks; omitted: there were none.")
    to_system: str = Field(description="State of the new disks.")
    token: str | None = Field(default=None, description="The most specific reset token of the new disks.")


class Timings(Model):
    """Times at which the last change reached each phase, in seconds since the operator first saw it."""

    started_at: datetime | None = Field(
        default=None, description="Time at which the operator first saw the change, RFC 3339."
    )
    placed_seconds: float | None = Field(default=None, description="Seconds until every machine had a node.")
    cached_seconds: float | None = Field(default=None, description="Seconds until every layer was on its node.")
    machines_created_seconds: float | None = Field(default=None, description="Seconds until every VM named its disk.")
    ready_seconds: float | None = Field(default=None, description="Seconds until every VM ran.")


class SystemDeploymentStatus(Status):
    """Observed state of the deployment."""

    system: str | None = Field(
        default=None, description="State that ran on every instance when the deployment was last ready."
    )
    plan: PlanStatus | None = Field(default=None, description="Cost in bytes of the last change.")
    progress: Progress | None = Field(default=None, description="Progress of moving layers to the nodes.")
    replicas: int = Field(default=0, description="Number of instances that exist.")
    ready_replicas: int = Field(default=0, description="Number of instances whose machines are all as desired.")
    selector: str | None = Field(default=None, description="Label selector of the VMs, for the scale subresource.")
    timings: Timings | None = Field(default=None, description="Duration of each phase of the last change.")
    history: list[HistoryEntry] = Field(
        default_factory=list,
        description="Last switches and resets, oldest first, at most 100.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    instances: list[InstanceStatus] = Field(
        default_factory=list,
        description="All instances, by index.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class SystemDeployment(Model):
    """A system placed on nodes, in one or more instances."""

    KIND: ClassVar[str] = kinds.DEPLOYMENT
    PLURAL: ClassVar[str] = "systemdeployments"
    SHORT: ClassVar[tuple[str, ...]] = ("ksd",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.size() <= 32 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name: it is part of the VMs' names; use at most 32 lower-case letters, digits and '-', "
            "beginning with a letter and ending with a letter or digit",
        ),
    )
    SCALE: ClassVar[tuple[str, str, str]] = (".spec.replicas", ".status.replicas", ".status.selector")
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("System", "string", ".spec.system.name", "Desired state."),
        Column("Ready-Instances", "integer", ".status.readyReplicas", "Instances whose machines are all as desired."),
        Column("Wanted", "integer", ".spec.replicas", "Desired number of instances."),
        Column("Cached%", "integer", ".status.progress.percent", "Wanted bytes that the nodes hold, in percent."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Running", "string", ".status.system", "State that runs on every instance.", 1),
        Column("Missing", "integer", ".status.plan.missingBytes", "Bytes that the last change had to move.", 1),
        Column("Total", "integer", ".status.plan.totalBytes", "Bytes of the last change without trees and caches.", 1),
        Column("Strategy", "string", ".spec.placement.strategy", "Strategy of placing instances on nodes.", 1),
    )

    metadata: Metadata
    spec: SystemDeploymentSpec
    status: SystemDeploymentStatus = Field(default_factory=SystemDeploymentStatus)
