"""What to do next for one SystemCapture.

Pending -> Checking -> Pausing -> Copying -> Resuming -> Storing -> Publishing -> Done. Each phase is written before
what it says is done, so that an operator that starts in the middle knows which VMs stand still for it: it resumes them
in every case. No VM is paused before each node has said that a copy can be made and stored. While the VMs stand still
only their overlays are copied, by their nodes' daemons; layers are made afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from kigi.api.capture import CapturedDisk, CapturedMachine, CapturePhase, SystemCaptureSpec, SystemCaptureStatus
from kigi.api.node_cache import CaptureOrder, CaptureReport
from kigi.domain import names
from kigi.domain.layers import MAX_DEPTH, Chain
from kigi.errors import ChainTooDeep, DeploymentMissing, KigiError, MachineUnknown, NameTaken, NotSettled
from kigi.planning.copies import KEPT, NodeLife, Trouble, first_error, obstacle_of, of_reason, trouble_of
from kigi.planning.deployment import is_outdated
from kigi.planning.view import DeploymentView, MachineState, VolumeState
from kigi.planning.wishes import Fingerprint, WishedMachine, wished_machines

STANDSTILL = timedelta(seconds=60)
"""Longest time that VMs stand still for an attempt; then they are resumed, whatever was copied."""
RESUMED_SHOWN = timedelta(seconds=30)
"""KubeVirt shows for a moment longer that a VM is paused; one that it shows so after this was paused by somebody."""
CLOCK_SKEW = timedelta(seconds=5)
"""A time further in the future than this shows that a clock was set, or that another machine's is wrong."""
ATTEMPTS = 3
AGAIN_S = 10.0
LOOK_AGAIN_S = 30.0
"""A daemon that falls silent changes nothing that is watched."""
ORDERING: frozenset[CapturePhase] = frozenset({"Checking", "Copying", "Resuming", "Storing", "Publishing"})
"""Phases in which the nodes have to do with it."""
ENDED: frozenset[CapturePhase] = frozenset({"Done", "Failed"})
HOLDING: frozenset[CapturePhase] = frozenset({"Pausing", "Copying", "Resuming"})
"""Phases in which VMs may stand still for it."""


@dataclass(frozen=True, slots=True)
class CaptureView:
    """Everything that the decision on one SystemCapture needs."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    has_finalizer: bool
    spec: SystemCaptureSpec
    status: SystemCaptureStatus
    deployment: DeploymentView | KigiError
    """The deployment as it is, or why it cannot be captured."""
    agents: frozenset[str]
    """uids of the instances whose guest agent answers."""
    taken: frozenset[tuple[str, str]]
    """(kind, name) of every state and image of the namespace."""
    reports: Mapping[str, CaptureReport]
    """What the nodes say of the copies, by id."""
    lives: Mapping[str, NodeLife]
    """Of every node, by name; one that is not in it is gone."""
    now: datetime

    def life(self, disk: CapturedDisk) -> NodeLife:
        """Of the node that has the disk."""
        return self.lives.get(disk.node, "Gone")


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
        half_done = tuple(_objects(view)) if status.phase == "Publishing" else ()
        return CapturePlan(status, "RemoveFinalizer" if view.has_finalizer else "", objects=half_done)
    if status.phase in ENDED:
        return CapturePlan(status)
    if not view.has_finalizer:
        return CapturePlan(status, "AddFinalizer")
    match status.phase:
        case "Pending" | "Checking":
            return _begin(view)
        case "Pausing":
            return _late(view) or CapturePlan(status, "Pause", tuple(m for m in status.machines if _to_pause(m)))
        case "Copying":
            return _copying(view)
        case "Resuming":
            return _resuming(view)
        case "Storing":
            return _storing(view)
        case _:
            return CapturePlan(status, "Publish", objects=tuple(_objects(view)))


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


def system_name(name: str, spec: SystemCaptureSpec) -> str:
    """Name of the SystemNode that results."""
    return spec.system or name


def image_name(system: str, disk: str) -> str:
    """Name of the VMImageNode of a disk, named as in the status; machines' names have no dot, so no two share one."""
    return f"{system}-{disk.replace('/', '.')}"


# Phases.


