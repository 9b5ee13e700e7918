"""Plans of a SystemCapture: which VMs are paused, when they are resumed, and what ends an attempt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from kigi.api.base import MACHINE_NAME
from kigi.api.capture import ROOT_DISK, CapturedDisk, SystemCaptureSpec, SystemCaptureStatus
from kigi.api.node_cache import CaptureReport
from kigi.domain.systems import ResolvedSystem
from kigi.errors import (
    Conflict,
    KigiError,
    LostLeadership,
    NameTaken,
    NoDefaultRepository,
    RefNotPermitted,
    Unreachable,
    Waiting,
)
from kigi.planning.capture_limits import BACKOFF_LIMIT, RETRY_S, retry_delay_s
from kigi.planning.capture_orders import CaptureOwner, action_of
from kigi.planning.capture_outcomes import error_after, progress_after
from kigi.planning.capture_progress import (
    CaptureProgress,
    CaptureStage,
    Failure,
    held_machines,
    progress_of,
    uses,
)
from kigi.planning.capture_results import key_of, result_objects
from kigi.planning.capture_targets import RESUMED_SHOWN
from kigi.planning.capture_view import MAX_PAUSE, CaptureView, ObservedVmi, image_name
from kigi.planning.captures import (
    PAUSE_POLL_S,
    PAUSE_SHOWN,
    CapturePlan,
    machines_to_verify,
    plan_capture,
)
from kigi.planning.copies import life_of
from kigi.planning.steps import (
    AddFinalizer,
    CreateObject,
    FreezeGuest,
    PauseMachine,
    RecordProgress,
    RemoveFinalizer,
    ResumeMachine,
    StepResult,
)
from kigi.planning.view import InstanceView
from kigi.status.captures import capture_status
from tests.support.worlds import World, deployment_spec, digest


def settled(state: str = "a", **spec: object) -> World:
    w = World(deployment_spec(state, **spec))
    w.settle()
    return w


OWNER = CaptureOwner("u1", "ns", "dep", "0")


def captured(**spec: object) -> SystemCaptureSpec:
    return SystemCaptureSpec.model_validate({"instanceRef": {"name": "dep-0"}, "requestedBy": "alice", **spec})


def foreign(w: World) -> InstanceView:
    """The instance of a state that is inherited from the namespace ``library``."""
    view = w.view()
    systems = {}
    for name, state in view.systems.items():
        assert isinstance(state, ResolvedSystem)
        machines = tuple(replace(machine, image=f"library/{machine.image}") for machine in state.machines)
        systems[name] = replace(state, machines=machines)
    return replace(view, systems=systems)


def test_a_capture_is_based_on_an_image_that_its_namespace_may_name() -> None:
    w = settled()
    instance = foreign(w)
    tops = {volume.chain[-1].digest for volume in instance.volumes}
    usable = {top: f"library/{number}" for number, top in enumerate(sorted(tops))}
    plan = begun(view_of(w, instance=instance, images=usable))
    assert {disk.base_image_name for disk in plan.progress.disks} <= set(usable.values())
    view = replace(view_of(w, instance=instance, images=usable), progress=plan.progress)
    stored = [
        disk.model_copy(update={"state": "Stored", "digest": digest("x"), "size_bytes": 1})
        for disk in plan.progress.disks
    ]
    objects = result_objects(replace(view, progress=replace(plan.progress, disks=tuple(stored), repository="default")))
    parents = [body["spec"]["parentRef"] for body in objects if body["kind"] == "VMImageNode"]
    assert {parent["namespace"] for parent in parents} == {"library"}
    refused = plan_capture(view_of(w, instance=instance, images={}))
    assert isinstance(refused.error, RefNotPermitted)
    assert "library" not in str(refused.error)


def disk_of(machine: str, name: str) -> CapturedDisk:
    (disk,) = begun(view_of(settled(), spec=captured(machines=["web"]))).progress.disks
    return disk.model_copy(update={"machine": machine, "disk": name})


def view_of(w: World, progress: CaptureProgress | None = None, **fields: object) -> CaptureView:
    view = CaptureView(
        namespace="ns",
        name="after",
        uid="u1",
        generation=1,
        deleting=False,
        has_finalizer=True,
        spec=captured(),
        progress=progress or CaptureProgress(),
        instance=w.view(),
        agents=frozenset(),
        taken=frozenset(),
        reports={},
        lives=dict.fromkeys(w.view().nodes, "Alive"),
        now=w.view().now,
    )
    return replace(view, **fields)  # type: ignore[arg-type]


def kinds(plan: CapturePlan) -> list[str]:
    """Types of the plan's steps, each run of equal types once."""
    found = [type(step).__name__ for step in plan.steps]
    return [name for number, name in enumerate(found) if number == 0 or found[number - 1] != name]


def reason(plan: CapturePlan) -> str | None:
    """Why the attempt, or the capture, failed."""
    return plan.progress.failure.reason if plan.progress.failure is not None else None


def message(plan: CapturePlan) -> str:
    return plan.progress.failure.message if plan.progress.failure is not None else ""


def resumes(plan: CapturePlan) -> set[str]:
    return {step.machine for step in plan.steps if isinstance(step, ResumeMachine)}


