"""Status of a SystemCapture: its durable progress, its conditions, and what it cost the VMs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from kigi.api.base import Condition
from kigi.api.capture import SystemCaptureStatus
from kigi.api.conditions import (
    CAPTURED,
    CHECKED,
    COMPLETE,
    FAILED,
    STORED,
    Finding,
    problem_findings,
    summary,
    with_conditions,
)
from kigi.domain.quantities import format_bytes
from kigi.errors import KigiError
from kigi.planning.capture_progress import KEPT, CaptureProgress, CaptureStage, is_pausing, is_stopped_by_daemon
from kigi.planning.capture_view import CaptureView, system_name
from kigi.planning.copies import DiskObstacle, blocked_disks

_STAGES: dict[CaptureStage, str] = {
    "Pending": "the capture has not begun",
    "Checking": "nodes check whether copies can be made and stored; the VMs run",
    "Pausing": "VMs are being paused",
    "Copying": "VMs are paused while their disks are copied",
    "Resuming": "VMs are being resumed",
    "Storing": "layers are made and stored; the VMs run",
    "Publishing": "the new state is being created",
}


def capture_status(
    view: CaptureView,
    old: Sequence[Condition],
    progress: CaptureProgress,
    error: KigiError | None = None,
    obstacles: Iterable[DiskObstacle] = (),
) -> SystemCaptureStatus:
    """The progress with all that follows from it; ``error``: why the capture does not continue.

    ``old``: conditions so far, for lastTransitionTime. ``obstacles``: disks that make no progress.
    """
    ended = progress.completion_time or view.now if progress.end else None
    status = SystemCaptureStatus(
        system_name=system_name(view.name, view.spec) if progress.end == "Complete" else None,
        repository_name=progress.repository,
        parent_name=progress.parent,
        instance_uid=progress.instance_uid,
        start_time=progress.start_time or view.now,
        completion_time=ended,
        attempts=progress.attempts,
        failed_attempts=progress.failed_attempts,
        attempt_start_time=progress.attempt_start_time,
        skew_milliseconds=_skew_milliseconds(progress),
        pause_milliseconds=max(
            (m.pause_milliseconds for m in progress.machines if m.pause_milliseconds is not None), default=None
        ),
        pause_message=progress.pause_message,
        added_bytes=sum(disk.size_bytes or 0 for disk in progress.disks),
        stored_bytes=sum(disk.size_bytes or 0 for disk in progress.disks if disk.state == "Stored"),
        machines=list(progress.machines),
        disks=list(progress.disks),
        blocked_disks=blocked_disks(obstacles),
    )
    findings = [*_sum_up(status, progress, error), *_steps(status, progress)]
    return with_conditions(status, old, findings, generation=view.generation, now=view.now)


def _skew_milliseconds(progress: CaptureProgress) -> int | None:
    """Time between the first and the last pause; None until all VMs were paused, 0 if none had to be."""
    pausing = [machine for machine in progress.machines if is_pausing(machine)]
    ends = [machine.pause_time for machine in pausing if machine.pause_time is not None]
    if not progress.machines or len(ends) < len(pausing):
        return None
    # KubeVirt pauses a VM at some time between request and answer: at worst, the first one since its request.
    by_kubevirt = [machine for machine in pausing if not is_stopped_by_daemon(machine)]
    begins = [machine.request_time for machine in by_kubevirt if machine.request_time is not None]
    span = max(ends) - min([*begins, *ends]) if ends else timedelta()
    return round(span.total_seconds() * 1000)


def _steps(status: SystemCaptureStatus, progress: CaptureProgress) -> list[Finding]:
    """Checked, Captured, Stored, Complete and Failed; Captured keeps the cause of a failed attempt."""
    stored = progress.captured and all(disk.state in KEPT for disk in progress.disks)
    failure, stage = progress.failure, progress.stage
    captured = Finding(CAPTURED, False, stage, "")
    if progress.captured:
        captured = Finding(CAPTURED, True, "Copied", _pauses(status, progress))
    elif failure is not None:
        captured = Finding(CAPTURED, False, failure.reason, failure.message)
    failed = Finding(FAILED, False, stage, "")
    if progress.end == "Failed" and failure is not None:
        failed = Finding(FAILED, True, failure.reason, failure.message)
    return [
        Finding(CHECKED, progress.is_under_way, "Possible" if progress.is_under_way else stage, ""),
        captured,
        Finding(STORED, stored, "Stored" if stored else stage, _bytes(status) if progress.captured else ""),
        Finding(COMPLETE, progress.end == "Complete", stage, ""),
        failed,
    ]


def _sum_up(
    status: SystemCaptureStatus, progress: CaptureProgress, error: KigiError | None
) -> tuple[Finding, Finding, Finding]:
    failure, stage = progress.failure, progress.stage
    if progress.end == "Complete":
        message = f"SystemNode {status.system_name}: {_bytes(status)}; {_pauses(status, progress)}"
        return summary(ready=True, stalled=False, reason="Captured", message=message)
    if progress.end == "Failed":
        tries = f"failed after {status.attempts} attempts" if status.attempts else "refused before any VM was paused"
        cause = f": {failure.message}" if failure is not None else ""
        reason = failure.reason if failure is not None else "CaptureFailed"
        message = f"{tries}{cause}; create another SystemCapture"
        return summary(ready=False, stalled=True, reason=reason, message=message)
    if error is not None:
        return problem_findings(error)
    message = _STAGES[stage]
    if failure is not None:
        message = f"{message}; attempt {status.attempts} failed: {failure.message}"
    return summary(ready=False, stalled=False, reason=stage, message=message)


def _pauses(status: SystemCaptureStatus, progress: CaptureProgress) -> str:
    paused = sum(is_pausing(machine) for machine in progress.machines)
    if not paused:
        return "no VM had to be paused"
    slowly = f"; KubeVirt paused them: {progress.pause_message}" if progress.pause_message else ""
    return (
        f"{paused} VMs paused, the longest for {status.pause_milliseconds or 0} ms, "
        f"{status.skew_milliseconds or 0} ms between the first and the last{slowly}"
    )


def _bytes(status: SystemCaptureStatus) -> str:
    new = sum(disk.state == "Stored" for disk in status.disks)
    return f"{new} of {len(status.disks)} disks changed, {format_bytes(status.added_bytes)} new"