def _begin(view: CaptureView) -> CapturePlan:
    """Who is captured, and whether all nodes can; written before anybody is paused. What failed is tried again."""
    if view.status.failure is not None and view.status.started_at is not None:
        left_s = AGAIN_S - (view.now - view.status.started_at).total_seconds()
        if 0 < left_s <= AGAIN_S + CLOCK_SKEW.total_seconds():
            return CapturePlan(view.status, retry_after_s=left_s)
    try:
        status = _chosen(view)
        obstacles = _obstacles(view, status.disks)
        _refuse_too_deep(view, obstacles)
    except ChainTooDeep as exc:
        return CapturePlan(after_refusal(view.status, exc))
    except KigiError as exc:
        return CapturePlan(_in(view.status, "Pending"), error=exc, retry_after_s=AGAIN_S)
    if not obstacles and view.status.phase == "Checking" and all(_is_possible(view, disk) for disk in status.disks):
        return CapturePlan(status, "Pause", tuple(machine for machine in status.machines if _to_pause(machine)))
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
        raise _too_deep(f"machine {disk.name} of instance {view.spec.instance}", disk.image, trouble.message)


def _too_deep(where: str, image: str, cause: str) -> ChainTooDeep:
    return ChainTooDeep(
        f"{where}: VMImageNode {image}: {cause}; run 'kigi flatten {image} --name NEW', deploy a state that names NEW, "
        "and capture that"
    )


def _is_possible(view: CaptureView, disk: CapturedDisk) -> bool:
    report = view.reports.get(disk.id)
    return report is not None and report.state == "Possible"


def _chosen(view: CaptureView) -> SystemCaptureStatus:
    deployment = view.deployment
    if isinstance(deployment, KigiError):
        raise deployment
    wishes = [w for w in wished_machines(deployment.spec, deployment.systems) if w.instance == view.spec.instance]
    if not wishes:
        raise DeploymentMissing(
            f"spec.instance: SystemDeployment {deployment.name} has {deployment.spec.replicas} instances, from 0; "
            f"there is no instance {view.spec.instance}"
        )
    known = {wish.machine for wish in wishes}
    for name in view.spec.machines:
        if name not in known:
            raise MachineUnknown(
                f"spec.machines: instance {view.spec.instance} of SystemDeployment {deployment.name} has no machine "
                f"{name}; it has {', '.join(sorted(known))}"
            )
    wanted = [wish for wish in wishes if not view.spec.machines or wish.machine in view.spec.machines]
    attempt = view.status.attempt + 1
    machines: list[CapturedMachine] = []
    disks: list[CapturedDisk] = []
    for wish in sorted(wanted, key=lambda wish: wish.machine):
        machine, volumes = _at_rest(view, deployment, wish)
        # Written before anybody is asked, so that no operator that dies after the request makes the pause look shorter.
        machines.append(machine.model_copy(update={"requested_at": view.now}) if _to_pause(machine) else machine)
        for name, image, chain, volume in volumes:
            disks.append(_disk(view, attempt, len(disks), name, image, chain, volume))
    _refuse_taken(view, disks)
    override = next((o for o in deployment.spec.overrides if o.instance == view.spec.instance), None)
    parent = override.system.name if override and override.system else deployment.spec.system.name
    return SystemCaptureStatus(
        observed_generation=view.status.observed_generation,
        conditions=view.status.conditions,
        phase="Pausing",
        attempt=attempt,
        parent=parent,
        deployment_uid=deployment.uid,
        started_at=view.now,
        machines=machines,
        disks=disks,
    )


def _refuse_taken(view: CaptureView, disks: Sequence[CapturedDisk]) -> None:
    """No VM is paused for a state that could not be written in the end."""
    system = system_name(view.name, view.spec)
    wanted = [("SystemNode", system), *(("VMImageNode", image_name(system, disk.name)) for disk in disks)]
    for kind, name in wanted:
        if (kind, name) in view.taken:
            raise NameTaken(
                f"{kind} {view.namespace}/{name} exists already; delete it, or capture under another spec.system"
            )


_Found = tuple[str, str, Chain, VolumeState]
"""Name of the disk in the status, its image, that image's chain, and its volume."""