def carried_out(
    plan: CapturePlan, now: datetime, *, failed: Collection[str] = (), error: KigiError | None = None
) -> CaptureProgress:
    """The progress after all steps; those for the machines in ``failed`` fail with the error."""
    error = error or Unreachable("KubeVirt does not answer")
    results = [
        StepResult(step, now, error if getattr(step, "machine", None) in failed else None) for step in plan.steps
    ]
    return progress_after(plan.progress, results, deleting=False)


def begun(view: CaptureView) -> CapturePlan:
    """The plan when all nodes have reported that copies are possible, or the one that did not ask them."""
    plan = plan_capture(view)
    if plan.progress.stage != "Checking":
        return plan
    assert kinds(plan) in ([], ["RecordProgress"])
    return plan_capture(replace(view, progress=plan.progress, reports=copied(plan.progress, "Possible")))


def paused(w: World, **fields: object) -> CaptureProgress:
    """The progress when all VMs are paused."""
    plan = begun(view_of(w, **fields))
    assert kinds(plan)[-1] == "PauseMachine"
    progress = carried_out(plan, w.view().now)
    assert progress.stage == "Copying"
    return progress


def all_paused(w: World, progress: CaptureProgress) -> dict[str, ObservedVmi]:
    """What the API server shows while the VMs of the attempt are paused."""
    return {m.name: ObservedVmi(m.vmi_uid, True) for m in progress.machines if m.vmi_uid is not None}


def verified(w: World, progress: CaptureProgress, **fields: object) -> CapturePlan:
    """The plan when all disks are copied and every VM is still paused."""
    view = view_of(w, progress, reports=copied(progress), vmis=all_paused(w, progress))
    return plan_capture(replace(view, **fields))  # type: ignore[arg-type]


def resumed(plan: CapturePlan, w: World) -> CaptureProgress:
    """The progress after the plan's VMs are resumed."""
    progress = carried_out(plan, w.view().now)
    assert not held_machines(progress)
    return progress


def abandoned(w: World) -> CapturePlan:
    """The plan that resumes the VMs after one could not be paused."""
    failed = carried_out(begun(view_of(w)), w.view().now, failed=["db"])
    return plan_capture(view_of(w, failed))


def copied(progress: CaptureProgress, state: str = "Copied", **fields: object) -> dict[str, CaptureReport]:
    return {
        (id_ := OWNER.id_of(progress, disk)): CaptureReport.model_validate(
            {"id": id_, "state": state, "copiedBytes": 9, **fields}
        )
        for disk in progress.disks
    }


def shown_paused(w: World) -> object:
    """The instance with VMIs that KubeVirt reports as paused."""
    view = w.view()
    machines = [replace(m, vmi=replace(m.vmi, paused=True) if m.vmi else None) for m in view.machines]
    return replace(view, machines=tuple(machines))


def test_every_disk_of_every_machine_is_captured() -> None:
    w = settled("b")
    plan = begun(view_of(w))
    assert [disk.label for disk in plan.progress.disks] == ["db", "db/data", "db/logs", "web"]
    assert [(disk.machine, disk.disk) for disk in plan.progress.disks][1:3] == [("db", "data"), ("db", "logs")]
    assert {m.method for m in plan.progress.machines} == {"Pause"}
    assert {step.machine for step in plan.steps if isinstance(step, PauseMachine)} == {"db", "web"}
    assert plan.progress.parent == "b"
    assert plan.progress.stage == "Pausing"


def test_the_finalizer_comes_before_everything_else() -> None:
    plan = plan_capture(view_of(settled(), has_finalizer=False))
    assert plan.steps == (AddFinalizer("ns", "after", "SystemCapture"),)


def test_what_is_paused_is_recorded_before_the_first_request() -> None:
    w = settled()
    uids = frozenset(vmi.uid for vmi in w.vmis.values())
    plan = begun(view_of(w, agents=uids))
    assert kinds(plan) == ["RecordProgress", "FreezeGuest", "PauseMachine"]
    assert plan.steps[0] == RecordProgress(plan.progress)
    assert {m.name for m in held_machines(plan.progress)} == {"db", "web"}


def test_a_guest_with_an_agent_writes_out_its_file_systems_first() -> None:
    w = settled()
    uids = frozenset(vmi.uid for vmi in w.vmis.values())
    plan = begun(view_of(w, agents=uids))
    assert {m.method for m in plan.progress.machines} == {"FreezeAndPause"}
    assert {s.timeout_s for s in plan.steps if isinstance(s, FreezeGuest)} == {MAX_PAUSE.seconds}
    spec = captured(quiescePolicy="PauseOnly")
    plan = begun(view_of(w, agents=uids, spec=spec))
    assert {m.method for m in plan.progress.machines} == {"Pause"}
    assert kinds(plan) == ["RecordProgress", "PauseMachine"]


def test_a_guest_that_did_not_freeze_is_paused_and_not_thawed() -> None:
    w = settled()
    uids = frozenset(vmi.uid for vmi in w.vmis.values())
    plan = begun(view_of(w, agents=uids))
    error = Unreachable("no answer")
    results = [StepResult(s, view_of(w).now, error if isinstance(s, FreezeGuest) else None) for s in plan.steps]
    progress = progress_after(plan.progress, results, deleting=False)
    assert (progress.stage, error_after(progress, results)) == ("Copying", None)
    assert {m.method for m in progress.machines} == {"Pause"}
    assert {step.thaw for step in verified(w, progress).steps if isinstance(step, ResumeMachine)} == {False}


