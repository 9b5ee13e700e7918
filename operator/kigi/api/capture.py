"""SystemCapture: a running instance of a deployment, kept as a new state of the system tree."""

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
from kigi.domain.layers import DEFAULT_REPOSITORY

CapturePhase = Literal[
    "Pending", "Checking", "Pausing", "Copying", "Resuming", "Storing", "Publishing", "Done", "Failed"
]


class SystemCaptureSpec(Model):
    """What shall be captured; immutable: another capture is another object."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("self == oldSelf", "spec is immutable; create another SystemCapture instead"),
    )

    deployment: NameRef = Field(description="SystemDeployment whose instance is captured.")
    instance: int = Field(default=0, ge=0, le=MAX_REPLICAS - 1, description="Index of the instance, from 0.")
    machines: list[MachineName] = Field(
        default_factory=list,
        max_length=256,
        description="Machines to capture, at the same moment; none: all. The others are as in the parent state.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    system: ObjectName | None = Field(
        default=None,
        max_length=200,
        description="Name of the SystemNode that results, and the beginning of its images' names; default: this "
        "object's name.",
    )
    quiesce: Literal["Auto", "Pause"] = Field(
        default="Auto",
        description="Auto: guests with an agent also write out their file systems before they are paused; "
        "Pause: none is asked.",
    )
    repository: str = Field(
        default=DEFAULT_REPOSITORY, max_length=63, pattern=DNS_LABEL, description="Where the new layers are stored."
    )
    description: str | None = Field(default=None, max_length=4096, description="Free text, for the SystemNode.")


class CapturedMachine(Model):
    """The barrier as one VM saw it. Times are the operator's, taken around its requests to KubeVirt."""

    name: str = Field(description="Name of the machine.")
    vmi_uid: str | None = Field(default=None, description="uid of its VirtualMachineInstance; none: it was off.")
    method: Literal["Off", "Pause", "FreezeAndPause", "AlreadyPaused"] = Field(
        default="Off",
        description="How it was brought to rest. AlreadyPaused: by somebody else, who resumes it.",
    )
    requested_at: datetime | None = Field(
        default=None, description="Just before it was asked to freeze or pause, RFC 3339."
    )
    paused_at: datetime | None = Field(default=None, description="When KubeVirt had paused it, RFC 3339.")
    resumed_at: datetime | None = Field(default=None, description="When KubeVirt had resumed it, RFC 3339.")
    pause_milliseconds: int | None = Field(
        default=None, description="From the request to pause it to the end of its resumption: not shorter than it was."
    )


class CapturedDisk(Model):
    """One disk, from the frozen copy to the image."""

    name: str = Field(description="Name of the machine, or machine/disk for a further disk.")
    id: str = Field(description="Name of the copy on its node; another one at each attempt.")
    node: str = Field(description="Node that has the copy.")
    volume: str = Field(description="CSI volume handle of the overlay.")
    image: str = Field(description="VMImageNode that the overlay stands on.")
    parent: str = Field(description="Digest of that image's layer.")
    virtual_size_bytes: int = Field(description="Size of the virtual disk in bytes.")
    repository: str = Field(default=DEFAULT_REPOSITORY, description="Where its layer is stored.")
    state: Literal["Waiting", "Copied", "Storing", "Stored", "Unchanged", "Refused"] = Field(
        default="Waiting", description="Unchanged: nothing differs from the image it stands on, which stays its image."
    )
    copied_bytes: int = Field(default=0, description="Bytes of the overlay that were copied while the VM stood still.")
    copy_milliseconds: int | None = Field(default=None, description="What copying took on the node.")
    digest: str | None = Field(default=None, description="Digest of the new layer.")
    size_bytes: int | None = Field(default=None, description="Length of the new layer's file in bytes.")
    uploaded_bytes: int = Field(default=0, description="Bytes of it that are in the repository.")
    result: str | None = Field(default=None, description="VMImageNode of the new layer, or the one it stands on.")
    reason: str | None = Field(default=None, description="Why it does not go on, as one CamelCase word.")
    message: str | None = Field(default=None, description="Why it does not go on, for a person.")


class SystemCaptureStatus(Status):
    """What became of it."""

    phase: CapturePhase = Field(default="Pending", description="Step that it is in.")
    attempt: int = Field(default=0, description="Number of times that the VMs were paused for it.")
    system: str | None = Field(default=None, description="SystemNode that resulted.")
    parent: str | None = Field(default=None, description="State that the instance ran: the new one's parent.")
    deployment_uid: str | None = Field(default=None, description="uid of the SystemDeployment.")
    started_at: datetime | None = Field(default=None, description="When the present attempt began, RFC 3339.")
    skew_milliseconds: int | None = Field(
        default=None, description="Between the first VM at rest and the last one; all of them were, before any resumed."
    )
    pause_milliseconds: int | None = Field(default=None, description="Longest pause of a VM.")
    uploaded_bytes: int = Field(default=0, description="Bytes of new layers that are in the repository.")
    added_bytes: int = Field(default=0, description="Bytes of new layers.")
    failure: str | None = Field(default=None, description="Why the last attempt was given up, as one CamelCase word.")
    failure_message: str | None = Field(default=None, description="Why, for a person.")
    machines: list[CapturedMachine] = Field(
        default_factory=list, description="The VMs of the barrier.", json_schema_extra=MAP_BY_NAME
    )
    disks: list[CapturedDisk] = Field(default_factory=list, description="Their disks.", json_schema_extra=MAP_BY_NAME)


class SystemCapture(Model):
    """A running instance, kept as a child of the state that it was started from."""

    KIND: ClassVar[str] = "SystemCapture"
    PLURAL: ClassVar[str] = "systemcaptures"
    SHORT: ClassVar[tuple[str, ...]] = ("kcap",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.spec.system) || self.metadata.name.size() <= 200",
            "metadata.name: it begins the new images' names; take at most 200 characters, or set spec.system",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Deployment", "string", ".spec.deployment.name", "SystemDeployment whose instance is captured."),
        Column("Instance", "integer", ".spec.instance", "Index of the instance."),
        Column("System", "string", ".status.system", "SystemNode that resulted."),
        Column("Pause-ms", "integer", ".status.pauseMilliseconds", "Longest pause of a VM."),
        Column("Added", "integer", ".status.addedBytes", "Bytes of new layers."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Skew-ms", "integer", ".status.skewMilliseconds", "Between the first VM at rest and the last.", 1),
        Column("Parent", "string", ".status.parent", "State that the instance ran.", 1),
        Column("Attempt", "integer", ".status.attempt", "Number of times that the VMs were paused for it.", 1),
    )

    metadata: Metadata
    spec: SystemCaptureSpec
    status: SystemCaptureStatus = Field(default_factory=SystemCaptureStatus)
