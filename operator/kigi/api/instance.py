"""SystemInstance: one copy of a deployment's system, such as a team's, with what differs from its deployment."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kigi.api.base import (
    AGE_COLUMN,
    DNS_SUBDOMAIN,
    MAP_BY_NAME,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    Condition,
    MachineName,
    Metadata,
    Model,
    NamespaceName,
    ObjectRef,
    Rule,
    Status,
    TreeRef,
)
from kigi.domain import kinds
from kigi.domain.names import INSTANCE_NAME

MAX_INSTANCE_MACHINES = 128
MAX_STATE_NAME = 127
MAX_HISTORY = 20
MAX_HISTORY_MACHINES = 8
MAX_NODE_NAMES = 30
MAX_MESSAGE = 120
"""Characters of a machine's message in status: KubeVirt's messages can have thousands, for each of many machines."""
MAX_CONDITIONS = 10

InstanceName = Annotated[str, Field(min_length=1, max_length=16, pattern=INSTANCE_NAME)]
StateName = Annotated[str, Field(max_length=MAX_STATE_NAME)]
"""A SystemNode, NAMESPACE/NAME if it is of another namespace; names of both have at most 63 characters."""


class StateRef(TreeRef):
    """Reference to a SystemNode."""

    namespace: NamespaceName | None = Field(
        default=None,
        description="Namespace of the SystemNode, which needs a TreeGrant there; omitted: this namespace.",
    )
    name: Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_SUBDOMAIN)] = Field(
        description="Name of the SystemNode."
    )


class MachineSettings(Model):
    """What differs for one machine of the instance. Absent fields: as the instance."""

    name: MachineName = Field(description="Name of the machine in the instance's state.")
    system_ref: StateRef | None = Field(
        default=None, description="State of this machine only; omitted: the state of the instance."
    )
    power_state: Literal["On", "Off"] | None = Field(
        default=None,
        description="On, or Off: the VM is shut down and its disks stay. Omitted: as the instance; further values may "
        "be added: treat an unknown one as On.",
    )


class SystemInstanceSpec(Model):
    """Identity, which never changes, and what differs from the deployment.

    The operator writes it only when it creates the object. Every absent field means: as the deployment.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.deploymentRef == oldSelf.deploymentRef",
            "deploymentRef: immutable; create another SystemInstance instead",
        ),
        Rule("self.name == oldSelf.name", "name: immutable; create another SystemInstance instead"),
    )

    deployment_ref: ObjectRef = Field(description="SystemDeployment that the instance is a copy of, in this namespace.")
    name: InstanceName = Field(
        description="Name of the instance within its deployment: at most 16 lower-case letters and digits."
    )
    system_ref: StateRef | None = Field(
        default=None,
        description="SystemNode: the state of this instance; omitted: that of the deployment. Changing it is a switch.",
    )
    power_state: Literal["On", "Off"] | None = Field(
        default=None,
        description="On, or Off: all VMs of the instance are shut down and their disks stay. Omitted: as the "
        "deployment; further values may be added: treat an unknown one as On.",
    )
    machines: list[MachineSettings] = Field(
        default_factory=list,
        max_length=MAX_INSTANCE_MACHINES,
        description="Machines that differ from the rest of the instance.",
        json_schema_extra=MAP_BY_NAME,
    )


class MachineStatus(Model):
    """One machine of the instance."""

    name: str = Field(max_length=20, description="Name of the machine.")
    state: str = Field(
        max_length=24,
        description="Pending, Warming, Waiting (for machines that start before it), Starting, Running, Paused, "
        "PoweredOff, Unschedulable, CrashLooping, Failed, Restarting, Stopping or Stopped; further values may be "
        "added: treat an unknown one as in progress.",
    )
    node_name: str | None = Field(default=None, max_length=63, description="Node of its disks.")
    system_name: StateName | None = Field(
        default=None, description="State that its disk was created for; omitted: the instance's systemName."
    )
    revision: int = Field(default=0, description="Revision of its disks, from 1; a reset or switch increments it.")
    written_bytes: int | None = Field(
        default=None,
        description="Bytes that its guest has written to its disks since they were fresh, which a reset would lose: "
        "rounded up by at most a quarter, counted about once in a minute. Omitted: unknown.",
    )
    message: str | None = Field(
        default=None,
        max_length=MAX_MESSAGE,
        description=f"Why it does not run although it should; at most {MAX_MESSAGE} characters.",
    )