def test_a_required_freeze_fails_the_capture_before_anything_is_paused_if_a_guest_has_no_agent() -> None:
    w = settled()
    spec = captured(quiescePolicy="FreezeRequired")
    agents = frozenset(vmi.uid for name, vmi in w.vmis.items() if name.endswith("web"))
    plan = plan_capture(view_of(w, spec=spec, agents=agents))
    assert (plan.progress.stage, reason(plan), kinds(plan)) == ("Failed", "AgentMissing", ["RecordProgress"])
    assert "db cannot freeze" in message(plan)
    only_web = captured(quiescePolicy="FreezeRequired", machines=["web"])
    assert kinds(begun(view_of(w, spec=only_web, agents=agents)))[-1] == "PauseMachine"


def test_a_vm_that_a_user_has_paused_cannot_freeze() -> None:
    w = settled()
    everyone = frozenset(vmi.uid for vmi in w.vmis.values())
    spec = captured(quiescePolicy="FreezeRequired")
    plan = plan_capture(view_of(w, spec=spec, agents=everyone, instance=shown_paused(w)))
    assert (plan.progress.stage, reason(plan)) == ("Failed", "AgentMissing")


def test_a_vm_that_is_off_needs_no_freeze() -> None:
    plan = begun(view_of(settled(powerState="Off"), spec=captured(quiescePolicy="FreezeRequired")))
    assert plan.progress.stage == "Copying"


def test_a_required_freeze_that_fails_thaws_every_guest_and_is_tried_again() -> None:
    w = settled()
    everyone = frozenset(vmi.uid for vmi in w.vmis.values())
    view = view_of(w, spec=captured(quiescePolicy="FreezeRequired"), agents=everyone)
    plan = begun(view)
    assert all(step.required for step in plan.steps if isinstance(step, FreezeGuest))
    results = [
        StepResult(step, view.now, Unreachable("no answer") if step.machine == "db" else None)
        for step in plan.steps
        if isinstance(step, FreezeGuest)
    ]
    progress = progress_after(plan.progress, results, deleting=False)
    assert (progress.stage, progress.failure) == ("Resuming", Failure("FreezeFailed", "db: no answer"))
    resume = plan_capture(replace(view, progress=progress))
    thawed = {step.machine for step in resume.steps if isinstance(step, ResumeMachine) and step.thaw}
    assert thawed == {"db", "web"}
    assert plan_capture(replace(view, progress=resumed(resume, w))).progress.stage == "Pending"


def test_a_machine_with_older_content_is_captured_on_the_images_that_it_runs_on() -> None:
    w = settled("b")
    w.edit_image("b", "web", "web")
    w.edit_disk("b", "db", "data", "data-b")
    w.settle()
    names = {digest(name): name for name in w.images}
    plan = begun(view_of(w, images=names))
    assert {(d.machine, d.disk): d.base_image_name for d in plan.progress.disks} == {
        ("web", ROOT_DISK): "web-b",
        ("db", ROOT_DISK): "db",
        ("db", "data"): "data",
        ("db", "logs"): "data",
    }
    gone = {key: name for key, name in names.items() if name != "web-b"}
    error = begun(view_of(w, images=gone)).error
    assert error is not None
    assert error.reason == "ImageMissing"
    assert f"layer {digest('web-b')}" in str(error)


def test_a_machine_that_an_edit_removed_is_captured_only_by_its_name() -> None:
    w = settled("c")
    w.edit_away("c", "extra")
    w.settle()
    names = {digest(name): name for name in w.images}
    assert {d.machine for d in begun(view_of(w, images=names)).progress.disks} == {"web"}
    plan = begun(view_of(w, images=names, spec=captured(machines=["extra"])))
    assert {d.disk: d.base_image_name for d in plan.progress.disks} == {ROOT_DISK: "extra", "data": "data-b"}


def test_no_vm_is_paused_while_a_machine_is_being_reset() -> None:
    w = settled()
    w.change(resetToken="again")
    plan = plan_capture(view_of(w))
    assert not plan.steps
    assert plan.error is not None
    assert plan.error.reason == "NotSettled"
    w.settle()
    assert kinds(begun(view_of(w))) == ["RecordProgress", "PauseMachine"]


@pytest.mark.parametrize(
    ("running", "word", "settles"), [(True, "Starting", False), (True, "Stopped", True), (False, "", True)]
)
def test_a_vm_that_is_about_to_start_is_waited_for_and_one_that_stays_off_is_not(
    running: bool, word: str, settles: bool
) -> None:
    w = settled(powerState="On" if running else "Off")
    instance = w.view()
    off = [replace(m, vmi=None, vm=replace(m.vm, printable_status=word)) for m in instance.machines]
    plan = begun(view_of(w, instance=replace(instance, machines=tuple(off))))
    assert (plan.error is None) == settles
    if settles:
        assert {m.method for m in plan.progress.machines} == {"Off"}
        assert (plan.progress.stage, kinds(plan)) == ("Copying", ["RecordProgress"]), "there is no VM to pause"
        assert not machines_to_verify(view_of(w, plan.progress, reports=copied(plan.progress)))
    else:
        assert "about to start" in str(plan.error)


def test_no_vm_is_paused_for_a_name_that_is_taken() -> None:
    w = settled()
    plan = plan_capture(view_of(w, taken=frozenset({("VMImageNode", "after-db")})))
    assert not plan.steps
    assert plan.error is not None
    assert "VMImageNode ns/after-db" in str(plan.error)


