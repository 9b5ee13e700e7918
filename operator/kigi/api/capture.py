"""SystemCapture: a running instance of a deployment, saved as a new state of the system tree."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from kigi.api.base import (
    AGE_COLUMN,
    MAP_BY_NAME,
    MAX_TREE_NAME,
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
)
from kigi.domain import kinds

MAX_CAPTURED_MACHINES = 128
ROOT_DISK = "root"
"""Name of each machine's boot disk; no further disk has it."""
QuiescePolicy = Literal["FreezeIfPossible", "FreezeRequired", "PauseOnly"]
MAX_CAPTURED_DISKS = MAX_CAPTURED_MACHINES * 9
MAX_BLOCKED_DISKS = 10
MAX_BLOCKED_MESSAGE = 300
MAX_PAUSE_MESSAGE = 300
MAP_BY_DISK: dict[str, JsonValue] = {
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["machine", "disk"],
}


MAX_BASE_IMAGE = 253
"""Characters of ``namespace/name`` of a captured disk's image, so that the status of 1,152 disks fits."""


class CaptureTarget(Model):
    """The state that a capture makes."""

    system_name: ObjectName | None = Field(
        default=None,
        max_length=200,
        description="Name of the new SystemNode, in this namespace, and prefix of its images' names; omitted: this "
        "object's name.",
    )
    description: str | None = Field(default=None, max_length=4096, description="Free text, for the SystemNode.")
    repository_ref: ObjectRef | None = Field(
        default=None,
        description="LayerRepository of the new layers, cluster-scoped, which must select this namespace; omitted: the "
        "default of this namespace.",
    )


def _immutable(name: str) -> Rule:
    return Rule(
        f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
        f"{name}: it is immutable; create another SystemCapture instead",
        f".{name}",
    )


def _always_immutable(name: str) -> Rule:
    """Of a field that is required."""
    return Rule(
        f"self.{name} == oldSelf.{name}", f"{name}: it is immutable; create another SystemCapture instead", f".{name}"
    )