class HistoryEntry(Model):
    """One decision to replace disks of the instance."""

    decision_time: datetime = Field(description="Time of the decision, RFC 3339.")
    action: str = Field(
        max_length=24,
        description="Deployed (the first disks), Switched, Reset, or Renewed (a disk was lost with its node, or a user "
        "deleted it); further values may be added.",
    )
    request_name: str | None = Field(
        default=None, max_length=63, description="SystemReset that asked for it; omitted: none."
    )
    requested_by: str | None = Field(
        default=None,
        max_length=128,
        description="User who asked for it; without a request: the field manager that wrote the spec last, such as "
        "kubectl or a GitOps controller.",
    )
    from_system_name: StateName | None = Field(
        default=None, description="State of the previous disks; omitted: there were none."
    )
    to_system_name: StateName = Field(description="State of the new disks.")
    machine_count: int = Field(default=0, description="Number of machines with new disks.")
    machines: list[Annotated[str, Field(max_length=20)]] = Field(
        default_factory=list,
        max_length=MAX_HISTORY_MACHINES,
        description=f"Names of those machines, at most {MAX_HISTORY_MACHINES}; empty: all machines of the instance.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class SystemInstanceStatus(Status):
    """Observed state of the instance."""

    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=MAX_CONDITIONS,
        description="Ready, Reconciling, Stalled, Resolved, Placed, Cached, DisksReady, MachinesCreated, Isolated.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    deployment_generation: int | None = Field(
        default=None, description="metadata.generation of the SystemDeployment that the status is about."
    )
    system_name: StateName | None = Field(default=None, description="Desired state.")
    summary: str | None = Field(
        default=None, max_length=16, description="Machines that are as desired, of all machines, such as 9/10."
    )
    node_names: list[Annotated[str, Field(max_length=63)]] = Field(
        default_factory=list,
        max_length=MAX_NODE_NAMES,
        description=f"Nodes of its disks, at most {MAX_NODE_NAMES} of them.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    placement: str | None = Field(default=None, max_length=256, description="Reason for the choice of nodes.")
    running_machines: int = Field(default=0, description="Number of machines that run.")
    machines: list[MachineStatus] = Field(
        default_factory=list,
        max_length=MAX_INSTANCE_MACHINES,
        description="Its machines.",
        json_schema_extra=MAP_BY_NAME,
    )
    history: list[HistoryEntry] = Field(
        default_factory=list,
        max_length=MAX_HISTORY,
        description=f"Last decisions to replace disks, oldest first, at most {MAX_HISTORY}.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class SystemInstance(Model):
    """One copy of a deployment's system, such as a team's; the operator creates one per instance of a deployment."""

    KIND: ClassVar[str] = kinds.INSTANCE
    PLURAL: ClassVar[str] = "systeminstances"
    SHORT: ClassVar[tuple[str, ...]] = ("ksi",)
    SELECTABLE: ClassVar[tuple[str, ...]] = (".spec.deploymentRef.name", ".spec.name", ".spec.systemRef.name")
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name == self.spec.deploymentRef.name + '-' + self.spec.name",
            "metadata.name: must be <spec.deploymentRef.name>-<spec.name>; rename the object",
        ),
        Rule(
            "self.spec.deploymentRef.name.size() + self.spec.name.size() <= 36 && "
            "self.spec.deploymentRef.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "spec: the names of deployment and instance are part of the VMs' names; together at most 36 characters",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("System", "string", ".status.systemName", "Desired state."),
        Column("Machines", "string", ".status.summary", "Machines that are as desired, of all machines."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Deployment", "string", ".spec.deploymentRef.name", "Its SystemDeployment.", 1),
        Column("Instance", "string", ".spec.name", "Name within its deployment.", 1),
        Column("Placement", "string", ".status.placement", "Reason for the choice of nodes.", 1),
    )

    metadata: Metadata
    spec: SystemInstanceSpec
    status: SystemInstanceStatus = Field(default_factory=SystemInstanceStatus)