def test_the_nodes_copy_only_while_the_vms_are_paused() -> None:
    w = settled()
    progress = paused(w)
    assert action_of(progress) == "Copy"
    assert action_of(verified(w, progress).progress) == "Keep", "VMs of a finished copy are resumed"
    assert action_of(storing(w)) == action_of(stored(w).progress) == "Keep"
    assert action_of(plan_capture(view_of(w)).progress) == "Check"
    for ended in (progress.completed(), progress.refused("x", "y"), abandoned(w).progress, begun(view_of(w)).progress):
        assert action_of(ended) is None
    assert action_of(CaptureProgress()) is None


def test_vms_are_read_from_the_api_server_when_all_disks_are_copied() -> None:
    w = settled()
    progress = paused(w)
    assert not machines_to_verify(view_of(w, progress))
    assert not machines_to_verify(view_of(w, progress, reports=dict(list(copied(progress).items())[:1])))
    complete = view_of(w, progress, reports=copied(progress))
    assert {m.name for m in machines_to_verify(complete)} == {"db", "web"}
    assert not machines_to_verify(replace(complete, deleting=True))


def test_the_barrier_is_recorded_before_the_first_vm_is_resumed() -> None:
    w = settled()
    plan = verified(w, paused(w))
    assert kinds(plan) == ["RecordProgress", "ResumeMachine"]
    assert (plan.progress.stage, plan.progress.failure, plan.progress.captured) == ("Resuming", None, True)
    assert {disk.state for disk in plan.progress.disks} == {"Copied"}
    assert resumes(plan) == {"db", "web"}


@pytest.mark.parametrize("seen", [None, ObservedVmi("another", True), ObservedVmi("same", False)])
def test_copies_of_vms_that_ran_again_are_discarded(seen: ObservedVmi | None) -> None:
    w = settled()
    progress = paused(w)
    vmis = {name: vmi for name, vmi in all_paused(w, progress).items() if name != "db"}
    if seen is not None:
        uid = next(m.vmi_uid for m in progress.machines if m.name == "db") or ""
        vmis["db"] = replace(seen, uid=uid) if seen.uid == "same" else seen
    late = w.view().now + PAUSE_SHOWN + timedelta(seconds=1)
    plan = verified(w, progress, vmis=vmis, now=late)
    assert (reason(plan), resumes(plan)) == ("MovedOn", {"db", "web"})
    again = plan_capture(view_of(w, resumed(plan, w)))
    assert again.progress.stage == "Pending"
    assert "db ran" in capture_status(view_of(w), [], again.progress).conditions[0].message


def test_a_pause_that_kubevirt_reports_late_is_polled_for_a_while() -> None:
    w = settled()
    progress = paused(w)
    vmis = {name: replace(vmi, paused=False) for name, vmi in all_paused(w, progress).items()}
    plan = verified(w, progress, vmis=vmis, now=w.view().now + PAUSE_SHOWN)
    assert (plan.steps, plan.retry_after_s) == ((), PAUSE_POLL_S)
    plan = verified(w, progress, vmis=vmis, now=w.view().now + PAUSE_SHOWN + timedelta(seconds=1))
    assert reason(plan) == "MovedOn"


def test_a_vm_that_a_user_had_paused_is_not_resumed_and_must_stay_paused() -> None:
    w = settled()
    plan = begun(view_of(w, instance=shown_paused(w)))
    progress = plan.progress
    assert ({m.method for m in progress.machines}, progress.stage) == ({"AlreadyPaused"}, "Copying")
    assert resumes(verified(w, progress)) == set()
    assert verified(w, progress).progress.failure is None
    running = {name: replace(vmi, paused=False) for name, vmi in all_paused(w, progress).items()}
    assert reason(verified(w, progress, vmis=running)) == "MovedOn", "it was paused before: no poll"


def test_no_vm_is_paused_for_longer_than_the_limit() -> None:
    w = settled()
    progress = paused(w)
    reports = dict(list(copied(progress).items())[:1])
    early = view_of(w, progress, reports=reports)
    assert kinds(plan_capture(early)) == ["RecordProgress"], "what was copied"
    plan = plan_capture(replace(early, now=early.now + MAX_PAUSE + timedelta(seconds=1)))
    assert (reason(plan), resumes(plan)) == ("TooSlow", {"db", "web"})
    assert "60 s: web" in message(plan)
    short = replace(early, max_pause=timedelta(seconds=3), now=early.now + timedelta(seconds=4))
    assert reason(plan_capture(short)) == "TooSlow"


def test_an_operator_that_starts_too_late_after_the_record_resumes_instead_of_pausing() -> None:
    w = settled()
    recorded = begun(view_of(w)).progress
    soon = plan_capture(view_of(w, recorded))
    assert kinds(soon) == ["PauseMachine"]
    late = plan_capture(view_of(w, recorded, now=w.view().now + 2 * MAX_PAUSE))
    assert (reason(late), resumes(late)) == ("TooSlow", {"db", "web"})


