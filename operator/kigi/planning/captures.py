"""What to do next for one SystemCapture.

Pending -> Checking -> Pausing -> Copying -> Resuming -> Storing -> Publishing -> Done. Each phase is written before
what it says is done, so that an operator that starts in the middle knows which VMs stand still for it: it resumes them
in every case. No VM is paused before each node has said that a copy can be made and stored. While the VMs stand still
only their overlays are copied, by their nodes' daemons; layers are made afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from kigi.api.capture import CapturedDisk, CapturedMachine, CapturePhase, SystemCaptureStatus
from kigi.api.node_cache import CaptureOrder
from kigi.errors import ChainTooDeep, KigiError
from kigi.planning.capture_results import result_objects, with_reports
from kigi.planning.capture_targets import choose_targets
from kigi.planning.capture_view import CLOCK_SKEW, CaptureView, is_to_pause, lasts, too_deep
from kigi.planning.copies import KEPT, Trouble, first_error, obstacle_of, of_reason, trouble_of

STANDSTILL = timedelta(seconds=60)
"""Longest time that VMs stand still for an attempt; then they are resumed, whatever was copied."""
ATTEMPTS = 3
AGAIN_S = 10.0
LOOK_AGAIN_S = 30.0
"""A daemon that falls silent changes nothing that is watched."""
ORDERING: frozenset[CapturePhase] = frozenset({"Checking", "Copying", "Resuming", "Storing", "Publishing"})
"""Phases in which the nodes have to do with it."""
ENDED: frozenset[CapturePhase] = frozenset({"Done", "Failed"})
HOLDING: frozenset[CapturePhase] = frozenset({"Pausing", "Copying", "Resuming"})
"""Phases in which VMs may stand still for it."""


Action = Literal["AddFinalizer", "Pause", "Verify", "Resume", "Publish", "RemoveFinalizer", ""]


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """The status to write first, and what is to be done then; nothing: wait."""

    status: SystemCaptureStatus
    action: Action = ""
    machines: tuple[CapturedMachine, ...] = ()
    """Those to pause, to look at again, or to resume."""
    objects: tuple[Mapping[str, Any], ...] = ()
    """New images, parents first, and the new state; with RemoveFinalizer: made if they can be, for some may be."""
    error: KigiError | None = None
    retry_after_s: float | None = None


def plan_capture(view: CaptureView) -> CapturePlan:
    """The next step; pure. O(machines of the instance)."""
    status = view.status
    if view.deleting:
        if status.phase in HOLDING and standing(status):
            return CapturePlan(_in(status, "Resuming"), "Resume", standing(status))
        half_done = tuple(result_objects(view)) if status.phase == "Publishing" else ()
        return CapturePlan(status, "RemoveFinalizer" if view.has_finalizer else "", objects=half_done)
    if status.phase in ENDED:
        return CapturePlan(status)
    if not view.has_finalizer:
        return CapturePlan(status, "AddFinalizer")
    match status.phase:
        case "Pending" | "Checking":
            return _begin(view)
        case "Pausing":
            return _late(view) or CapturePlan(status, "Pause", tuple(m for m in status.machines if is_to_pause(m)))
        case "Copying":
            return _copying(view)
        case "Resuming":
            return _resuming(view)
        case "Storing":
            return _storing(view)
        case _:
            return CapturePlan(status, "Publish", objects=tuple(result_objects(view)))


def standing(status: SystemCaptureStatus) -> tuple[CapturedMachine, ...]:
    """VMs that this capture has paused, or may have, and that were not resumed yet."""
    return tuple(m for m in status.machines if m.method in ("Pause", "FreezeAndPause") and m.resumed_at is None)


def orders(status: SystemCaptureStatus) -> Iterable[tuple[str, CaptureOrder]]:
    """(node, order) for each disk, in the phases in which the nodes have to do with it."""
    if status.phase not in ORDERING:
        return
    on = {machine.name for machine in status.machines if machine.method != "Off"}
    actions: Mapping[str, Literal["Check", "Copy"]] = {"Checking": "Check", "Copying": "Copy"}
    for disk in status.disks:
        yield (
            disk.node,
            CaptureOrder(
                id=disk.id,
                volume=disk.volume,
                parent=disk.parent,
                virtual_size_bytes=disk.virtual_size_bytes,
                repository=disk.repository,
                action=actions.get(status.phase, "Keep"),
                mounted=disk.name.partition("/")[0] in on,
            ),
        )


def after_pause(status: SystemCaptureStatus, outcomes: Sequence[CapturedMachine], failure: str) -> SystemCaptureStatus:
    """All stand still, and copying may begin; or one does not, and all are resumed."""
    machines = _updated(status.machines, outcomes)
    if failure:
        return _failing(status.model_copy(update={"machines": machines}), "PauseFailed", failure)
    # A VM stands still at some time between the request and its answer: at worst, the first one from its request on.
    stopped = [m for m in machines if m.paused_at is not None and m.method != "AlreadyPaused"]
    first = min((m.requested_at or m.paused_at for m in stopped if m.paused_at), default=None)
    last = max((m.paused_at for m in stopped if m.paused_at), default=None)
    skew = last - first if first is not None and last is not None else timedelta()
    return status.model_copy(
        update={"machines": machines, "phase": "Copying", "skew_milliseconds": _milliseconds(skew)}
    )


def after_verify(status: SystemCaptureStatus, moved: Sequence[str]) -> SystemCaptureStatus:
    """The copies are of one moment if no VM moved on before the last of them was made."""
    if moved:
        names_ = ", ".join(sorted(moved))
        return _failing(status, "MovedOn", f"{names_} ran on before all disks were copied; somebody resumed it")
    return _in(status, "Resuming")


def after_resume(status: SystemCaptureStatus, outcomes: Sequence[CapturedMachine]) -> SystemCaptureStatus:
    """VMs run again; the phase that follows is decided when all do."""
    machines = _updated(status.machines, outcomes)
    pauses = [m.pause_milliseconds for m in machines if m.pause_milliseconds is not None]
    return status.model_copy(update={"machines": machines, "pause_milliseconds": max(pauses, default=0)})


def after_publish(status: SystemCaptureStatus, system: str) -> SystemCaptureStatus:
    """The new state is there."""
    return status.model_copy(update={"phase": "Done", "system": system, "failure": None, "failure_message": None})


def after_refusal(status: SystemCaptureStatus, error: KigiError) -> SystemCaptureStatus:
    """It cannot be completed, whatever is waited for, and no VM stands still for it."""
    return status.model_copy(update={"phase": "Failed", "failure": error.reason, "failure_message": str(error)})


def uses(status: SystemCaptureStatus | None) -> tuple[frozenset[str], frozenset[str]]:
    """States and images that a capture stands on and needs until it has ended."""
    if status is None or status.phase in ENDED:
        return frozenset(), frozenset()
    states = frozenset({status.parent}) if status.parent is not None else frozenset()
    return states, frozenset(disk.image for disk in status.disks)


# Phases.


def _begin(view: CaptureView) -> CapturePlan:
    """Who is captured, and whether all nodes can; written before anybody is paused. What failed is tried again."""
    if view.status.failure is not None and view.status.started_at is not None:
        left_s = AGAIN_S - (view.now - view.status.started_at).total_seconds()
        if 0 < left_s <= AGAIN_S + CLOCK_SKEW.total_seconds():
            return CapturePlan(view.status, retry_after_s=left_s)
    try:
        status = choose_targets(view)
        obstacles = _obstacles(view, status.disks)
        _refuse_too_deep(view, obstacles)
    except ChainTooDeep as exc:
        return CapturePlan(after_refusal(view.status, exc))
    except KigiError as exc:
        return CapturePlan(_in(view.status, "Pending"), error=exc, retry_after_s=AGAIN_S)
    if not obstacles and view.status.phase == "Checking" and all(_is_possible(view, disk) for disk in status.disks):
        return CapturePlan(status, "Pause", tuple(machine for machine in status.machines if is_to_pause(machine)))
    # The machines stay those of the last attempt until VMs are paused anew.
    told = {disk.id: {"reason": trouble.reason, "message": trouble.message} for disk, trouble in obstacles}
    checking = {
        "phase": "Checking",
        "disks": [disk.model_copy(update=told.get(disk.id, {})) for disk in status.disks],
        "parent": status.parent,
        "deployment_uid": status.deployment_uid,
    }
    return CapturePlan(view.status.model_copy(update=checking), error=first_error(obstacles), retry_after_s=AGAIN_S)


def _obstacles(view: CaptureView, disks: Iterable[CapturedDisk]) -> list[tuple[CapturedDisk, Trouble]]:
    found = ((disk, obstacle_of(disk, view.reports.get(disk.id), view.life(disk))) for disk in disks)
    return [(disk, trouble) for disk, trouble in found if trouble is not None]


def _refuse_too_deep(view: CaptureView, obstacles: Iterable[tuple[CapturedDisk, Trouble]]) -> None:
    """The repository takes no layer above that image: no time mends this."""
    for disk, trouble in of_reason(obstacles, ChainTooDeep.reason):
        raise too_deep(f"machine {disk.name} of instance {view.spec.instance}", disk.image, trouble.message)


def _is_possible(view: CaptureView, disk: CapturedDisk) -> bool:
    report = view.reports.get(disk.id)
    return report is not None and report.state == "Possible"


def _late(view: CaptureView) -> CapturePlan | None:
    """Resumes everybody when they have stood still for too long."""
    status = view.status
    if status.started_at is None or lasts(status.started_at, view.now, STANDSTILL):
        return None
    missing = [disk.name for disk in status.disks if disk.state == "Waiting"]
    message = (
        f"not all disks were copied within {STANDSTILL.seconds} s: {', '.join(missing[:5]) or 'VMs did not pause'}"
    )
    failed = _failing(with_reports(view), "TooSlow", message)
    return CapturePlan(failed, "Resume", standing(failed))


def _copying(view: CaptureView) -> CapturePlan:
    status = with_reports(view)
    if all(disk.state != "Waiting" for disk in status.disks):
        return CapturePlan(status, "Verify", tuple(m for m in status.machines if m.method != "Off"))
    waiting = _obstacles(view, (disk for disk in status.disks if disk.state == "Waiting"))
    for disk, trouble in of_reason(waiting, "NoRoom", "NotSettled"):  # nothing that the limit could mend
        failed = _failing(status, trouble.reason, f"disk {disk.name} on node {disk.node}: {trouble.message}")
        return CapturePlan(failed, "Resume", standing(failed))
    return _late(view) or CapturePlan(status, retry_after_s=5.0)


def _resuming(view: CaptureView) -> CapturePlan:
    status = view.status
    left = standing(status)
    if left:
        return CapturePlan(status, "Resume", left)
    if status.failure is None:
        return CapturePlan(_in(status, "Storing"))
    if status.attempt < ATTEMPTS:
        return CapturePlan(_in(status, "Pending"))
    return CapturePlan(_in(status, "Failed"))


def _storing(view: CaptureView) -> CapturePlan:
    status = with_reports(view)
    if all(disk.state in KEPT for disk in status.disks):
        return CapturePlan(_in(status, "Publishing"), "Publish", objects=tuple(result_objects(view, status)))
    found = ((disk, trouble_of(disk, view.reports.get(disk.id), view.life(disk))) for disk in status.disks)
    troubles = [(disk, trouble) for disk, trouble in found if trouble is not None]
    lost = of_reason(troubles, "CopyLost")
    if lost:
        message = "; ".join(f"disk {disk.name}: {trouble.message}" for disk, trouble in lost[:5])
        failed = _failing(status, "CopyLost", message)
        # A disk whose node is gone is gone with all that was captured: another attempt would capture another one.
        final = any(view.life(disk) == "Gone" for disk, _ in lost)
        return CapturePlan(_in(failed, "Failed") if final else failed)
    told = {disk.id: {"reason": trouble.reason, "message": trouble.message} for disk, trouble in troubles}
    disks = [disk.model_copy(update=told.get(disk.id, {})) for disk in status.disks]
    status = status.model_copy(update={"disks": disks})
    return CapturePlan(status, error=first_error(troubles), retry_after_s=LOOK_AGAIN_S)


def _in(status: SystemCaptureStatus, phase: CapturePhase) -> SystemCaptureStatus:
    return status.model_copy(update={"phase": phase})


def _failing(status: SystemCaptureStatus, reason: str, message: str) -> SystemCaptureStatus:
    return status.model_copy(update={"phase": "Resuming", "failure": reason, "failure_message": message})


def _updated(machines: Sequence[CapturedMachine], new: Sequence[CapturedMachine]) -> list[CapturedMachine]:
    changed = {machine.name: machine for machine in new}
    return [changed.get(machine.name, machine) for machine in machines]


def _milliseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
