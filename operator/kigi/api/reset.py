"""SystemReset: a request to give machines of a deployment fresh disks, once."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import Field, JsonValue

from kigi.api.base import (
    AGE_COLUMN,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    MachineName,
    Metadata,
    Model,
    ObjectName,
    ObjectRef,
    Rule,
    Status,
    UserName,
    planned,
)
from kigi.api.instance import InstanceName
from kigi.domain import kinds

MAX_INSTANCES = 1000
MAX_MACHINES = 128
MAX_FAILED = 50
MAX_MESSAGE = 300
YEAR_S = 31_536_000
SET: dict[str, JsonValue] = {"x-kubernetes-list-type": "set"}


def _same(field: str) -> str:
    """CEL: the optional field is as it was."""
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"


class CaptureFirst(Model):
    """Reserved: keeps what the guests wrote before it is lost."""

    system_name_prefix: ObjectName = Field(
        max_length=200, description="Prefix of the names of the SystemNodes that are made, one per instance."
    )


class SystemResetSpec(Model):
    """What to reset. Immutable apart from ttlSecondsAfterFinished: another reset is another object."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.deploymentRef == oldSelf.deploymentRef && self.requestedBy == oldSelf.requestedBy && "
            + " && ".join(_same(name) for name in ("instances", "machines", "reason", "captureFirst")),
            "spec is immutable apart from ttlSecondsAfterFinished; create another SystemReset instead",
        ),
        planned("captureFirst"),
    )

    deployment_ref: ObjectRef = Field(
        description="SystemDeployment whose machines are reset, in this namespace. It must exist when the request "
        "is made."
    )
    instances: list[InstanceName] = Field(
        default_factory=list,
        max_length=MAX_INSTANCES,
        description="Names of instances within the deployment; omitted: all that exist when the request is made. One "
        "unknown name refuses the whole request.",
        json_schema_extra=SET,
    )
    machines: list[MachineName] = Field(
        default_factory=list,
        max_length=MAX_MACHINES,
        description="Names of machines; omitted: all. Instances without a machine of that name are left out; a name "
        "that none of them has refuses the whole request.",
        json_schema_extra=SET,
    )
    capture_first: CaptureFirst | None = Field(
        default=None, description="Reserved: captures each instance before it is reset; omitted: nothing is captured."
    )
    requested_by: UserName = Field(
        description="Name of the user who makes the request. An admission policy refuses any other name than that of "
        "the caller; kubectl auth whoami prints it.",
    )
    reason: str | None = Field(
        default=None, max_length=1024, description="Free text for people; omitted: no reason is given."
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=YEAR_S,
        description="Seconds after the end of the request at which the operator deletes it; omitted: it stays. May be "
        "changed at any time. The deletion of a request resets nothing.",
    )


class FailedMachine(Model):
    """A machine that has trouble after its reset."""

    instance: Annotated[str, Field(max_length=16)] = Field(description="Name of the instance.")
    machine: Annotated[str, Field(max_length=20)] = Field(description="Name of the machine.")
    state: str = Field(max_length=24, description="Unschedulable, CrashLooping or Failed; further values may be added.")
    message: str | None = Field(
        default=None, max_length=MAX_MESSAGE, description="Why it does not run; omitted: no reason is known."
    )


class SystemResetStatus(Status):
    """Progress and result. A report: no decision reads it, except that a finished request is deleted after its time."""

    start_time: datetime | None = Field(
        default=None, description="Time at which the operator first saw the request, RFC 3339; omitted: not yet."
    )
    completion_time: datetime | None = Field(
        default=None, description="Time of the end, complete or refused, RFC 3339; omitted: it has not ended."
    )
    targets: int = Field(default=0, description="Number of machines to reset.")
    succeeded: int = Field(default=0, description="Number of machines that are as desired on their fresh disks.")
    failed: int = Field(default=0, description="Number of machines with trouble on their fresh disks.")
    failed_machines: list[FailedMachine] = Field(
        default_factory=list,
        max_length=MAX_FAILED,
        description=f"Machines with trouble, at most {MAX_FAILED}.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    missing_bytes: int = Field(
        default=0,
        description="Bytes of layers that the nodes lacked when the fresh disks were made; each node counts one once.",
    )
    summary: str | None = Field(
        default=None,
        max_length=24,
        description="Machines on fresh disks, of all machines, such as 29/30; omitted: unknown.",
    )


class SystemReset(Model):
    """A request to give machines of a deployment fresh disks, once. What their guests wrote is lost."""

    KIND: ClassVar[str] = kinds.RESET
    PLURAL: ClassVar[str] = "systemresets"
    SHORT: ClassVar[tuple[str, ...]] = ("kreset",)
    SELECTABLE: ClassVar[tuple[str, ...]] = (".spec.deploymentRef.name",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.size() <= 63",
            "metadata.name: histories name the request; use at most 63 characters",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Deployment", "string", ".spec.deploymentRef.name", "Its SystemDeployment."),
        Column("Machines", "string", ".status.summary", "Machines on fresh disks, of all machines."),
        Column("By", "string", ".spec.requestedBy", "User who made the request."),
        AGE_COLUMN,
        MESSAGE_COLUMN,
        Column("Reason", "string", ".spec.reason", "Free text of the user.", 1),
    )

    metadata: Metadata
    spec: SystemResetSpec
    status: SystemResetStatus = Field(default_factory=SystemResetStatus)