@pytest.mark.parametrize(("limit", "attempts"), [(None, BACKOFF_LIMIT + 1), (0, 1), (5, 6)])
def test_it_fails_after_its_attempts_and_no_vm_stays_paused(limit: int | None, attempts: int) -> None:
    w = settled()
    spec = captured(**({} if limit is None else {"backoffLimit": limit}))
    progress, now = CaptureProgress(), w.view().now
    for attempt in range(1, attempts + 1):
        if attempt > 1:
            now += timedelta(seconds=retry_delay_s(attempt - 1))
            early = plan_capture(view_of(w, progress, now=now - timedelta(seconds=1), spec=spec))
            assert (early.steps, early.progress, early.retry_after_s) == ((), progress, 1.0)
        plan = begun(view_of(w, progress, now=now, spec=spec))
        assert plan.progress.attempts == attempt
        failed = carried_out(plan, now, failed=["db", "web"])
        plan = plan_capture(view_of(w, failed, spec=spec))
        assert resumes(plan) == {"db", "web"}
        progress = resumed(plan, w)
        assert all(machine.resume_time is not None for machine in progress.machines)
    end = plan_capture(view_of(w, progress, spec=spec)).progress
    assert end.stage == "Failed"
    conditions = {c.type: c for c in capture_status(view_of(w), [], end).conditions}
    assert conditions["Stalled"].status == conditions["Failed"].status == "True"
    assert f"after {attempts} attempts" in conditions["Ready"].message
    assert "KubeVirt does not answer" in conditions["Ready"].message


def test_a_vm_that_was_resumed_and_is_still_shown_as_paused_is_waited_for() -> None:
    """KubeVirt reports late: taken for a user's pause, the VM would run while it is copied."""
    w = settled()
    again = resumed(abandoned(w), w)
    seen = shown_paused(w)
    retried_at = w.view().now + timedelta(seconds=RETRY_S)
    plan = plan_capture(view_of(w, again, instance=seen, now=retried_at))
    assert (plan.steps, plan.error and plan.error.reason) == ((), "NotSettled")
    later = begun(view_of(w, again, instance=seen, now=w.view().now + 2 * RESUMED_SHOWN))
    assert {machine.method for machine in later.progress.machines} == {"AlreadyPaused"}


@pytest.mark.parametrize("stage", ["Pausing", "Copying", "Resuming"])
def test_a_capture_that_is_deleted_resumes_its_vms_before_it_goes(stage: CaptureStage) -> None:
    w = settled()
    copying = paused(w)
    at = {"Pausing": begun(view_of(w)).progress, "Copying": copying, "Resuming": verified(w, copying).progress}[stage]
    assert at.stage == stage
    plan = plan_capture(view_of(w, at, deleting=True))
    assert action_of(plan.progress) == ("Keep" if stage == "Resuming" else None), "copies of VMs that run are no use"
    assert resumes(plan) == {"db", "web"}
    failed = carried_out(plan, w.view().now, failed=["db"])
    assert resumes(plan_capture(view_of(w, failed, deleting=True))) == {"db"}
    after = plan_capture(view_of(w, resumed(plan, w), deleting=True))
    assert after.steps == (RemoveFinalizer("ns", "after", "SystemCapture"),)
    assert not plan_capture(view_of(w, resumed(plan, w), deleting=True, has_finalizer=False)).steps


def test_a_vm_that_cannot_be_resumed_is_retried_alone_and_reported() -> None:
    w = settled()
    plan = verified(w, paused(w))
    results = [
        StepResult(s, w.view().now, Unreachable("down") if getattr(s, "machine", "") == "web" else None)
        for s in plan.steps
    ]
    progress = progress_after(plan.progress, results, deleting=False)
    error = error_after(progress, results)
    assert isinstance(error, Waiting)
    assert "web" in str(error) and "down" in str(error)
    assert resumes(plan_capture(view_of(w, progress))) == {"web"}, "a pause of db from now on is a user's"


def test_a_lost_leadership_is_raised_whatever_else_failed() -> None:
    w = settled()
    plan = begun(view_of(w))
    results = [StepResult(s, w.view().now, LostLeadership("")) for s in plan.steps]
    assert isinstance(error_after(plan.progress, results), LostLeadership)


def storing(w: World) -> CaptureProgress:
    progress = resumed(verified(w, paused(w)), w)
    assert progress.stage == "Storing"
    return progress


def stored(w: World, **one: object) -> CapturePlan:
    """The plan when all layers are stored, except that the first disk has another report."""
    progress = storing(w)
    reports = copied(progress, "Stored", digest="sha256:" + "1" * 64, sizeBytes=4096, uploadedBytes=4096)
    first = OWNER.id_of(progress, progress.disks[0])
    if one:
        reports[first] = CaptureReport.model_validate({"id": first, **one})
    return plan_capture(view_of(w, progress, reports=reports))


def created(plan: CapturePlan) -> list[object]:
    return [key_of(step.manifest) for step in plan.steps if isinstance(step, CreateObject)]


def test_the_digests_are_recorded_before_the_first_object_is_created() -> None:
    w = settled()
    plan = stored(w)
    assert (plan.progress.stage, kinds(plan)) == ("Publishing", ["RecordProgress"])
    assert {disk.digest for disk in plan.progress.disks} == {"sha256:" + "1" * 64}
    publish = plan_capture(view_of(w, plan.progress))
    assert created(publish) == [("VMImageNode", "after-db"), ("VMImageNode", "after-web"), ("SystemNode", "after")]


