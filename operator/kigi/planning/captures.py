"""The next steps of one SystemCapture.

Pending -> Checking -> Pausing -> Copying -> Resuming -> Storing -> Publishing -> Complete, or Failed.

The daemon of the VMs' node stops them while it copies, or KubeVirt pauses them before (``capture_pauses``).

Safety comes from the order of steps:

- AddFinalizer comes first, so that the object stays until its VMs are resumed.
- Every node reports that its copies are possible before a VM is paused.
- RecordProgress comes before the PauseMachine steps that it names: an operator that starts at any time knows which VMs
  to resume, and resumes no VM that a user had paused.
- The nodes copy only while every VM is recorded as paused, or stop the VMs themselves. The copies count only if the API
  server still shows each VM paused after the last copy, or QEMU's events that all were stopped: only then
  RecordProgress marks them as captured, before the first VM is resumed by the operator.
- RecordProgress with the layers' digests comes before the first CreateObject; images are created before the SystemNode.
- RemoveFinalizer comes after every ResumeMachine, and after the objects that were already partly created.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from kigi.api.capture import CapturedDisk, CapturedMachine
from kigi.errors import AgentMissing, ChainTooDeep, KigiError, NameTaken
from kigi.planning.capture_limits import (
    FINISHED_RECHECK_S,
    RETRY_S,
    attempt_delay_s,
    is_exhausted,
    is_paused_too_long,
    seconds_to_deadline,
    seconds_to_deletion,
)
from kigi.planning.capture_pauses import broken_barrier, paused_by_kubevirt, with_pauses, with_stops
from kigi.planning.capture_progress import (
    KEPT,
    CaptureProgress,
    Failure,
    held_machines,
    is_pausing,
    is_stopped_by_daemon,
    is_to_pause,
)
from kigi.planning.capture_results import has_begun, missing_objects, with_reports
from kigi.planning.capture_targets import choose_targets, too_deep
from kigi.planning.capture_view import CaptureView, lasts
from kigi.planning.copies import (
    DiskObstacle,
    copying_obstacle,
    first_error,
    storing_obstacle,
    with_reason,
)
from kigi.planning.steps import (
    AddFinalizer,
    CaptureStep,
    CreateObject,
    DeleteCapture,
    FreezeGuest,
    PauseMachine,
    RecordProgress,
    RemoveFinalizer,
    ResumeMachine,
)

RECHECK_S = 30.0
"""While layers are stored or a name is taken: a silent daemon causes no event, nor does a deleted name."""
COPYING_RECHECK_S = 5.0
PAUSE_SHOWN = timedelta(seconds=5)
"""KubeVirt reports a VM as paused within this time after it has paused the VM."""
PAUSE_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """``progress`` is what is recorded once the steps' RecordProgress is done; without steps, the capture waits."""

    progress: CaptureProgress
    steps: tuple[CaptureStep, ...] = ()
    error: KigiError | None = None
    """Why the capture does not continue now."""
    retry_after_s: float | None = None
    obstacles: tuple[DiskObstacle, ...] = ()
    """Disks that make no progress."""


def plan_capture(view: CaptureView) -> CapturePlan:
    """The next steps; pure. O(machines of the deployment)."""
    if view.deleting:
        return _deleting(view)
    if view.progress.end:
        return _finished(view)
    if not view.has_finalizer:
        return CapturePlan(view.progress, (AddFinalizer(view.namespace, view.name, "SystemCapture"),))
    left_s = seconds_to_deadline(view)
    if left_s is not None and left_s <= 0 and (plan := _overdue(view)) is not None:
        return plan
    plan = _next(view)
    if left_s is not None and left_s > 0:
        plan = replace(plan, retry_after_s=min(left_s, plan.retry_after_s or left_s))
    return plan


def _next(view: CaptureView) -> CapturePlan:
    match view.progress.stage:
        case "Pending" | "Checking":
            return _checking(view)
        case "Pausing":
            return _late(view) or _pausing(view, view.progress)
        case "Copying":
            return _copying(view)
        case "Resuming":
            return _resume(view, view.progress)
        case "Storing":
            return _storing(view)
        case _:
            return _publishing(view)


def machines_to_verify(view: CaptureView) -> tuple[CapturedMachine, ...]:
    """VMs that must be read from the API server before the copies count; none while a copy is missing."""
    if view.deleting or view.progress.stage != "Copying" or not _all_copied(with_reports(view)):
        return ()
    return tuple(m for m in view.progress.machines if m.method != "Off" and not is_stopped_by_daemon(m))


# Stages.


