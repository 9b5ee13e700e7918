"""Status of a SystemCapture: what is done, what is waited for, and what it cost the VMs."""

from __future__ import annotations

from kigi.api.capture import SystemCaptureStatus
from kigi.api.conditions import CAPTURED, STORED, Finding, merge_conditions, problem_findings, summary
from kigi.domain.quantities import format_bytes
from kigi.errors import KigiError
from kigi.planning.capture_view import CaptureView

_DOING = {
    "Pending": "nothing has been asked of the VMs yet",
    "Checking": "nodes are asked whether copies can be made and stored; the VMs run",
    "Pausing": "VMs are brought to rest",
    "Copying": "VMs stand still while their disks are copied",
    "Resuming": "VMs go on",
    "Storing": "layers are made and stored; the VMs run",
    "Publishing": "the new state is written",
}


def capture_status(
    view: CaptureView, status: SystemCaptureStatus, error: KigiError | None = None
) -> SystemCaptureStatus:
    """``status`` with its conditions; ``error`` is why it does not go on."""
    captured = status.phase in ("Storing", "Publishing", "Done")
    stored = status.phase in ("Publishing", "Done")
    findings = [
        *_sum_up(status, error),
        Finding(CAPTURED, captured, "Copied" if captured else status.phase, _barrier(status) if captured else ""),
        Finding(STORED, stored, "Stored" if stored else status.phase, _bytes(status) if captured else ""),
    ]
    return status.model_copy(
        update={
            "observed_generation": view.generation,
            "conditions": merge_conditions(view.status.conditions, findings, generation=view.generation, now=view.now),
        }
    )


def _sum_up(status: SystemCaptureStatus, error: KigiError | None) -> tuple[Finding, Finding, Finding]:
    if status.phase == "Done":
        message = f"SystemNode {status.system}: {_bytes(status)}; {_barrier(status)}"
        return summary(ready=True, stalled=False, reason="Captured", message=message)
    if status.phase == "Failed":
        tries = f"given up after {status.attempt} attempts" if status.attempt else "refused before any VM was paused"
        message = f"{tries}: {status.failure_message}; create another SystemCapture"
        return summary(ready=False, stalled=True, reason=status.failure or "CaptureFailed", message=message)
    if error is not None:
        return problem_findings(error)
    message = _DOING[status.phase]
    if status.failure_message:
        message = f"{message}; attempt {status.attempt} was given up: {status.failure_message}"
    return summary(ready=False, stalled=False, reason=status.phase, message=message)


def _barrier(status: SystemCaptureStatus) -> str:
    paused = sum(machine.method in ("Pause", "FreezeAndPause") for machine in status.machines)
    if not paused:
        return "no VM had to be paused"
    return (
        f"{paused} VMs paused, the longest for {status.pause_milliseconds or 0} ms, "
        f"{status.skew_milliseconds or 0} ms between the first and the last"
    )


def _bytes(status: SystemCaptureStatus) -> str:
    new = sum(disk.state == "Stored" for disk in status.disks)
    return f"{new} of {len(status.disks)} disks changed, {format_bytes(status.added_bytes)} new"