def test_only_missing_objects_are_created_and_none_if_a_name_is_taken() -> None:
    w = settled()
    progress = stored(w).progress
    manifests = [s.manifest for s in plan_capture(view_of(w, progress)).steps if isinstance(s, CreateObject)]
    existing = {key_of(m): {**m["spec"], "defaulted": 1} for m in manifests}
    some = plan_capture(view_of(w, progress, existing=dict(list(existing.items())[:2])))
    assert created(some) == [("SystemNode", "after")]
    other = {("VMImageNode", "after-web"): {"parentRef": {"name": "other"}}}
    taken = plan_capture(view_of(w, progress, existing=other))
    assert (taken.steps, type(taken.error)) == ((), NameTaken)
    assert taken.retry_after_s is not None
    done = plan_capture(view_of(w, progress, existing=existing))
    assert (done.progress.stage, kinds(done)) == ("Complete", ["RecordProgress"])


def test_a_machine_that_wrote_nothing_keeps_its_image() -> None:
    w = settled()
    progress = stored(w, state="Unchanged").progress
    plan = plan_capture(view_of(w, progress))
    *images, system = [step.manifest for step in plan.steps if isinstance(step, CreateObject)]
    assert [image["metadata"]["name"] for image in images] == ["after-web"]
    assert {m["name"]: m["rootDisk"]["imageRef"]["name"] for m in system["spec"]["machines"]} == {
        "db": "db",
        "web": "after-web",
    }
    assert capture_status(view_of(w), [], progress).added_bytes == 4096


def test_further_disks_are_named_below_their_machine() -> None:
    w = settled("b")
    plan = plan_capture(view_of(w, stored(w).progress))
    system = [step.manifest for step in plan.steps if isinstance(step, CreateObject)][-1]
    db = next(machine for machine in system["spec"]["machines"] if machine["name"] == "db")
    assert db["rootDisk"]["imageRef"] == {"name": "after-db"}
    assert db["disks"] == [
        {"name": "data", "imageRef": {"name": "after-db.data"}},
        {"name": "logs", "imageRef": {"name": "after-db.logs"}},
    ]


def test_a_layer_that_cannot_be_stored_is_reported_and_waited_for() -> None:
    plan = stored(settled(), state="Refused", copiedBytes=9, reason="AccessDenied", message="credentials")
    assert plan.progress.stage == "Storing"
    assert plan.error is not None
    assert "disk db" in str(plan.error)


def test_a_copy_that_was_lost_is_made_anew() -> None:
    plan = stored(settled(), state="Lost")
    assert reason(plan) == "CopyLost"
    assert plan_capture(view_of(settled(), plan.progress)).progress.stage == "Pending"


def test_a_copy_that_was_made_after_the_vms_ran_again_is_not_the_captured_one() -> None:
    w = settled()
    progress = replace(storing(w), disks=tuple(d.model_copy(update={"copy_uid": "a1"}) for d in storing(w).disks))
    fields = {"digest": "sha256:" + "1" * 64, "sizeBytes": 4096, "uploadedBytes": 4096}
    same = plan_capture(view_of(w, progress, reports=copied(progress, "Stored", copyUid="a1", **fields)))
    assert same.progress.stage == "Publishing"
    other = plan_capture(view_of(w, progress, reports=copied(progress, "Stored", copyUid="b2", **fields)))
    assert reason(other) == "CopyLost"
    without = plan_capture(view_of(w, progress, reports=copied(progress, "Stored", **fields)))
    assert without.progress.stage == "Publishing", "a daemon of an earlier version reports no uid"


def test_a_copy_that_was_made_again_during_the_pause_counts() -> None:
    w = settled()
    progress = paused(w)
    first = replace(progress, disks=tuple(d.model_copy(update={"copy_uid": "a1"}) for d in progress.disks))
    plan = plan_capture(view_of(w, first, reports=copied(first, copyUid="b2"), vmis=all_paused(w, first)))
    assert {disk.copy_uid for disk in plan.progress.disks} == {"b2"}


def test_skew_counts_from_the_first_request_as_an_answer_may_come_late() -> None:
    w = settled()
    plan = begun(view_of(w))
    asked = w.view().now
    assert {machine.request_time for machine in plan.progress.machines} == {asked}
    results = [
        StepResult(step, asked + timedelta(milliseconds=900 + 10 * number))
        for number, step in enumerate(s for s in plan.steps if isinstance(s, PauseMachine))
    ]
    progress = progress_after(plan.progress, results, deleting=False)
    status = capture_status(view_of(w), [], progress)
    assert status.skew_milliseconds == 900 + 10 * (len(results) - 1)


def test_an_operator_after_the_one_that_paused_keeps_the_time_of_the_first_request() -> None:
    w = settled()
    first = begun(view_of(w))
    later = view_of(w, first.progress, now=w.view().now + timedelta(seconds=20))
    assert {machine.request_time for machine in plan_capture(later).progress.machines} == {w.view().now}


def test_no_two_disks_have_one_image_name() -> None:
    assert image_name("s", disk_of("web", "data")) != image_name("s", disk_of("web-data", ROOT_DISK))


@pytest.mark.parametrize("name", ["web-data", "web"])
def test_names_of_machines_and_disks_have_no_dot_by_which_image_names_could_meet(name: str) -> None:
    """``SYSTEM-MACHINE.DISK`` can be read in one way alone, for the last dot is the one between machine and disk."""
    label = re.compile(MACHINE_NAME)
    assert label.fullmatch(name)
    assert not label.fullmatch(f"{name}.data")
    disks = (("web", ROOT_DISK), ("web", "data"), ("web-data", ROOT_DISK), ("web-data", "x"))
    assert set(Counter(image_name("s", disk_of(*disk)) for disk in disks).values()) == {1}