def _at_rest(
    view: CaptureView, deployment: DeploymentView, wish: WishedMachine
) -> tuple[CapturedMachine, list[_Found]]:
    """The VM and its disks, if it runs on the disks that it shall have, or is off; NotSettled until then."""
    where = f"machine {wish.machine} of instance {wish.instance}"
    volumes = {v.disk: v for v in _newest(deployment.volumes, wish)}
    root = volumes.get("")
    if root is None or wish.needs_new_disk(Fingerprint.from_text(root.fingerprint)):
        raise NotSettled(f"{where} is being switched or reset; it is captured when that is done")
    found: list[_Found] = [(wish.machine, wish.image, wish.chain, root)]
    for disk in wish.disks:
        volume = volumes.get(disk.name)
        if volume is None:
            raise NotSettled(f"{where}: its disk {disk.name} is not there yet")
        found.append((f"{wish.machine}/{disk.name}", disk.image, disk.chain, volume))
    for name, image, chain, volume in found:
        if volume.chain[-1].digest != chain[-1].digest:
            raise NotSettled(f"{where}: disk {name} does not stand on image {image}; it is captured when it does")
        if len(chain) >= MAX_DEPTH:
            raise _too_deep(where, image, f"its chain has {len(chain)} layers, and no chain may have more")
    vm = next((m for m in deployment.machines if (m.instance, m.machine) == wish.slot), None)
    claim = names.claim_name(deployment.name, *wish.slot, root.revision)
    if vm is None or vm.instance_uid is None:
        # On, and powered off by its guest, it stays off; else it may start while its disk is copied.
        powered_off = vm is not None and vm.claim == claim and vm.printable_status == "Stopped"
        if wish.running and not powered_off:
            raise NotSettled(f"{where} is about to start")
        return CapturedMachine(name=wish.machine), found
    if vm.instance_deleting or is_outdated(vm) or vm.instance_claim != claim or vm.instance_phase != "Running":
        raise NotSettled(f"{where} is starting or stopping ({vm.printable_status or vm.instance_phase})")
    method = _method(view, vm)
    return CapturedMachine(name=wish.machine, instance_uid=vm.instance_uid, method=method), found


def _method(view: CaptureView, vm: MachineState) -> Literal["Pause", "FreezeAndPause", "AlreadyPaused"]:
    if vm.paused:
        before = next((m for m in view.status.machines if m.instance_uid == vm.instance_uid), None)
        if before is not None and before.resumed_at is not None and _lasts(before.resumed_at, view.now, RESUMED_SHOWN):
            raise NotSettled(f"machine {vm.machine} was resumed a moment ago; KubeVirt does not show it yet")
        return "AlreadyPaused"
    return "FreezeAndPause" if view.spec.quiesce == "Auto" and vm.instance_uid in view.agents else "Pause"


def _newest(volumes: Iterable[VolumeState], wish: WishedMachine) -> list[VolumeState]:
    """Volumes of the machine's newest revision."""
    own = [v for v in volumes if v.slot == wish.slot and not v.deleting]
    newest = max((v.revision for v in own), default=0)
    return [v for v in own if v.revision == newest]


def _disk(
    view: CaptureView, attempt: int, number: int, name: str, image: str, chain: Chain, volume: VolumeState
) -> CapturedDisk:
    return CapturedDisk(
        name=name,
        # Of that volume too: an answer that was given before a reset is not taken for one about the new disk.
        id=f"c{view.uid}-{attempt}-{number}-{hashlib.sha256(volume.handle.encode()).hexdigest()[:8]}",
        node=volume.node,
        volume=volume.handle,
        image=image,
        parent=chain[-1].digest,
        virtual_size_bytes=chain[-1].virtual_size_bytes,
        repository=view.spec.repository,
    )


def _to_pause(machine: CapturedMachine) -> bool:
    return machine.method in ("Pause", "FreezeAndPause") and machine.paused_at is None


def _late(view: CaptureView) -> CapturePlan | None:
    """Resumes everybody when they have stood still for too long."""
    status = view.status
    if status.started_at is None or _lasts(status.started_at, view.now, STANDSTILL):
        return None
    missing = [disk.name for disk in status.disks if disk.state == "Waiting"]
    message = (
        f"not all disks were copied within {STANDSTILL.seconds} s: {', '.join(missing[:5]) or 'VMs did not pause'}"
    )
    failed = _failing(_with_reports(view), "TooSlow", message)
    return CapturePlan(failed, "Resume", standing(failed))


