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

LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$"
MAX_REPLICAS = 1000
MAX_MESSAGE = 300
"""Characters of a machine's message in status: what KubeVirt says can have thousands, and there are many machines."""
MAX_MACHINES = 10_000
"""Of all instances: their status is one object, and etcd takes 1.5 MiB."""


LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]


class MachineOverride(Model):
    """What one machine of one instance has otherwise."""

    name: MachineName = Field(description="Name of the machine.")
    system: NameRef | None = Field(default=None, description="State that this machine alone shall run.")
    reset: str | None = Field(default=None, max_length=128, description="Any text; another text resets this machine.")
    running: bool | None = Field(default=None, description="False: this machine's VM is off.")


class InstanceOverride(Model):
    """What one instance has otherwise."""

    instance: int = Field(
        ge=0,
        le=MAX_REPLICAS - 1,
        description="Index of the instance, from 0; one that does not exist (yet) is allowed.",
    )
    system: NameRef | None = Field(default=None, description="State that this instance shall run.")
    reset: str | None = Field(default=None, max_length=128, description="Any text; another text resets this instance.")
    running: bool | None = Field(default=None, description="False: this instance's VMs are off.")
    machines: list[MachineOverride] = Field(
        default_factory=list,
        max_length=256,
        description="Machines that differ from the rest of the instance.",
        json_schema_extra=MAP_BY_NAME,
    )