def test_no_vm_is_paused_before_each_node_has_reported_that_a_copy_is_possible() -> None:
    w = settled()
    asking = plan_capture(view_of(w))
    assert (asking.progress.stage, kinds(asking), asking.progress.attempts) == ("Checking", ["RecordProgress"], 0)
    possible = copied(asking.progress, "Possible")
    one_silent = dict(list(possible.items())[1:])
    assert not plan_capture(view_of(w, asking.progress, reports=one_silent)).steps
    assert "PauseMachine" in kinds(plan_capture(view_of(w, asking.progress, reports=possible)))


def test_what_a_node_lacks_is_reported_while_the_vms_run_and_ends_by_itself() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).progress
    full = copied(asking, "Refused", copiedBytes=0, reason="NoRoom", message="1.0 GiB more")
    plan = plan_capture(view_of(w, asking, reports=full))
    assert (plan.progress.stage, plan.error and plan.error.reason) == ("Checking", "NoRoom")
    assert not plan.steps, "progress is as recorded"
    assert "disk db on node" in str(plan.error)
    blocked = capture_status(view_of(w), [], plan.progress, plan.error, plan.obstacles).blocked_disks
    assert [(disk.machine, disk.disk, disk.reason) for disk in blocked] == [
        ("db", "root", "NoRoom"),
        ("web", "root", "NoRoom"),
    ]
    ready = plan_capture(view_of(w, plan.progress, reports=copied(asking, "Possible")))
    assert "PauseMachine" in kinds(ready)


def test_a_report_on_the_disk_before_a_reset_does_not_count_for_the_new_disk() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).progress
    w.change(resetToken="again")
    w.settle()
    plan = plan_capture(view_of(w, asking, reports=copied(asking, "Possible")))
    assert (kinds(plan), plan.progress.stage) == (["RecordProgress"], "Checking")
    assert copied(plan.progress).keys().isdisjoint(copied(asking))


def test_a_capture_that_waits_for_room_forgets_what_it_asked_when_the_instance_is_switched() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).progress
    w.change(resetToken="again")
    plan = plan_capture(view_of(w, asking))
    assert (plan.progress.stage, plan.error and plan.error.reason) == ("Pending", "NotSettled")
    assert action_of(plan.progress) is None


def test_the_layers_go_to_the_repository_of_the_namespace() -> None:
    plan = begun(view_of(settled(), repository="lab"))
    assert plan.progress.repository == "lab"


def test_without_a_repository_no_vm_is_paused_and_the_capture_begins_when_there_is_one() -> None:
    w = settled()
    waiting = plan_capture(view_of(w, repository=NoDefaultRepository("spec.target.repositoryRef is not set")))
    assert isinstance(waiting.error, NoDefaultRepository)
    assert (waiting.progress.disks, resumes(waiting)) == ((), set())
    assert begun(view_of(w, waiting.progress, repository="lab")).progress.disks


def test_a_chain_above_which_the_repository_accepts_no_layer_is_refused_finally_before_any_pause() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).progress
    deep = copied(asking, "Refused", copiedBytes=0, reason="ChainTooDeep", message="repositories.default.maxDepth")
    plan = plan_capture(view_of(w, asking, reports=deep))
    assert (kinds(plan), plan.progress.stage, plan.progress.attempts) == (["RecordProgress"], "Failed", 0)
    conditions = {c.type: c for c in capture_status(view_of(w), [], plan.progress).conditions}
    assert (conditions["Stalled"].status, conditions["Ready"].reason) == ("True", "ChainTooDeep")
    for words in ("before any VM was paused", "machine db of", "VMImageNode db", "maxDepth", "kigi flatten db"):
        assert words in conditions["Ready"].message


@pytest.mark.parametrize(("life", "reason"), [("Silent", "CacheSilent"), ("Gone", "NotSettled")])
def test_no_vm_is_paused_for_a_node_that_does_not_report(life: str, reason: str) -> None:
    w = settled()
    asking = plan_capture(view_of(w)).progress
    lives = dict.fromkeys(w.view().nodes, life)
    plan = plan_capture(view_of(w, asking, lives=lives, reports=copied(asking, "Possible")))
    assert (plan.progress.stage, plan.error and plan.error.reason) == ("Checking", reason)
    assert "PauseMachine" not in kinds(plan)


def test_a_node_that_falls_silent_while_it_stores_is_reported_and_waited_for() -> None:
    w = settled()
    progress = storing(w)
    silent = view_of(w, progress, lives=dict.fromkeys(w.view().nodes, "Silent"), reports=copied(progress, "Storing"))
    plan = plan_capture(silent)
    assert (plan.progress.stage, plan.error and plan.error.reason) == ("Storing", "CacheSilent")
    assert plan.retry_after_s is not None, "silence is no event"
    assert "node" in str(plan.error)
    assert {obstacle.reason for _, obstacle in plan.obstacles} == {"CacheSilent"}
    back = plan_capture(view_of(w, plan.progress, reports=copied(progress, "Storing")))
    assert back.error is None
    assert not back.obstacles


