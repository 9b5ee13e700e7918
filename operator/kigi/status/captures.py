"""Status of a SystemCapture: its durable progress, its conditions, and what it cost the VMs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from kigi.api.base import Condition
from kigi.api.capture import SystemCaptureStatus
from kigi.api.conditions import CAPTURED, STORED, Finding, problem_findings, summary, with_conditions
from kigi.domain.quantities import format_bytes
from kigi.errors import KigiError
from kigi.planning.capture_progress import CaptureProgress, is_pausing
from kigi.planning.capture_view import CaptureView, system_name

_PHASES = {
    "Pending": "the capture has not begun",
    "Checking": "nodes check whether copies can be made and stored; the VMs run",
    "Pausing": "VMs are being paused",
    "Copying": "VMs are paused while their disks are copied",
    "Resuming": "VMs are being resumed",
    "Storing": "layers are made and stored; the VMs run",
    "Publishing": "the new state is being created",
}


def capture_status(
    view: CaptureView, old: Sequence[Condition], progress: CaptureProgress, error: KigiError | None = None
) -> SystemCaptureStatus:
    """The progress with all that follows from it; ``error``: why the capture does not continue.

    ``old``: conditions so far, for lastTransitionTime.
    """
    status = SystemCaptureStatus(
        phase=progress.phase,
        attempt=progress.attempt,
        system=system_name(view.name, view.spec) if progress.phase == "Done" else None,
        parent=progress.parent,
        deployment_uid=progress.deployment_uid,
        started_at=progress.started_at,
        skew_milliseconds=_skew_milliseconds(progress),
        pause_milliseconds=max(
            (m.pause_milliseconds for m in progress.machines if m.pause_milliseconds is not None), default=None
        ),
        uploaded_bytes=sum(disk.uploaded_bytes for disk in progress.disks),
        added_bytes=sum(disk.size_bytes or 0 for disk in progress.disks),
        failure=progress.failure,
        failure_message=progress.failure_message,
        machines=list(progress.machines),
        disks=list(progress.disks),
    )
    return with_conditions(status, old, _findings(status, error), generation=view.generation, now=view.now)


def _skew_milliseconds(progress: CaptureProgress) -> int | None:
    """Time between the first and the last pause; None until all VMs were paused, 0 if none had to be."""
    pausing = [machine for machine in progress.machines if is_pausing(machine)]
    ends = [machine.paused_at for machine in pausing if machine.paused_at is not None]
    if not progress.machines or len(ends) < len(pausing):
        return None
    # A VM is paused at some time between the request and its answer: at worst, the first one since its request.
    begins = [machine.requested_at for machine in pausing if machine.requested_at is not None]
    span = max(ends) - min([*begins, *ends]) if ends else timedelta()
    return round(span.total_seconds() * 1000)


def _findings(status: SystemCaptureStatus, error: KigiError | None) -> list[Finding]:
    captured = status.phase in ("Storing", "Publishing", "Done")
    stored = status.phase in ("Publishing", "Done")
    return [
        *_sum_up(status, error),
        Finding(CAPTURED, captured, "Copied" if captured else status.phase, _pauses(status) if captured else ""),
        Finding(STORED, stored, "Stored" if stored else status.phase, _bytes(status) if captured else ""),
    ]


def _sum_up(status: SystemCaptureStatus, error: KigiError | None) -> tuple[Finding, Finding, Finding]:
    if status.phase == "Done":
        message = f"SystemNode {status.system}: {_bytes(status)}; {_pauses(status)}"
        return summary(ready=True, stalled=False, reason="Captured", message=message)
    if status.phase == "Failed":
        tries = f"failed after {status.attempt} attempts" if status.attempt else "refused before any VM was paused"
        message = f"{tries}: {status.failure_message}; create another SystemCapture"
        return summary(ready=False, stalled=True, reason=status.failure or "CaptureFailed", message=message)
    if error is not None:
        return problem_findings(error)
    message = _PHASES[status.phase]
    if status.failure_message:
        message = f"{message}; attempt {status.attempt} failed: {status.failure_message}"
    return summary(ready=False, stalled=False, reason=status.phase, message=message)


def _pauses(status: SystemCaptureStatus) -> str:
    paused = sum(is_pausing(machine) for machine in status.machines)
    if not paused:
        return "no VM had to be paused"
    return (
        f"{paused} VMs paused, the longest for {status.pause_milliseconds or 0} ms, "
        f"{status.skew_milliseconds or 0} ms between the first and the last"
    )


def _bytes(status: SystemCaptureStatus) -> str:
    new = sum(disk.state == "Stored" for disk in status.disks)
    return f"{new} of {len(status.disks)} disks changed, {format_bytes(status.added_bytes)} new"
