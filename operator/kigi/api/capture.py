"""SystemCapture: a running instance of a deployment, saved as a new state of the system tree."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from kigi.api.base import (
    AGE_COLUMN,
    DNS_LABEL,
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
from kigi.api.deployment import MAX_REPLICAS
from kigi.domain import kinds
from kigi.domain.layers import DEFAULT_REPOSITORY

CapturePhase = Literal[
    "Pending", "Checking", "Pausing", "Copying", "Resuming", "Storing", "Publishing", "Done", "Failed"
]
DiskState = Literal["Waiting", "Copied", "Storing", "Stored", "Unchanged", "Refused"]


class SystemCaptureSpec(Model):
    """What to capture. Immutable: another capture is another object."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("self == oldSelf", "spec is immutable; create another SystemCapture instead"),
    )

    deployment: NameRef = Field(description="SystemDeployment whose instance is captured.")
    instance: int = Field(default=0, ge=0, le=MAX_REPLICAS - 1, description="Index of the instance, from 0.")
    machines: list[MachineName] = Field(
        default_factory=list,
        max_length=256,
        description="Machines to capture, at the same moment; none: all. The others stay as in the parent state.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    system: ObjectName | None = Field(
        default=None,
        max_length=200,
        description="Name of the resulting SystemNode, and prefix of the names of its images; default: this object's "
        "name.",
    )
    quiesce: Literal["Auto", "Pause"] = Field(
        default="Auto",
        description="Auto: guests with an agent also flush and freeze their file systems before they are paused. "
        "Pause: VMs are only paused.",
    )
    repository: str = Field(
        default=DEFAULT_REPOSITORY, max_length=63, pattern=DNS_LABEL, description="Repository of the new layers."
    )
    description: str | None = Field(default=None, max_length=4096, description="Free text, for the SystemNode.")


class CapturedMachine(Model):
    """The pause of one VM. Times are the operator's, taken before and after its requests to KubeVirt."""

    name: str = Field(description="Name of the machine.")
    vmi_uid: str | None = Field(default=None, description="uid of its VirtualMachineInstance; none: the VM was off.")
    method: Literal["Off", "Pause", "FreezeAndPause", "AlreadyPaused"] = Field(
        default="Off",
        description="How it is paused. AlreadyPaused: a user has paused it, and it stays paused.",
    )
    requested_at: datetime | None = Field(
        default=None, description="Time before the request to freeze or pause it, RFC 3339."
    )
    paused_at: datetime | None = Field(default=None, description="Time at which KubeVirt had paused it, RFC 3339.")
    resumed_at: datetime | None = Field(default=None, description="Time at which KubeVirt had resumed it, RFC 3339.")
    pause_milliseconds: int | None = Field(
        default=None, description="Time from the request to pause it until it was resumed: an upper bound of the pause."
    )


class CapturedDisk(Model):
    """One disk, from the frozen copy to the image."""

    name: str = Field(description="machine for the boot disk, machine/disk for a further disk.")
    machine: str = Field(description="Name of the machine.")
    disk: str = Field(default="", description="Name of the further disk; empty: the boot disk.")
    id: str = Field(description="Name of the copy on its node; each attempt has its own.")
    node: str = Field(description="Node that has the copy.")
    volume: str = Field(description="CSI volume handle of the overlay.")
    image: str = Field(description="VMImageNode that the overlay is based on.")
    parent: str = Field(description="Digest of that image's layer.")
    virtual_size_bytes: int = Field(description="Size of the virtual disk in bytes.")
    repository: str = Field(default=DEFAULT_REPOSITORY, description="Repository of its layer.")
    state: DiskState = Field(
        default="Waiting", description="Unchanged: nothing differs from its image, which the new state names."
    )
    copied_bytes: int = Field(default=0, description="Bytes of the overlay that were copied while the VM was paused.")
    copy_milliseconds: int | None = Field(default=None, description="Duration of the copy on the node.")
    digest: str | None = Field(default=None, description="Digest of the new layer.")
    size_bytes: int | None = Field(default=None, description="Length of the new layer's file in bytes.")
    uploaded_bytes: int = Field(default=0, description="Bytes of that file that are in the repository.")
    result: str | None = Field(default=None, description="VMImageNode of the new layer, or the unchanged image.")
    reason: str | None = Field(default=None, description="Why it makes no progress, as one CamelCase word.")
    message: str | None = Field(default=None, description="Why it makes no progress, for a person.")


class SystemCaptureStatus(Status):
    """Progress and result. phase, attempt, startedAt, machines, disks and failure are durable: decisions read them."""

    phase: CapturePhase = Field(default="Pending", description="Current step.")
    attempt: int = Field(default=0, description="Number of attempts, each of which paused the VMs.")
    system: str | None = Field(default=None, description="Resulting SystemNode.")
    parent: str | None = Field(default=None, description="State that the instance ran: the parent of the new state.")
    deployment_uid: str | None = Field(default=None, description="uid of the SystemDeployment.")
    started_at: datetime | None = Field(default=None, description="Start of the current attempt, RFC 3339.")
    skew_milliseconds: int | None = Field(
        default=None,
        description="Time between the first and the last pause; all VMs were paused before one was resumed.",
    )
    pause_milliseconds: int | None = Field(default=None, description="Longest pause of a VM.")
    uploaded_bytes: int = Field(default=0, description="Bytes of new layers that are in the repository.")
    added_bytes: int = Field(default=0, description="Bytes of new layers.")
    failure: str | None = Field(default=None, description="Why the last attempt failed, as one CamelCase word.")
    failure_message: str | None = Field(default=None, description="Why the last attempt failed, for a person.")
    machines: list[CapturedMachine] = Field(
        default_factory=list, description="The captured VMs.", json_schema_extra=MAP_BY_NAME
    )
    disks: list[CapturedDisk] = Field(default_factory=list, description="Their disks.", json_schema_extra=MAP_BY_NAME)


class SystemCapture(Model):
    """A running instance, saved as a child of the state that it was started from."""

    KIND: ClassVar[str] = kinds.CAPTURE
    PLURAL: ClassVar[str] = "systemcaptures"
    SHORT: ClassVar[tuple[str, ...]] = ("kcap",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.spec.system) || self.metadata.name.size() <= 200",
            "metadata.name: it is the prefix of the new images' names; take at most 200 characters, or set spec.system",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Deployment", "string", ".spec.deployment.name", "SystemDeployment whose instance is captured."),
        Column("Instance", "integer", ".spec.instance", "Index of the instance."),
        Column("System", "string", ".status.system", "Resulting SystemNode."),
        Column("Pause-ms", "integer", ".status.pauseMilliseconds", "Longest pause of a VM."),
        Column("Added", "integer", ".status.addedBytes", "Bytes of new layers."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Skew-ms", "integer", ".status.skewMilliseconds", "Time between the first and the last pause.", 1),
        Column("Parent", "string", ".status.parent", "State that the instance ran.", 1),
        Column("Attempt", "integer", ".status.attempt", "Number of times that the VMs were paused for it.", 1),
    )

    metadata: Metadata
    spec: SystemCaptureSpec
    status: SystemCaptureStatus = Field(default_factory=SystemCaptureStatus)