def test_the_copies_of_a_node_that_is_gone_are_lost_finally() -> None:
    w = settled()
    plan = plan_capture(view_of(w, storing(w), lives={}))
    assert (plan.progress.stage, kinds(plan)) == ("Failed", ["RecordProgress"])
    conditions = {c.type: c for c in capture_status(view_of(w), [], plan.progress).conditions}
    assert (conditions["Stalled"].status, conditions["Ready"].reason) == ("True", "CopyLost")
    assert "create another SystemCapture" in conditions["Ready"].message
    assert plan_capture(view_of(w, plan.progress)) == CapturePlan(plan.progress)


def test_a_copy_that_is_stored_is_not_missed_when_its_node_goes() -> None:
    w = settled()
    progress = storing(w)
    reports = copied(progress, "Stored", digest="sha256:" + "1" * 64, sizeBytes=4096, uploadedBytes=4096)
    plan = plan_capture(view_of(w, progress, reports=reports, lives={}))
    assert plan.progress.stage == "Publishing"
    later = copied(progress, "Lost")
    assert kinds(plan_capture(view_of(w, plan.progress, reports=later, lives={}))) == ["CreateObject"]


def test_a_publisher_that_does_not_run_is_reported_and_waited_for() -> None:
    plan = stored(settled(), state="Copied", copiedBytes=9, reason="PublisherSilent", message="does not run")
    assert (plan.progress.stage, plan.error and plan.error.reason) == ("Storing", "PublisherSilent")


@pytest.mark.parametrize("gone", [True, False])
def test_no_vm_stays_paused_for_a_copy_that_cannot_be_made(gone: bool) -> None:
    w = settled()
    progress = paused(w)
    full = copied(progress, "Refused", copiedBytes=0, reason="NoRoom", message="1.0 GiB more")
    plan = plan_capture(view_of(w, progress, lives={}) if gone else view_of(w, progress, reports=full))
    assert resumes(plan) == {"db", "web"}
    assert reason(plan) == ("NotSettled" if gone else "NoRoom")


def test_what_was_checked_does_not_count_as_copied() -> None:
    w = settled()
    progress = paused(w)
    plan = plan_capture(view_of(w, progress, reports=copied(progress, "Possible", copiedBytes=0)))
    assert not resumes(plan)
    assert {disk.state for disk in plan.progress.disks} == {"Waiting"}


def test_a_capture_uses_its_state_and_images_until_it_has_ended() -> None:
    w = settled()
    progress = storing(w)
    assert uses(progress) == (frozenset({"a"}), frozenset({"db", "web"}))
    assert uses(progress_of(None)) == uses(CaptureProgress()) == (frozenset(), frozenset())
    for ended in (progress.completed(), progress.refused("x", "y")):
        assert uses(ended) == (frozenset(), frozenset())


def test_a_result_that_exists_in_part_is_completed_when_the_capture_is_deleted() -> None:
    w = settled()
    progress = stored(w).progress
    after = plan_capture(view_of(w, progress, deleting=True))
    assert created(after) == [("VMImageNode", "after-db"), ("VMImageNode", "after-web"), ("SystemNode", "after")]
    existing = {key_of(s.manifest): s.manifest["spec"] for s in after.steps if isinstance(s, CreateObject)}
    for fields in ({"existing": existing}, {"existing": {("SystemNode", "after"): {}}}):
        assert kinds(plan_capture(view_of(w, progress, deleting=True, **fields))) == ["RemoveFinalizer"]
    assert kinds(plan_capture(view_of(w, progress.completed(), deleting=True))) == ["RemoveFinalizer"]


@pytest.mark.parametrize(
    ("error", "deleting", "stage"),
    [
        (Waiting("the namespace is being terminated"), True, "Failed"),
        (NameTaken("taken"), True, "Failed"),
        (Conflict("exists"), True, "Publishing"),
        (Unreachable("down"), True, "Publishing"),
        (NameTaken("taken"), False, "Publishing"),
    ],
)
def test_a_result_that_cannot_be_completed_does_not_hold_up_a_deletion(
    error: KigiError, deleting: bool, stage: CaptureStage
) -> None:
    w = settled()
    plan = plan_capture(view_of(w, stored(w).progress, deleting=deleting))
    results = [StepResult(plan.steps[0], w.view().now, error)]
    progress = progress_after(plan.progress, results, deleting=deleting)
    assert progress.stage == stage
    assert (error_after(progress, results) is None) == (stage == "Failed")
    if stage == "Failed":
        assert kinds(plan_capture(view_of(w, progress, deleting=True))) == ["RemoveFinalizer"]


def test_the_progress_is_what_is_left_of_the_status_after_a_restart() -> None:
    w = settled()
    ended = (stored(w).progress.completed(), paused(w).refused("TooSlow", "60 s"))
    for progress in (CaptureProgress(), paused(w), abandoned(w).progress, stored(w).progress, *ended):
        status = capture_status(view_of(w), [], progress)
        times = {"start_time": w.view().now, "completion_time": w.view().now if progress.end else None}
        assert progress_of(SystemCaptureStatus.model_validate(status.to_api())) == replace(progress, **times)


def test_the_life_of_a_node_is_that_of_its_object_and_of_its_daemon() -> None:
    assert life_of(node_exists=True, cache_alive=True) == "Alive"
    assert life_of(node_exists=True, cache_alive=False) == "Silent"
    assert life_of(node_exists=False, cache_alive=True) == "Gone"