def _checking(view: CaptureView) -> CapturePlan:
    """Chooses machines and disks, and pauses the VMs once every node has reported that its copies are possible."""
    progress = view.progress
    if is_exhausted(view):
        failure = progress.failure or Failure("CaptureFailed", "the attempts failed")
        return _record(view, progress.refused(failure.reason, failure.message))
    if (left_s := attempt_delay_s(view)) > 0:
        return CapturePlan(progress, retry_after_s=left_s)
    try:
        target = choose_targets(view)
        obstacles = _copying_obstacles(view, target, target.disks)
        _refuse_too_deep(view, obstacles)
    except (AgentMissing, ChainTooDeep) as exc:
        return _record(view, progress.refused(exc.reason, str(exc)))
    except KigiError as exc:
        return _record(view, replace(progress, disks=()), error=exc, retry_after_s=RETRY_S)
    if not obstacles and all(_is_possible(view, target, disk) for disk in target.disks):
        return _pausing(view, with_pauses(view, target))
    # ``machines`` stay those of the last attempt, which tell whose pause KubeVirt still reports.
    checking = replace(
        progress,
        disks=target.disks,
        repository=target.repository,
        parent=target.parent,
        instance_uid=target.instance_uid,
    )
    error = first_error(obstacles)
    return _record(view, checking, error=error, retry_after_s=RETRY_S, obstacles=obstacles)


def _pausing(view: CaptureView, progress: CaptureProgress) -> CapturePlan:
    """All guests are frozen before the first VM is paused, so that the pauses begin together."""
    machines = [machine for machine in progress.machines if is_to_pause(machine)]
    if not machines:
        return _record(view, progress)
    timeout_s = round(view.max_pause.total_seconds())
    required = view.spec.quiesce_policy == "FreezeRequired"
    freezes = [
        FreezeGuest(view.namespace, view.vm_name(m.name), m.name, timeout_s, required)
        for m in machines
        if m.method in ("FreezeAndPause", "FreezeAndStop")
    ]
    pauses = [
        PauseMachine(view.namespace, view.vm_name(m.name), m.name) for m in machines if not is_stopped_by_daemon(m)
    ]
    return _record(view, progress, *freezes, *pauses)


def _copying(view: CaptureView) -> CapturePlan:
    progress = with_reports(view)
    if _all_copied(progress):
        return _verified(view, progress)
    if replaced := _replaced_disks(view, progress):
        message = f"{', '.join(replaced)} was replaced before it was copied, by a reset or a switch"
        return _abandon(view, progress, "MovedOn", message)
    if broken := broken_barrier(view, progress):
        return _pausing(view, paused_by_kubevirt(progress, broken, view.now))
    waiting = _copying_obstacles(view, progress, (disk for disk in progress.disks if disk.state == "Waiting"))
    for disk, obstacle in with_reason(waiting, "NoRoom", "NotSettled"):  # more time would not help
        message = f"disk {disk.label} on node {disk.node_name}: {obstacle.message}"
        return _abandon(view, progress, obstacle.reason, message)
    return _late(view) or _record(view, progress, retry_after_s=COPYING_RECHECK_S, obstacles=waiting)


def _verified(view: CaptureView, progress: CaptureProgress) -> CapturePlan:
    """The copies are of one moment if no VM ran again before the last of them was made."""
    unpaused = [m for m in machines_to_verify(view) if not _is_paused(view, m)]
    ran_on = sorted(machine.name for machine in unpaused if not _may_be_reported_late(view, machine))
    if ran_on:
        names = ", ".join(ran_on)
        message = f"{names} ran before all disks were copied, because it was resumed, reset or restarted"
        return _abandon(view, progress, "MovedOn", message)
    if unpaused:
        return _late(view) or CapturePlan(view.progress, retry_after_s=PAUSE_POLL_S)
    stopped, error = with_stops(view, progress)
    if error:
        return _abandon(view, progress, "MovedOn", error)
    return _resume(view, replace(stopped, captured=True))


def _storing(view: CaptureView) -> CapturePlan:
    progress = with_reports(view)
    if all(disk.state in KEPT for disk in progress.disks):
        return _record(view, progress)
    found = ((d, storing_obstacle(d, view.report(progress, d), view.life(d))) for d in progress.disks)
    obstacles = [(disk, obstacle) for disk, obstacle in found if obstacle is not None]
    if lost := with_reason(obstacles, "CopyLost"):
        message = "; ".join(f"disk {disk.label}: {obstacle.message}" for disk, obstacle in lost[:5])
        # The disk of a node that is gone is gone too: another attempt would capture another disk.
        final = any(view.life(disk) == "Gone" for disk, _ in lost)
        return _record(view, (progress.refused if final else progress.abandoned)("CopyLost", message))
    return _record(view, progress, error=first_error(obstacles), retry_after_s=RECHECK_S, obstacles=obstacles)


def _publishing(view: CaptureView) -> CapturePlan:
    try:
        missing = missing_objects(view)
    except NameTaken as exc:
        return CapturePlan(view.progress, error=exc, retry_after_s=RECHECK_S)
    if missing:
        return CapturePlan(view.progress, tuple(CreateObject(manifest) for manifest in missing))
    return _record(view, view.progress.completed())


def _finished(view: CaptureView) -> CapturePlan:
    """Nothing, until the finished capture has lived for long enough."""
    left_s = seconds_to_deletion(view)
    if left_s is None:
        return CapturePlan(view.progress)
    if left_s > 0:
        return CapturePlan(view.progress, retry_after_s=min(left_s, FINISHED_RECHECK_S))
    return CapturePlan(view.progress, (DeleteCapture(view.namespace, view.name, view.uid),))


