"""Durable progress of a SystemCapture: the fields of its status that decisions read, and no others.

KubeVirt records neither who paused a VM nor that it was paused without a gap until its disks were copied. The operator
therefore writes both down before it acts on them. The table in docs/concepts.md justifies each field. The stage of a
capture is derived from these facts and is stored nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from kigi.api.base import Condition
from kigi.api.capture import CapturedDisk, CapturedMachine, SystemCaptureStatus
from kigi.api.conditions import CAPTURED, COMPLETE, FAILED
from kigi.errors import StatusInvalid

CaptureStage = Literal[
    "Pending", "Checking", "Pausing", "Copying", "Resuming", "Storing", "Publishing", "Complete", "Failed"
]
KEPT = ("Stored", "Unchanged")
"""States of a disk that does not need its copy any more."""
STATES = ("Waiting", "Copied", "Storing", "Refused", *KEPT)
UNREADABLE_REMEDY = "resume VMs of the instance that are paused, delete this SystemCapture, and create another"
METHODS = ("Off", "Pause", "FreezeAndPause", "Stop", "FreezeAndStop", "AlreadyPaused")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt, or the capture, failed; reported, and read by no decision."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class CaptureProgress:
    """See the module. ``machines`` and ``disks`` belong to the last attempt; while the next one is checked, ``disks``
    are already its own.
    """

    start_time: datetime | None = None
    completion_time: datetime | None = None
    attempts: int = 0
    """Attempts that paused VMs, or would have; part of the id of each copy."""
    failed_attempts: int = 0
    """Attempts that were abandoned. Equal to ``attempts``: none is under way."""
    attempt_start_time: datetime | None = None
    """Start of the last attempt; limits the pause and delays the next attempt."""
    captured: bool = False
    """All copies of the last attempt are of one moment."""
    end: Literal["", "Complete", "Failed"] = ""
    repository: str | None = None
    """Repository of the new layers."""
    parent: str | None = None
    instance_uid: str | None = None
    pause_message: str | None = None
    """Why KubeVirt pauses the VMs of the last attempt; reported, and read by no decision."""
    machines: tuple[CapturedMachine, ...] = ()
    disks: tuple[CapturedDisk, ...] = ()
    failure: Failure | None = None
    """Of the last attempt, until the next one starts, or of the capture."""

    @property
    def stage(self) -> CaptureStage:
        """What the capture does now."""
        if self.end:
            return self.end
        if self.captured and not held_machines(self):
            return "Publishing" if all(disk.state in KEPT for disk in self.disks) else "Storing"
        if self.is_under_way and not self.captured:
            return "Pausing" if any(is_to_pause(machine) for machine in self.machines) else "Copying"
        if held_machines(self):
            return "Resuming"
        return "Checking" if self.disks else "Pending"

    @property
    def is_under_way(self) -> bool:
        """Whether an attempt has begun and was not abandoned."""
        return self.attempts > self.failed_attempts

    @property
    def copies_of(self) -> int:
        """Number of the attempt that ``disks`` belong to."""
        return self.attempts if self.is_under_way else self.attempts + 1

    def abandoned(self, reason: str, message: str) -> CaptureProgress:
        """The attempt ends and its copies are dropped; what follows is decided when its VMs are resumed."""
        failure = Failure(reason, message)
        return replace(self, failed_attempts=self.attempts, captured=False, disks=(), failure=failure)

    def refused(self, reason: str, message: str) -> CaptureProgress:
        """The capture ends; no VM is paused for it."""
        return replace(self, end="Failed", failure=Failure(reason, message))

    def completed(self) -> CaptureProgress:
        """The capture ends with its result."""
        return replace(self, end="Complete", failure=None)


def progress_of(status: SystemCaptureStatus | None) -> CaptureProgress:
    """Progress as the API server has it; None: nothing was recorded yet.

    Raises StatusInvalid for a word that this version does not know: another version of Kigi may have paused VMs.
    """
    if status is None:
        return CaptureProgress()
    for machine in status.machines:
        if machine.method not in METHODS:
            raise _unknown(f"machines[{machine.name}].method", machine.method)
    for disk in status.disks:
        if disk.state not in STATES:
            raise _unknown(f"disks[{disk.label}].state", disk.state)
    conditions = {condition.type: condition for condition in status.conditions}
    failed_attempts = min(status.failed_attempts, status.attempts)
    return CaptureProgress(
        start_time=status.start_time,
        completion_time=status.completion_time,
        attempts=status.attempts,
        failed_attempts=failed_attempts,
        attempt_start_time=status.attempt_start_time,
        captured=_is_true(conditions, CAPTURED),
        end="Complete" if _is_true(conditions, COMPLETE) else "Failed" if _is_true(conditions, FAILED) else "",
        repository=status.repository_name,
        parent=status.parent_name,
        instance_uid=status.instance_uid,
        pause_message=status.pause_message,
        machines=tuple(status.machines),
        disks=tuple(status.disks),
        failure=_failure(conditions, none_under_way=failed_attempts == status.attempts > 0),
    )


def _unknown(field: str, word: str) -> StatusInvalid:
    return StatusInvalid(f"status.{field}: this version of Kigi does not know {word!r}; {UNREADABLE_REMEDY}")


def _is_true(conditions: Mapping[str, Condition], kind: str) -> bool:
    return kind in conditions and conditions[kind].status == "True"


def _failure(conditions: Mapping[str, Condition], *, none_under_way: bool) -> Failure | None:
    if _is_true(conditions, FAILED):
        return Failure(conditions[FAILED].reason, conditions[FAILED].message)
    if none_under_way and CAPTURED in conditions:
        return Failure(conditions[CAPTURED].reason, conditions[CAPTURED].message)
    return None


def is_to_pause(machine: CapturedMachine) -> bool:
    """Whether the operator still has to pause the VM, or to freeze its guest, before the nodes copy."""
    return is_pausing(machine) and machine.method != "Stop" and machine.pause_time is None


def is_pausing(machine: CapturedMachine) -> bool:
    """Whether the capture itself pauses the VM: it runs without the capture."""
    return machine.method in ("Pause", "FreezeAndPause") or is_stopped_by_daemon(machine)


def is_stopped_by_daemon(machine: CapturedMachine) -> bool:
    """Whether the daemon of the VM's node stops it for the copies, and continues it."""
    return machine.method in ("Stop", "FreezeAndStop")


def held_machines(progress: CaptureProgress) -> tuple[CapturedMachine, ...]:
    """VMs that the capture has paused, or may have, and has not resumed yet."""
    return tuple(m for m in progress.machines if is_pausing(m) and m.resume_time is None)


def uses(progress: CaptureProgress) -> tuple[frozenset[str], frozenset[str]]:
    """States and images that a capture needs until it has ended."""
    if progress.end:
        return frozenset(), frozenset()
    states = frozenset({progress.parent}) if progress.parent is not None else frozenset()
    return states, frozenset(disk.base_image_name for disk in progress.disks)