def _copying(view: CaptureView) -> CapturePlan:
    status = _with_reports(view)
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
    status = _with_reports(view)
    if all(disk.state in KEPT for disk in status.disks):
        return CapturePlan(_in(status, "Publishing"), "Publish", objects=tuple(_objects(view, status)))
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


def _with_reports(view: CaptureView) -> SystemCaptureStatus:
    """The status with what the nodes say; no disk goes back to an earlier state."""
    system = system_name(view.name, view.spec)
    disks: list[CapturedDisk] = []
    for disk in view.status.disks:
        report = view.reports.get(disk.id)
        if report is None or disk.state in KEPT:
            disks.append(disk)
            continue
        copied = disk.state != "Waiting"
        state: Any = report.state
        if state in ("Lost", "Possible") or (state == "Refused" and not copied and report.copied_bytes == 0):
            state = disk.state  # before the copy: tried again while there is time
        result = {"Stored": image_name(system, disk.name), "Unchanged": disk.image}.get(state)
        disks.append(
            disk.model_copy(
                update={
                    "state": state,
                    "copied_bytes": report.copied_bytes or disk.copied_bytes,
                    "copy_milliseconds": report.copy_milliseconds or disk.copy_milliseconds,
                    "digest": report.digest,
                    "size_bytes": report.size_bytes,
                    "uploaded_bytes": report.uploaded_bytes,
                    "result": result,
                    "reason": report.reason,
                    "message": report.message,
                }
            )
        )
    return view.status.model_copy(
        update={
            "disks": disks,
            "uploaded_bytes": sum(disk.uploaded_bytes for disk in disks),
            "added_bytes": sum(disk.size_bytes or 0 for disk in disks),
        }
    )


def _objects(view: CaptureView, status: SystemCaptureStatus | None = None) -> Iterable[Mapping[str, Any]]:
    """One VMImageNode for each disk that was written, and the SystemNode that names them."""
    status = status or view.status
    system = system_name(view.name, view.spec)
    origin = {names.ANNOTATION_CAPTURED_FROM: f"{view.spec.deployment.name}/{view.spec.instance}"}
    machines: dict[str, dict[str, Any]] = {}
    for disk in status.disks:
        machine, _, more = disk.name.partition("/")
        entry = machines.setdefault(machine, {"name": machine})
        image = {"name": disk.result or disk.image}
        if more:
            entry.setdefault("disks", []).append({"name": more, "image": image})
        else:
            entry["image"] = image
        if disk.state != "Stored":
            continue
        layer = {
            "digest": disk.digest,
            "sizeBytes": disk.size_bytes,
            "virtualSizeBytes": disk.virtual_size_bytes,
            "repository": disk.repository,
        }
        yield {
            "apiVersion": names.API_VERSION,
            "kind": "VMImageNode",
            "metadata": {"name": disk.result, "namespace": view.namespace, "annotations": origin},
            "spec": {"parent": {"name": disk.image}, "layer": layer},
        }
    spec: dict[str, Any] = {"parent": {"name": status.parent}, "machines": list(machines.values())}
    if view.spec.description is not None:
        spec["description"] = view.spec.description
    yield {
        "apiVersion": names.API_VERSION,
        "kind": "SystemNode",
        "metadata": {"name": system, "namespace": view.namespace, "annotations": origin},
        "spec": spec,
    }


def _lasts(since: datetime, now: datetime, limit: timedelta) -> bool:
    """Whether at most ``limit`` has passed. A clock that was set back does not stretch it: then it has passed."""
    return -CLOCK_SKEW <= now - since <= limit


def _in(status: SystemCaptureStatus, phase: CapturePhase) -> SystemCaptureStatus:
    return status.model_copy(update={"phase": phase})


def _failing(status: SystemCaptureStatus, reason: str, message: str) -> SystemCaptureStatus:
    return status.model_copy(update={"phase": "Resuming", "failure": reason, "failure_message": message})


def _updated(machines: Sequence[CapturedMachine], new: Sequence[CapturedMachine]) -> list[CapturedMachine]:
    changed = {machine.name: machine for machine in new}
    return [changed.get(machine.name, machine) for machine in machines]


def _milliseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