def _overdue(view: CaptureView) -> CapturePlan | None:
    """Ends the capture, with its VMs resumed first; None: a result that exists in part is completed all the same."""
    progress = view.progress
    reason, message = "DeadlineExceeded", f"spec.activeDeadlineSeconds: {view.spec.active_deadline_seconds} s are over"
    if progress.is_under_way and not progress.captured:
        return _abandon(view, progress, reason, message)
    if held_machines(progress) or (progress.stage == "Publishing" and has_begun(view)):
        return None
    return _record(view, progress.refused(reason, message))


def _deleting(view: CaptureView) -> CapturePlan:
    """Resumes the VMs, completes a result that exists in part, and lets the object go."""
    if not view.has_finalizer:
        return CapturePlan(view.progress)
    if held_machines(view.progress):
        left = view.progress if view.progress.captured else view.progress.abandoned("Deleted", "it is being deleted")
        return _resume(view, left)
    if view.progress.stage == "Publishing":
        plan = _publishing(view)
        if any(isinstance(step, CreateObject) for step in plan.steps):
            return plan
    return CapturePlan(view.progress, (RemoveFinalizer(view.namespace, view.name, "SystemCapture"),))


# Parts of plans.


def _record(
    view: CaptureView,
    progress: CaptureProgress,
    *steps: CaptureStep,
    error: KigiError | None = None,
    retry_after_s: float | None = None,
    obstacles: Iterable[DiskObstacle] = (),
) -> CapturePlan:
    """The steps, after the progress if it is not recorded yet."""
    first: tuple[CaptureStep, ...] = (RecordProgress(progress),) if progress != view.progress else ()
    return CapturePlan(progress, (*first, *steps), error, retry_after_s, tuple(obstacles))


def _resume(view: CaptureView, progress: CaptureProgress) -> CapturePlan:
    resumes = [
        ResumeMachine(view.namespace, view.vm_name(m.name), m.name, thaw=m.method == "FreezeAndPause")
        for m in held_machines(progress)
    ]
    return _record(view, progress, *resumes)


def _abandon(view: CaptureView, progress: CaptureProgress, reason: str, message: str) -> CapturePlan:
    return _resume(view, progress.abandoned(reason, message))


def _late(view: CaptureView) -> CapturePlan | None:
    """Resumes all VMs when the attempt has paused them for too long."""
    if not is_paused_too_long(view):
        return None
    progress = with_reports(view)
    missing = ", ".join([disk.label for disk in progress.disks if disk.state == "Waiting"][:5])
    limit_s = round(view.max_pause.total_seconds())
    message = f"not all disks were copied within {limit_s} s: {missing or 'VMs were not paused'}"
    return _abandon(view, progress, "TooSlow", message)


def _replaced_disks(view: CaptureView, progress: CaptureProgress) -> list[str]:
    """Disks without a copy whose volume does not exist any more; none if the deployment is not known."""
    if isinstance(view.instance, KigiError):
        return []
    handles = {volume.handle for volume in view.instance.volumes}
    waiting = (disk for disk in progress.disks if disk.state == "Waiting")
    return [disk.label for disk in waiting if view.owner.volume_of(progress, disk) not in handles]


def _copying_obstacles(
    view: CaptureView, progress: CaptureProgress, disks: Iterable[CapturedDisk]
) -> list[DiskObstacle]:
    found = ((disk, copying_obstacle(disk, view.report(progress, disk), view.life(disk))) for disk in disks)
    return [(disk, obstacle) for disk, obstacle in found if obstacle is not None]


def _refuse_too_deep(view: CaptureView, obstacles: Iterable[DiskObstacle]) -> None:
    """ChainTooDeep is final: waiting does not change what the repository accepts."""
    for disk, obstacle in with_reason(obstacles, ChainTooDeep.reason):
        where = f"machine {disk.machine} of instance {view.spec.instance_ref.name}"
        raise too_deep(where, disk.base_image_name, obstacle.message)


def _is_possible(view: CaptureView, progress: CaptureProgress, disk: CapturedDisk) -> bool:
    report = view.report(progress, disk)
    return report is not None and report.state == "Possible"


def _all_copied(progress: CaptureProgress) -> bool:
    return all(disk.state != "Waiting" for disk in progress.disks)


def _is_paused(view: CaptureView, machine: CapturedMachine) -> bool:
    """Whether the VMI of the attempt is paused; a VMI of another uid has run since."""
    vmi = view.vmis.get(machine.name)
    return vmi is not None and vmi.paused and vmi.uid == machine.vmi_uid


def _may_be_reported_late(view: CaptureView, machine: CapturedMachine) -> bool:
    """Whether the VMI of the attempt was paused so recently that KubeVirt may not report it yet."""
    vmi = view.vmis.get(machine.name)
    same = vmi is not None and vmi.uid == machine.vmi_uid
    return (
        same
        and is_pausing(machine)
        and machine.pause_time is not None
        and lasts(machine.pause_time, view.now, PAUSE_SHOWN)
    )