class SystemCaptureSpec(Model):
    """What to capture. Immutable apart from the limits: another capture is another object."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        *(_always_immutable(name) for name in ("instanceRef", "requestedBy")),
        *(_immutable(name) for name in ("machines", "content", "quiescePolicy", "target")),
        Rule(
            "!has(self.content) || self.content == 'Disks'",
            "content: DisksAndMemory is reserved for a later version of Kigi, which gives it its function; use Disks",
            ".content",
        ),
    )

    instance_ref: ObjectRef = Field(
        description="Instance to capture, by its name DEPLOYMENT-INSTANCE, such as office-7; in this namespace."
    )
    machines: list[MachineName] = Field(
        default_factory=list,
        max_length=MAX_CAPTURED_MACHINES,
        description="Machines to capture, at the same moment; none: all. The others stay as in the parent state.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    content: Literal["Disks", "DisksAndMemory"] | None = Field(
        default=None,
        description="Disks, or DisksAndMemory, which is reserved. Omitted: Disks. Further values may be added; treat "
        "an unknown one as Disks and more.",
    )
    quiesce_policy: QuiescePolicy | None = Field(
        default=None,
        description="FreezeIfPossible: guests with an agent flush and freeze their file systems before the pause. "
        "FreezeRequired: as well, and the capture fails before anything is paused if a running machine has no agent. "
        "PauseOnly: VMs are only paused. Omitted: FreezeIfPossible. Further values may be added; treat an unknown one "
        "as FreezeIfPossible.",
    )
    target: CaptureTarget | None = Field(default=None, description="The state that the capture makes.")
    requested_by: UserName = Field(
        description="Name of the user who makes the request. An admission policy refuses any other name than that of "
        "the caller; kubectl auth whoami prints it."
    )
    backoff_limit: int | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Number of failed attempts after which another attempt follows, at intervals of 10 s that double "
        "up to 6 min; each attempt pauses the VMs. 0: one attempt. Omitted: 3. Mutable.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Seconds after the creation of this object at which the capture fails if it is not Complete; "
        "paused VMs are resumed. A result that exists in part is completed first. Omitted: no deadline. Mutable.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Seconds after completion at which Kigi deletes this object; the new state stays. Omitted: never. "
        "Mutable.",
    )

    @property
    def instance(self) -> tuple[str, str]:
        """Deployment and instance that ``instanceRef`` names; the instance is empty if it has not their form."""
        deployment, _, instance = self.instance_ref.name.rpartition("-")
        return deployment, instance


class CapturedMachine(Model):
    """The pause of one VM. Times are those of QEMU's events if its node's daemon stops it; otherwise the operator's,
    taken before and after its requests to KubeVirt."""

    name: str = Field(max_length=20, description="Name of the machine.")
    vmi_uid: str | None = Field(
        default=None, max_length=36, description="uid of its VirtualMachineInstance; none: the VM was off."
    )
    method: str = Field(
        default="Off",
        max_length=32,
        description="How it is paused: Off, Stop and FreezeAndStop (by the daemon of its node, through QEMU's "
        "monitor), Pause and FreezeAndPause (by KubeVirt) or AlreadyPaused (by a user; it stays paused). Further "
        "values may be added.",
    )
    request_time: datetime | None = Field(
        default=None, description="Time before the request to freeze or pause it, RFC 3339."
    )
    pause_time: datetime | None = Field(
        default=None,
        description="Time at which it was paused, RFC 3339: by QEMU's own event, or when KubeVirt had answered. "
        "FreezeAndStop, until the copies are made: time at which its guest had frozen.",
    )
    resume_time: datetime | None = Field(
        default=None, description="Time at which it ran again and was thawed, RFC 3339; from the same source."
    )
    pause_milliseconds: int | None = Field(
        default=None,
        description="Milliseconds for which it was paused: between QEMU's events, or an upper bound, from the request "
        "to KubeVirt until the VM was resumed.",
    )


class CapturedDisk(Model):
    """One disk, from the frozen copy to the image."""

    machine: str = Field(max_length=20, description="Name of the machine.")
    disk: str = Field(max_length=20, description="Name of the disk; root: the boot disk.")
    node_name: str = Field(max_length=63, description="Node that has the copy.")
    revision: int = Field(description="Revision of the disk that is copied.")
    base_image_name: str = Field(
        max_length=MAX_BASE_IMAGE,
        description="VMImageNode that the disk is based on; NAMESPACE/NAME if it is of another namespace.",
    )
    virtual_size_bytes: int = Field(description="Size of the virtual disk in bytes.")
    state: str = Field(
        default="Waiting",
        max_length=16,
        description="Waiting, Copied, Storing, Stored, Unchanged or Refused. Unchanged: nothing differs from its "
        "image, which the new state names. Further values may be added; treat an unknown one as in progress.",
    )
    copy_uid: str | None = Field(
        default=None, max_length=16, description="Id of the frozen copy, as its node reports it; no other copy counts."
    )
    digest: str | None = Field(default=None, max_length=71, description="Digest of the new layer.")
    size_bytes: int | None = Field(default=None, description="Length of the new layer's file in bytes.")

    @property
    def is_boot_disk(self) -> bool:
        """Whether the VM boots from it."""
        return self.disk == ROOT_DISK

    @property
    def label(self) -> str:
        """Name for a person: ``web`` for the boot disk, ``web/data`` for the further disk ``data``."""
        return self.machine if self.is_boot_disk else f"{self.machine}/{self.disk}"


class BlockedDisk(Model):
    """A disk that makes no progress."""

    machine: str = Field(max_length=20, description="Name of the machine.")
    disk: str = Field(max_length=20, description="Name of the disk; root: the boot disk.")
    node_name: str = Field(max_length=63, description="Node of the disk.")
    reason: str = Field(max_length=63, description="Why it makes no progress, as one CamelCase word.")
    message: str = Field(max_length=MAX_BLOCKED_MESSAGE, description="Why it makes no progress, for a person.")


class SystemCaptureStatus(Status):
    """Progress and result.

    Decisions read the conditions Captured, Complete and Failed, attempts, failedAttempts, the times, machines and
    disks: see docs/concepts.md.
    """

    system_name: str | None = Field(default=None, max_length=253, description="Resulting SystemNode.")
    parent_name: str | None = Field(
        default=None,
        max_length=MAX_TREE_NAME,
        description="State that the instance ran, NAMESPACE/NAME if it is of another namespace: the parent of the new "
        "state.",
    )
    repository_name: str | None = Field(
        default=None, max_length=63, description="LayerRepository of the new layers, cluster-scoped."
    )
    instance_uid: str | None = Field(
        default=None, max_length=36, description="uid of the SystemInstance whose disks are captured."
    )
    start_time: datetime | None = Field(default=None, description="Time of the first reconcile, RFC 3339.")
    completion_time: datetime | None = Field(
        default=None, description="Time at which the capture became Complete or Failed, RFC 3339."
    )
    attempts: int = Field(default=0, description="Number of attempts, each of which paused the VMs.")
    failed_attempts: int = Field(default=0, description="Number of these that failed.")
    attempt_start_time: datetime | None = Field(default=None, description="Start of the last attempt, RFC 3339.")
    skew_milliseconds: int | None = Field(
        default=None,
        description="Milliseconds between the first and the last pause; all VMs were paused before one was resumed.",
    )
    pause_milliseconds: int | None = Field(default=None, description="Longest pause of a VM in milliseconds.")
    pause_message: str | None = Field(
        default=None,
        max_length=MAX_PAUSE_MESSAGE,
        description="Why KubeVirt paused the VMs, which takes longer than their node's daemon would; omitted: the "
        "daemon stopped them, or none had to be paused.",
    )
    added_bytes: int = Field(default=0, description="Bytes of new layers.")
    stored_bytes: int = Field(default=0, description="Bytes of new layers that are stored as a whole.")
    machines: list[CapturedMachine] = Field(
        default_factory=list,
        max_length=MAX_CAPTURED_MACHINES,
        description="The captured VMs.",
        json_schema_extra=MAP_BY_NAME,
    )
    disks: list[CapturedDisk] = Field(
        default_factory=list,
        max_length=MAX_CAPTURED_DISKS,
        description="Their disks.",
        json_schema_extra=MAP_BY_DISK,
    )
    blocked_disks: list[BlockedDisk] = Field(
        default_factory=list,
        max_length=MAX_BLOCKED_DISKS,
        description="The first disks that make no progress.",
        json_schema_extra=MAP_BY_DISK,
    )


class SystemCapture(Model):
    """A running instance, saved as a child of the state that it was started from."""

    KIND: ClassVar[str] = kinds.CAPTURE
    PLURAL: ClassVar[str] = "systemcaptures"
    SHORT: ClassVar[tuple[str, ...]] = ("kcap",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.spec.target) && has(self.spec.target.systemName)) || self.metadata.name.size() <= 200",
            "metadata.name: it is the prefix of the new images' names; take at most 200 characters, or set "
            "spec.target.systemName",
        ),
    )
    SELECTABLE: ClassVar[tuple[str, ...]] = (".spec.instanceRef.name",)
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("Instance", "string", ".spec.instanceRef.name", "Captured instance."),
        Column("System", "string", ".status.systemName", "Resulting SystemNode."),
        Column("Pause-ms", "integer", ".status.pauseMilliseconds", "Longest pause of a VM."),
        Column("Added", "integer", ".status.addedBytes", "Bytes of new layers.", 1),
        MESSAGE_COLUMN,
        AGE_COLUMN,
        Column("Skew-ms", "integer", ".status.skewMilliseconds", "Time between the first and the last pause.", 1),
        Column("Parent", "string", ".status.parentName", "State that the instance ran.", 1),
        Column("Attempts", "integer", ".status.attempts", "Number of times that the VMs were paused for it.", 1),
    )

    metadata: Metadata
    spec: SystemCaptureSpec
    status: SystemCaptureStatus = Field(default_factory=SystemCaptureStatus)
