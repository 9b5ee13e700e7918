"""Durable progress of a SystemCapture: the fields of its status that decisions read, and no others.

KubeVirt records neither who paused a VM nor that it was paused without a gap until its disks were copied. The operator
therefore writes both down before it acts on them. The table in docs/concepts.md justifies each field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from kigi.api.capture import CapturedDisk, CapturedMachine, CapturePhase, SystemCaptureStatus
from kigi.api.node_cache import CaptureOrder

ENDED: frozenset[CapturePhase] = frozenset({"Done", "Failed"})
_ACTIONS: Mapping[CapturePhase, Literal["Check", "Copy", "Keep"]] = {
    "Checking": "Check",
    "Copying": "Copy",
    "Resuming": "Keep",
    "Storing": "Keep",
    "Publishing": "Keep",
}
"""Order to the nodes in each phase; in the other phases there is none."""


@dataclass(frozen=True, slots=True)
class CaptureProgress:
    """See the module. ``machines`` and ``disks`` belong to ``attempt``, or to the next attempt while it is checked."""

    phase: CapturePhase = "Pending"
    attempt: int = 0
    """Attempts that paused VMs; part of the id of each copy."""
    started_at: datetime | None = None
    """Start of the attempt; limits the pause and delays the next attempt."""
    parent: str | None = None
    deployment_uid: str | None = None
    machines: tuple[CapturedMachine, ...] = ()
    disks: tuple[CapturedDisk, ...] = ()
    failure: str | None = None
    """Reason for which the last attempt was abandoned."""
    failure_message: str | None = None

    def in_phase(self, phase: CapturePhase) -> CaptureProgress:
        """The same progress in another phase."""
        return replace(self, phase=phase)

    def abandoned(self, reason: str, message: str) -> CaptureProgress:
        """The attempt ends with its VMs resumed; what follows is decided after that."""
        return replace(self, phase="Resuming", failure=reason, failure_message=message)

    def refused(self, reason: str, message: str) -> CaptureProgress:
        """The capture ends; no VM is paused for it."""
        return replace(self, phase="Failed", failure=reason, failure_message=message)


def progress_of(status: SystemCaptureStatus | None) -> CaptureProgress:
    """Progress as the API server has it; None: nothing was recorded yet."""
    if status is None:
        return CaptureProgress()
    return CaptureProgress(
        phase=status.phase,
        attempt=status.attempt,
        started_at=status.started_at,
        parent=status.parent,
        deployment_uid=status.deployment_uid,
        machines=tuple(status.machines),
        disks=tuple(status.disks),
        failure=status.failure,
        failure_message=status.failure_message,
    )


def is_to_pause(machine: CapturedMachine) -> bool:
    """Whether the capture still has to pause the VM."""
    return machine.method in ("Pause", "FreezeAndPause") and machine.paused_at is None


def is_pausing(machine: CapturedMachine) -> bool:
    """Whether the capture itself pauses the VM: it runs without the capture."""
    return machine.method in ("Pause", "FreezeAndPause")


def held_machines(progress: CaptureProgress) -> tuple[CapturedMachine, ...]:
    """VMs that the capture has paused, or may have, and has not resumed yet."""
    return tuple(m for m in progress.machines if is_pausing(m) and m.resumed_at is None)


def orders(progress: CaptureProgress) -> Iterable[tuple[str, CaptureOrder]]:
    """(node, order) for each disk, in the phases in which nodes check, copy or keep it."""
    action = _ACTIONS.get(progress.phase)
    if action is None:
        return
    on = {machine.name for machine in progress.machines if machine.method != "Off"}
    for disk in progress.disks:
        yield (
            disk.node,
            CaptureOrder(
                id=disk.id,
                volume=disk.volume,
                parent=disk.parent,
                virtual_size_bytes=disk.virtual_size_bytes,
                repository=disk.repository,
                action=action,
                mounted=disk.machine in on,
            ),
        )


def uses(progress: CaptureProgress) -> tuple[frozenset[str], frozenset[str]]:
    """States and images that a capture needs until it has ended."""
    if progress.phase in ENDED:
        return frozenset(), frozenset()
    states = frozenset({progress.parent}) if progress.parent is not None else frozenset()
    return states, frozenset(disk.image for disk in progress.disks)