class Toleration(Model):
    """A toleration as in a pod's spec."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "operator: a toleration without key tolerates every taint and needs operator Exists",
            ".operator",
        ),
        Rule(
            "!has(self.value) || self.value == '' || !has(self.operator) || self.operator != 'Exists'",
            "value: operator Exists takes no value; delete value, or take operator Equal",
            ".value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds: only effect NoExecute takes it; set that effect, or delete tolerationSeconds",
            ".tolerationSeconds",
        ),
    )

    key: str | None = Field(
        default=None, max_length=317, pattern=LABEL_KEY, description="Taint key; left out: all keys."
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="How value is compared; default Equal."
    )
    value: LabelValue | None = Field(default=None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect to tolerate; left out: all."
    )
    toleration_seconds: int | None = Field(default=None, description="Seconds to tolerate NoExecute.")


SELECTOR_RULE = Rule(
    f"!has(self.nodeSelector) || self.nodeSelector.all(k, k.size() <= 317 && k.matches('{LABEL_KEY}'))",
    "nodeSelector: a key is not a label's name; write it as on the node, such as topology.kubernetes.io/zone",
    ".nodeSelector",
)


class Placement(Model):
    """How instances are put on nodes."""

    RULES: ClassVar[tuple[Rule, ...]] = (SELECTOR_RULE,)

    strategy: Literal["CacheAware", "Spread", "Pack"] = Field(
        default="CacheAware",
        description="CacheAware: fewest bytes to move; Spread: evenly over the nodes; Pack: on as few as possible.",
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
    """Which state shall run, how often, and where. The operator never writes here."""

    system: NameRef = Field(description="SystemNode, the state that shall run; naming another one switches.")
    replicas: int = Field(
        default=1, ge=0, le=MAX_REPLICAS, description="Number of instances: copies of the whole system."
    )
    running: bool = Field(default=True, description="False: caches are warm and disks are ready, VMs are off.")
    reset: str | None = Field(default=None, max_length=128, description="Any text; another text resets all machines.")
    switch_policy: Literal["ResetAll", "KeepUnchanged"] = Field(
        default="ResetAll",
        description="At a switch, ResetAll gives every machine a fresh disk, KeepUnchanged those with another image.",
    )
    overrides: list[InstanceOverride] = Field(
        default_factory=list,
        max_length=MAX_REPLICAS,
        description="Instances that differ from the rest.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["instance"]},
    )
    placement: Placement = Field(default_factory=Placement, description="How instances are put on nodes.")
    isolation: Literal["None", "Instances"] = Field(
        default="None",
        description="Instances: a NetworkPolicy for each instance lets its VMs talk with each other alone; further "
        "policies make exceptions.",
    )
    prefetch: list[NameRef] = Field(
        default_factory=list,
        max_length=64,
        description="Other states whose layers are kept on the same nodes, so that a switch moves nothing.",
        json_schema_extra=MAP_BY_NAME,
    )


class PlanStatus(Model):
    """What the last change of the wish costs in bytes over all nodes."""

    total_bytes: int = Field(default=0, description="Bytes without trees and caches: every machine's whole chain.")
    missing_bytes: int = Field(default=0, description="Bytes of the layers that the nodes lacked when it was planned.")
    moved_bytes: int = Field(default=0, description="Bytes of those layers that the nodes hold since.")
    saved_ratio: float = Field(default=0.0, description="1 - missingBytes / totalBytes, between 0 and 1.")


class Progress(Model):
    """Bytes on their way to the nodes."""

    held_bytes: int = Field(default=0, description="Bytes of wanted layers that the nodes hold, per node each once.")
    wanted_bytes: int = Field(default=0, description="Bytes of wanted layers, per node each once.")
    percent: int = Field(default=0, ge=0, le=100, description="heldBytes of wantedBytes in percent.")


class MachineStatus(Model):
    """One machine of one instance."""

    name: str = Field(description="Name of the machine.")
    node: str | None = Field(default=None, description="Node that it is placed on.")
    state: str = Field(
        description="Pending, Warming, Waiting (for machines that come before it), Starting, Running, Paused, "
        "PoweredOff, Unschedulable, CrashLooping, Failed, Restarting, Stopping or Stopped."
    )
    system: str | None = Field(default=None, description="State that its disk was made for.")
    revision: int = Field(default=0, description="Number of its disk, from 1; every reset and switch adds one.")
    message: str | None = Field(
        default=None, description=f"Why it is not running, when it should; at most {MAX_MESSAGE} characters."
    )


class InstanceStatus(Model):
    """One instance."""

    instance: int = Field(description="Index, from 0.")
    ready: bool = Field(default=False, description="All its machines are as wished.")
    system: str | None = Field(default=None, description="State that it shall run.")
    placement: str | None = Field(default=None, description="Why these nodes were taken.")
    machines: list[MachineStatus] = Field(
        default_factory=list,
        description="Its machines. Where the whole would not fit into one object (some thousand machines), those of "
        "ready instances are without node, and without system where it is the instance's.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class HistoryEntry(Model):
    """One decision to give machines other disks than they had."""

    time: datetime = Field(description="When it was decided, RFC 3339.")
    action: Literal["Deployed", "Switched", "Reset", "Renewed"] = Field(
        description="Deployed: their first disk. Renewed: the disk was lost, with its node or by somebody's hand."
    )
    by: str = Field(description="Field manager that wrote spec last: kubectl, a GitOps controller, kigi-cli.")
    instances: list[int] = Field(
        description="Indices of the instances.", json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    machines: list[str] = Field(
        default_factory=list,
        description="Machines of each; none: all that it has.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    from_system: str | None = Field(default=None, description="State that their disks were of; none: they had none.")
    to_system: str = Field(description="State that their new disks are of.")
    token: str | None = Field(default=None, description="The most specific reset token that they have now.")


class Timings(Model):
    """When each phase of the last change was reached; seconds from the change being seen."""

    started_at: datetime | None = Field(default=None, description="When the change was first seen, RFC 3339.")
    placed_seconds: float | None = Field(default=None, description="Until every machine had a node.")
    cached_seconds: float | None = Field(default=None, description="Until every layer was on its node.")
    machines_created_seconds: float | None = Field(default=None, description="Until every VM pointed at its disk.")
    ready_seconds: float | None = Field(default=None, description="Until every VM ran.")


class SystemDeploymentStatus(Status):
    """What became of it."""

    system: str | None = Field(default=None, description="State that runs, once every instance is ready.")
    plan: PlanStatus | None = Field(default=None, description="Cost in bytes of the last change.")
    progress: Progress | None = Field(default=None, description="Bytes on their way to the nodes.")
    replicas: int = Field(default=0, description="Number of instances that exist.")
    ready_replicas: int = Field(default=0, description="Number of instances whose machines are all as wished.")
    selector: str | None = Field(default=None, description="Label selector of the VMs, for the scale subresource.")
    timings: Timings | None = Field(default=None, description="Duration of the phases of the last change.")
    history: list[HistoryEntry] = Field(
        default_factory=list,
        description="The last switches and resets, oldest first; at most 100.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    instances: list[InstanceStatus] = Field(
        default_factory=list,
        description="The instances.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class SystemDeployment(Model):
    """A system placed on nodes, in one or more instances."""

    KIND: ClassVar[str] = "SystemDeployment"
    PLURAL: ClassVar[str] = "systemdeployments"
    SHORT: ClassVar[tuple[str, ...]] = ("ksd",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.size() <= 32 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name: it is part of the VMs' names; take at most 32 lower-case letters, digits and '-', "
            "beginning with a letter and ending with a letter or digit",
        ),
    )
    SCALE: ClassVar[tuple[str, str, str]] = (".spec.replicas", ".status.replicas", ".status.selector")
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("System", "string", ".spec.system.name", "State that shall run."),
        Column("Ready-Instances", "integer", ".status.readyReplicas", "Instances whose machines are all as wished."),
        Column("Wanted", "integer", ".spec.replicas", "Instances that shall exist."),
        Column("Cached%", "integer", ".status.progress.percent", "Wanted bytes that the nodes hold, in percent."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Running", "string", ".status.system", "State that runs on every instance.", 1),
        Column("Missing", "integer", ".status.plan.missingBytes", "Bytes that the last change had to move.", 1),
        Column("Total", "integer", ".status.plan.totalBytes", "Bytes of the last change without trees and caches.", 1),
        Column("Strategy", "string", ".spec.placement.strategy", "How instances are put on nodes.", 1),
    )

    metadata: Metadata
    spec: SystemDeploymentSpec
    status: SystemDeploymentStatus = Field(default_factory=SystemDeploymentStatus)
