"""The next steps of one SystemCapture.

Pending -> Checking -> Pausing -> Copying -> Resuming -> Storing -> Publishing -> Done, or Failed.

Safety comes from the order of steps:

- AddFinalizer comes first, so that the object stays until its VMs are resumed.
- Every node reports that its copies are possible before a VM is paused.
- RecordProgress comes before the PauseMachine steps that it names: an operator that starts at any time knows which VMs
  to resume, and resumes no VM that a user had paused.
- The nodes copy only while the recorded phase is Copying, in which every VM is paused. The copies count only if the API
  server still shows each VM paused after the last copy: only then RecordProgress leaves the phase without a failure.
- RecordProgress with the layers' digests comes before the first CreateObject; images are created before the SystemNode.
- RemoveFinalizer comes after every ResumeMachine, and after the objects that were already partly created.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from kigi.api.capture import CapturedDisk, CapturedMachine
from kigi.errors import ChainTooDeep, KigiError, NameTaken
from kigi.planning.capture_progress import ENDED, CaptureProgress, held_machines, is_pausing, is_to_pause
from kigi.planning.capture_results import missing_objects, with_reports
from kigi.planning.capture_targets import choose_targets, too_deep
from kigi.planning.capture_view import CLOCK_SKEW, CaptureView, lasts
from kigi.planning.copies import (
    KEPT,
    DiskObstacle,
    copying_obstacle,
    first_error,
    storing_obstacle,
    with_obstacles,
    with_reason,
)
from kigi.planning.steps import (
    AddFinalizer,
    CaptureStep,
    CreateObject,
    FreezeGuest,
    PauseMachine,
    RecordProgress,
    RemoveFinalizer,
    ResumeMachine,
)

MAX_ATTEMPTS = 3
RETRY_S = 10.0
"""Between two attempts, and between two checks of what keeps an attempt from starting."""
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


def plan_capture(view: CaptureView) -> CapturePlan:
    """The next steps; pure. O(machines of the deployment)."""
    if view.deleting:
        return _deleting(view)
    progress = view.progress
    if progress.phase in ENDED:
        return CapturePlan(progress)
    if not view.has_finalizer:
        return CapturePlan(progress, (AddFinalizer(view.namespace, view.name, "SystemCapture"),))
    match progress.phase:
        case "Pending" | "Checking":
            return _checking(view)
        case "Pausing":
            return _late(view) or _pausing(view, progress)
        case "Copying":
            return _copying(view)
        case "Resuming":
            return _resuming(view)
        case "Storing":
            return _storing(view)
        case _:
            return _publishing(view)


def machines_to_verify(view: CaptureView) -> tuple[CapturedMachine, ...]:
    """VMs that must be read from the API server before the copies count; none while a copy is missing."""
    if view.deleting or view.progress.phase != "Copying" or not _all_copied(with_reports(view)):
        return ()
    return tuple(machine for machine in view.progress.machines if machine.method != "Off")


# Phases.


def _checking(view: CaptureView) -> CapturePlan:
    """Chooses machines and disks, and pauses the VMs once every node has reported that its copies are possible."""
    progress = view.progress
    if (left_s := _delay_s(view)) > 0:
        return CapturePlan(progress, retry_after_s=left_s)
    try:
        target = choose_targets(view)
        obstacles = _copying_obstacles(view, target.disks)
        _refuse_too_deep(view, obstacles)
    except ChainTooDeep as exc:
        return _record(view, progress.refused(exc.reason, str(exc)))
    except KigiError as exc:
        return _record(view, progress.in_phase("Pending"), error=exc, retry_after_s=RETRY_S)
    if not obstacles and progress.phase == "Checking" and all(_is_possible(view, disk) for disk in target.disks):
        return _pausing(view, target)
    # ``machines`` stay those of the last attempt, which tell whose pause KubeVirt still reports.
    checking = replace(
        progress,
        phase="Checking",
        disks=with_obstacles(target.disks, obstacles),
        parent=target.parent,
        deployment_uid=target.deployment_uid,
    )
    return _record(view, checking, error=first_error(obstacles), retry_after_s=RETRY_S)


def _pausing(view: CaptureView, progress: CaptureProgress) -> CapturePlan:
    """All guests are frozen before the first VM is paused, so that the pauses begin together."""
    machines = [machine for machine in progress.machines if is_to_pause(machine)]
    if not machines:
        return _record(view, progress.in_phase("Copying"))
    timeout_s = round(view.max_pause.total_seconds())
    freezes = [
        FreezeGuest(view.namespace, view.vm_name(m.name), m.name, timeout_s)
        for m in machines
        if m.method == "FreezeAndPause"
    ]
    pauses = [PauseMachine(view.namespace, view.vm_name(m.name), m.name) for m in machines]
    return _record(view, progress, *freezes, *pauses)


def _copying(view: CaptureView) -> CapturePlan:
    progress = with_reports(view)
    if _all_copied(progress):
        return _verified(view, progress)
    waiting = _copying_obstacles(view, (disk for disk in progress.disks if disk.state == "Waiting"))
    for disk, obstacle in with_reason(waiting, "NoRoom", "NotSettled"):  # more time would not help
        message = f"disk {disk.name} on node {disk.node}: {obstacle.message}"
        return _abandon(view, progress, obstacle.reason, message)
    return _late(view) or _record(view, progress, retry_after_s=COPYING_RECHECK_S)


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
    return _resume(view, progress.in_phase("Resuming"))


def _resuming(view: CaptureView) -> CapturePlan:
    progress = view.progress
    if held_machines(progress):
        return _resume(view, progress)
    if progress.failure is None:
        return _record(view, progress.in_phase("Storing"))
    return _record(view, progress.in_phase("Pending" if progress.attempt < MAX_ATTEMPTS else "Failed"))


def _storing(view: CaptureView) -> CapturePlan:
    progress = with_reports(view)
    if all(disk.state in KEPT for disk in progress.disks):
        return _record(view, progress.in_phase("Publishing"))
    found = ((disk, storing_obstacle(disk, view.reports.get(disk.id), view.life(disk))) for disk in progress.disks)
    obstacles = [(disk, obstacle) for disk, obstacle in found if obstacle is not None]
    if lost := with_reason(obstacles, "CopyLost"):
        message = "; ".join(f"disk {disk.name}: {obstacle.message}" for disk, obstacle in lost[:5])
        # The disk of a node that is gone is gone too: another attempt would capture another disk.
        final = any(view.life(disk) == "Gone" for disk, _ in lost)
        return _record(view, (progress.refused if final else progress.abandoned)("CopyLost", message))
    progress = replace(progress, disks=with_obstacles(progress.disks, obstacles))
    return _record(view, progress, error=first_error(obstacles), retry_after_s=RECHECK_S)


def _publishing(view: CaptureView) -> CapturePlan:
    try:
        missing = missing_objects(view)
    except NameTaken as exc:
        return CapturePlan(view.progress, error=exc, retry_after_s=RECHECK_S)
    if missing:
        return CapturePlan(view.progress, tuple(CreateObject(manifest) for manifest in missing))
    return _record(view, replace(view.progress, phase="Done", failure=None, failure_message=None))


def _deleting(view: CaptureView) -> CapturePlan:
    """Resumes the VMs, completes a result that exists in part, and lets the object go."""
    if not view.has_finalizer:
        return CapturePlan(view.progress)
    if held_machines(view.progress):
        return _resume(view, view.progress.in_phase("Resuming"))
    if view.progress.phase == "Publishing":
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
) -> CapturePlan:
    """The steps, after the progress if it is not recorded yet."""
    first: tuple[CaptureStep, ...] = (RecordProgress(progress),) if progress != view.progress else ()
    return CapturePlan(progress, (*first, *steps), error, retry_after_s)


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
    progress = with_reports(view)
    if progress.started_at is None or lasts(progress.started_at, view.now, view.max_pause):
        return None
    missing = ", ".join([disk.name for disk in progress.disks if disk.state == "Waiting"][:5])
    limit_s = round(view.max_pause.total_seconds())
    message = f"not all disks were copied within {limit_s} s: {missing or 'VMs were not paused'}"
    return _abandon(view, progress, "TooSlow", message)


def _delay_s(view: CaptureView) -> float:
    """Seconds until the next attempt may start; 0 if the clock was set since the last one."""
    progress = view.progress
    if progress.failure is None or progress.started_at is None:
        return 0.0
    left_s = RETRY_S - (view.now - progress.started_at).total_seconds()
    return left_s if 0 < left_s <= RETRY_S + CLOCK_SKEW.total_seconds() else 0.0


def _copying_obstacles(view: CaptureView, disks: Iterable[CapturedDisk]) -> list[DiskObstacle]:
    found = ((disk, copying_obstacle(disk, view.reports.get(disk.id), view.life(disk))) for disk in disks)
    return [(disk, obstacle) for disk, obstacle in found if obstacle is not None]


def _refuse_too_deep(view: CaptureView, obstacles: Iterable[DiskObstacle]) -> None:
    """ChainTooDeep is final: waiting does not change what the repository accepts."""
    for disk, obstacle in with_reason(obstacles, ChainTooDeep.reason):
        raise too_deep(f"machine {disk.name} of instance {view.spec.instance}", disk.image, obstacle.message)


def _is_possible(view: CaptureView, disk: CapturedDisk) -> bool:
    report = view.reports.get(disk.id)
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
        and machine.paused_at is not None
        and lasts(machine.paused_at, view.now, PAUSE_SHOWN)
    )
