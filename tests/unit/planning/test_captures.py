"""Plans of a SystemCapture: which VMs are paused, when they are resumed, and what ends an attempt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from kigi.api.base import MACHINE_NAME
from kigi.api.capture import CapturePhase, SystemCaptureSpec, SystemCaptureStatus
from kigi.api.deployment import SystemDeploymentSpec
from kigi.api.node_cache import CaptureReport
from kigi.errors import Conflict, KigiError, LostLeadership, NameTaken, Unreachable, Waiting
from kigi.planning.capture_outcomes import error_after, progress_after
from kigi.planning.capture_progress import CaptureProgress, held_machines, orders, progress_of, uses
from kigi.planning.capture_results import key_of
from kigi.planning.capture_targets import RESUMED_SHOWN
from kigi.planning.capture_view import MAX_PAUSE, CaptureView, ObservedVmi, image_name
from kigi.planning.captures import (
    MAX_ATTEMPTS,
    PAUSE_POLL_S,
    PAUSE_SHOWN,
    RETRY_S,
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
from kigi.status.captures import capture_status
from tests.support.worlds import World


def settled(state: str = "a", **spec: object) -> World:
    w = World(SystemDeploymentSpec.model_validate({"system": {"name": state}, **spec}))
    w.settle()
    return w


def view_of(w: World, progress: CaptureProgress | None = None, **fields: object) -> CaptureView:
    view = CaptureView(
        namespace="ns",
        name="after",
        uid="u1",
        generation=1,
        deleting=False,
        has_finalizer=True,
        spec=SystemCaptureSpec.model_validate({"deployment": {"name": "dep"}}),
        progress=progress or CaptureProgress(),
        deployment=w.view(),
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
    if plan.progress.phase != "Checking":
        return plan
    assert kinds(plan) in ([], ["RecordProgress"])
    return plan_capture(replace(view, progress=plan.progress, reports=copied(plan.progress, "Possible")))


def paused(w: World, **fields: object) -> CaptureProgress:
    """The progress when all VMs are paused."""
    plan = begun(view_of(w, **fields))
    assert kinds(plan)[-1] == "PauseMachine"
    progress = carried_out(plan, w.view().now)
    assert progress.phase == "Copying"
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
        d.id: CaptureReport.model_validate({"id": d.id, "state": state, "copiedBytes": 9, **fields})
        for d in progress.disks
    }


def shown_paused(w: World) -> object:
    """The deployment with VMIs that KubeVirt reports as paused."""
    view = w.view()
    machines = [replace(m, vmi=replace(m.vmi, paused=True) if m.vmi else None) for m in view.machines]
    return replace(view, machines=tuple(machines))


def test_every_disk_of_every_machine_is_captured() -> None:
    w = settled("b")
    plan = begun(view_of(w))
    assert [disk.name for disk in plan.progress.disks] == ["db", "db/data", "db/logs", "web"]
    assert [(disk.machine, disk.disk) for disk in plan.progress.disks][1:3] == [("db", "data"), ("db", "logs")]
    assert {m.method for m in plan.progress.machines} == {"Pause"}
    assert {step.machine for step in plan.steps if isinstance(step, PauseMachine)} == {"db", "web"}
    assert plan.progress.parent == "b"
    assert plan.progress.phase == "Pausing"


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
    spec = SystemCaptureSpec.model_validate({"deployment": {"name": "dep"}, "quiesce": "Pause"})
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
    assert (progress.phase, error_after(progress, results)) == ("Copying", None)
    assert {m.method for m in progress.machines} == {"Pause"}
    assert {step.thaw for step in verified(w, progress).steps if isinstance(step, ResumeMachine)} == {False}


def test_no_vm_is_paused_while_a_machine_is_being_reset() -> None:
    w = settled()
    w.change(reset="again")
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
    w = settled(running=running)
    deployment = w.view()
    off = [replace(m, vmi=None, vm=replace(m.vm, printable_status=word)) for m in deployment.machines]
    plan = begun(view_of(w, deployment=replace(deployment, machines=tuple(off))))
    assert (plan.error is None) == settles
    if settles:
        assert {m.method for m in plan.progress.machines} == {"Off"}
        assert (plan.progress.phase, kinds(plan)) == ("Copying", ["RecordProgress"]), "there is no VM to pause"
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
    assert {order.action for _, order in orders(progress)} == {"Copy"}
    keeping: tuple[CapturePhase, ...] = ("Resuming", "Storing", "Publishing")
    for phase in keeping:
        assert {order.action for _, order in orders(progress.in_phase(phase))} == {"Keep"}
    assert {order.action for _, order in orders(progress.in_phase("Checking"))} == {"Check"}
    without: tuple[CapturePhase, ...] = ("Pending", "Pausing", "Done", "Failed")
    for phase in without:
        assert not list(orders(progress.in_phase(phase)))


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
    assert (plan.progress.phase, plan.progress.failure) == ("Resuming", None)
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
    assert (plan.progress.failure, resumes(plan)) == ("MovedOn", {"db", "web"})
    again = plan_capture(view_of(w, resumed(plan, w)))
    assert again.progress.phase == "Pending"
    assert "db ran" in capture_status(view_of(w), [], again.progress).conditions[0].message


def test_a_pause_that_kubevirt_reports_late_is_polled_for_a_while() -> None:
    w = settled()
    progress = paused(w)
    vmis = {name: replace(vmi, paused=False) for name, vmi in all_paused(w, progress).items()}
    plan = verified(w, progress, vmis=vmis, now=w.view().now + PAUSE_SHOWN)
    assert (plan.steps, plan.retry_after_s) == ((), PAUSE_POLL_S)
    plan = verified(w, progress, vmis=vmis, now=w.view().now + PAUSE_SHOWN + timedelta(seconds=1))
    assert plan.progress.failure == "MovedOn"


def test_a_vm_that_a_user_had_paused_is_not_resumed_and_must_stay_paused() -> None:
    w = settled()
    plan = begun(view_of(w, deployment=shown_paused(w)))
    progress = plan.progress
    assert ({m.method for m in progress.machines}, progress.phase) == ({"AlreadyPaused"}, "Copying")
    assert resumes(verified(w, progress)) == set()
    assert verified(w, progress).progress.failure is None
    running = {name: replace(vmi, paused=False) for name, vmi in all_paused(w, progress).items()}
    assert verified(w, progress, vmis=running).progress.failure == "MovedOn", "it was paused before: no poll"


def test_no_vm_is_paused_for_longer_than_the_limit() -> None:
    w = settled()
    progress = paused(w)
    reports = dict(list(copied(progress).items())[:1])
    early = view_of(w, progress, reports=reports)
    assert kinds(plan_capture(early)) == ["RecordProgress"], "what was copied"
    plan = plan_capture(replace(early, now=early.now + MAX_PAUSE + timedelta(seconds=1)))
    assert (plan.progress.failure, resumes(plan)) == ("TooSlow", {"db", "web"})
    assert "60 s: web" in str(plan.progress.failure_message)
    short = replace(early, max_pause=timedelta(seconds=3), now=early.now + timedelta(seconds=4))
    assert plan_capture(short).progress.failure == "TooSlow"


def test_an_operator_that_starts_too_late_after_the_record_resumes_instead_of_pausing() -> None:
    w = settled()
    recorded = begun(view_of(w)).progress
    soon = plan_capture(view_of(w, recorded))
    assert kinds(soon) == ["PauseMachine"]
    late = plan_capture(view_of(w, recorded, now=w.view().now + 2 * MAX_PAUSE))
    assert (late.progress.failure, resumes(late)) == ("TooSlow", {"db", "web"})


def test_it_fails_after_three_attempts_and_no_vm_stays_paused() -> None:
    w = settled()
    progress = CaptureProgress()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        now = w.view().now + attempt * timedelta(seconds=RETRY_S)
        if attempt > 1:
            early = plan_capture(view_of(w, progress, now=now - timedelta(seconds=1)))
            assert (early.steps, early.progress, early.retry_after_s) == ((), progress, 1.0)
        plan = begun(view_of(w, progress, now=now))
        assert plan.progress.attempt == attempt
        failed = carried_out(plan, now, failed=["db", "web"])
        plan = plan_capture(view_of(w, failed))
        assert resumes(plan) == {"db", "web"}
        progress = plan_capture(view_of(w, resumed(plan, w))).progress
        assert all(machine.resumed_at is not None for machine in progress.machines)
    assert progress.phase == "Failed"
    conditions = {c.type: c for c in capture_status(view_of(w), [], progress).conditions}
    assert conditions["Stalled"].status == "True"
    assert "KubeVirt does not answer" in conditions["Ready"].message


def test_a_vm_that_was_resumed_and_is_still_shown_as_paused_is_waited_for() -> None:
    """KubeVirt reports late: taken for a user's pause, the VM would run while it is copied."""
    w = settled()
    again = plan_capture(view_of(w, resumed(abandoned(w), w))).progress
    seen = shown_paused(w)
    retried_at = w.view().now + timedelta(seconds=RETRY_S)
    plan = plan_capture(view_of(w, again, deployment=seen, now=retried_at))
    assert (plan.steps, plan.error and plan.error.reason) == ((), "NotSettled")
    later = begun(view_of(w, again, deployment=seen, now=w.view().now + 2 * RESUMED_SHOWN))
    assert {machine.method for machine in later.progress.machines} == {"AlreadyPaused"}


@pytest.mark.parametrize("phase", ["Pausing", "Copying", "Resuming"])
def test_a_capture_that_is_deleted_resumes_its_vms_before_it_goes(phase: CapturePhase) -> None:
    w = settled()
    plan = plan_capture(view_of(w, paused(w).in_phase(phase), deleting=True))
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
    progress = plan_capture(view_of(w, resumed(verified(w, paused(w)), w))).progress
    assert progress.phase == "Storing"
    return progress


def stored(w: World, **one: object) -> CapturePlan:
    """The plan when all layers are stored, except that the first disk has another report."""
    progress = storing(w)
    reports = copied(progress, "Stored", digest="sha256:" + "1" * 64, sizeBytes=4096, uploadedBytes=4096)
    first = progress.disks[0].id
    if one:
        reports[first] = CaptureReport.model_validate({"id": first, **one})
    return plan_capture(view_of(w, progress, reports=reports))


def created(plan: CapturePlan) -> list[object]:
    return [key_of(step.manifest) for step in plan.steps if isinstance(step, CreateObject)]


def test_the_digests_are_recorded_before_the_first_object_is_created() -> None:
    w = settled()
    plan = stored(w)
    assert (plan.progress.phase, kinds(plan)) == ("Publishing", ["RecordProgress"])
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
    other = {("VMImageNode", "after-web"): {"parent": {"name": "other"}}}
    taken = plan_capture(view_of(w, progress, existing=other))
    assert (taken.steps, type(taken.error)) == ((), NameTaken)
    assert taken.retry_after_s is not None
    done = plan_capture(view_of(w, progress, existing=existing))
    assert (done.progress.phase, kinds(done)) == ("Done", ["RecordProgress"])


def test_a_machine_that_wrote_nothing_keeps_its_image() -> None:
    w = settled()
    progress = stored(w, state="Unchanged").progress
    plan = plan_capture(view_of(w, progress))
    *images, system = [step.manifest for step in plan.steps if isinstance(step, CreateObject)]
    assert [image["metadata"]["name"] for image in images] == ["after-web"]
    assert {m["name"]: m["image"]["name"] for m in system["spec"]["machines"]} == {"db": "db", "web": "after-web"}
    assert capture_status(view_of(w), [], progress).added_bytes == 4096


def test_further_disks_are_named_below_their_machine() -> None:
    w = settled("b")
    plan = plan_capture(view_of(w, stored(w).progress))
    system = [step.manifest for step in plan.steps if isinstance(step, CreateObject)][-1]
    db = next(machine for machine in system["spec"]["machines"] if machine["name"] == "db")
    assert db["image"] == {"name": "after-db"}
    assert db["disks"] == [
        {"name": "data", "image": {"name": "after-db.data"}},
        {"name": "logs", "image": {"name": "after-db.logs"}},
    ]


def test_a_layer_that_cannot_be_stored_is_reported_and_waited_for() -> None:
    plan = stored(settled(), state="Refused", copiedBytes=9, reason="AccessDenied", message="credentials")
    assert plan.progress.phase == "Storing"
    assert plan.error is not None
    assert "disk db" in str(plan.error)


def test_a_copy_that_was_lost_is_made_anew() -> None:
    plan = stored(settled(), state="Lost")
    assert plan.progress.failure == "CopyLost"
    assert plan_capture(view_of(settled(), plan.progress)).progress.phase == "Pending"


def test_skew_counts_from_the_first_request_as_an_answer_may_come_late() -> None:
    w = settled()
    plan = begun(view_of(w))
    asked = w.view().now
    assert {machine.requested_at for machine in plan.progress.machines} == {asked}
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
    assert {machine.requested_at for machine in plan_capture(later).progress.machines} == {w.view().now}


def test_no_two_disks_have_one_image_name() -> None:
    assert image_name("s", "web", "data") != image_name("s", "web-data", "")


@pytest.mark.parametrize("name", ["web-data", "web"])
def test_names_of_machines_and_disks_have_no_dot_by_which_image_names_could_meet(name: str) -> None:
    """``SYSTEM-MACHINE.DISK`` can be read in one way alone, for the last dot is the one between machine and disk."""
    label = re.compile(MACHINE_NAME)
    assert label.fullmatch(name)
    assert not label.fullmatch(f"{name}.data")
    disks = (("web", ""), ("web", "data"), ("web-data", ""), ("web-data", "x"))
    assert set(Counter(image_name("s", *disk) for disk in disks).values()) == {1}


def test_no_vm_is_paused_before_each_node_has_reported_that_a_copy_is_possible() -> None:
    w = settled()
    asking = plan_capture(view_of(w))
    assert (asking.progress.phase, kinds(asking), asking.progress.attempt) == ("Checking", ["RecordProgress"], 0)
    possible = copied(asking.progress, "Possible")
    one_silent = dict(list(possible.items())[1:])
    assert not plan_capture(view_of(w, asking.progress, reports=one_silent)).steps
    assert "PauseMachine" in kinds(plan_capture(view_of(w, asking.progress, reports=possible)))


def test_what_a_node_lacks_is_reported_while_the_vms_run_and_ends_by_itself() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).progress
    full = copied(asking, "Refused", copiedBytes=0, reason="NoRoom", message="1.0 GiB more")
    plan = plan_capture(view_of(w, asking, reports=full))
    assert (plan.progress.phase, plan.error and plan.error.reason) == ("Checking", "NoRoom")
    assert kinds(plan) == ["RecordProgress"]
    assert "disk db on node" in str(plan.error)
    assert {disk.reason for disk in plan.progress.disks} == {"NoRoom"}
    ready = plan_capture(view_of(w, plan.progress, reports=copied(asking, "Possible")))
    assert "PauseMachine" in kinds(ready)


def test_a_report_on_the_disk_before_a_reset_does_not_count_for_the_new_disk() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).progress
    w.change(reset="again")
    w.settle()
    plan = plan_capture(view_of(w, asking, reports=copied(asking, "Possible")))
    assert (kinds(plan), plan.progress.phase) == (["RecordProgress"], "Checking")
    assert plan.progress.disks[0].id != asking.disks[0].id


def test_a_capture_that_waits_for_room_forgets_what_it_asked_when_the_instance_is_switched() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).progress
    w.change(reset="again")
    plan = plan_capture(view_of(w, asking))
    assert (plan.progress.phase, plan.error and plan.error.reason) == ("Pending", "NotSettled")
    assert not list(orders(plan.progress))


def test_a_chain_above_which_the_repository_accepts_no_layer_is_refused_finally_before_any_pause() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).progress
    deep = copied(asking, "Refused", copiedBytes=0, reason="ChainTooDeep", message="repositories.default.maxDepth")
    plan = plan_capture(view_of(w, asking, reports=deep))
    assert (kinds(plan), plan.progress.phase, plan.progress.attempt) == (["RecordProgress"], "Failed", 0)
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
    assert (plan.progress.phase, plan.error and plan.error.reason) == ("Checking", reason)
    assert "PauseMachine" not in kinds(plan)


def test_a_node_that_falls_silent_while_it_stores_is_reported_and_waited_for() -> None:
    w = settled()
    progress = storing(w)
    silent = view_of(w, progress, lives=dict.fromkeys(w.view().nodes, "Silent"), reports=copied(progress, "Storing"))
    plan = plan_capture(silent)
    assert (plan.progress.phase, plan.error and plan.error.reason) == ("Storing", "CacheSilent")
    assert plan.retry_after_s is not None, "silence is no event"
    assert "node" in str(plan.error)
    assert {disk.reason for disk in plan.progress.disks} == {"CacheSilent"}
    back = plan_capture(view_of(w, plan.progress, reports=copied(progress, "Storing")))
    assert back.error is None
    assert {disk.reason for disk in back.progress.disks} == {None}


def test_the_copies_of_a_node_that_is_gone_are_lost_finally() -> None:
    w = settled()
    plan = plan_capture(view_of(w, storing(w), lives={}))
    assert (plan.progress.phase, kinds(plan)) == ("Failed", ["RecordProgress"])
    conditions = {c.type: c for c in capture_status(view_of(w), [], plan.progress).conditions}
    assert (conditions["Stalled"].status, conditions["Ready"].reason) == ("True", "CopyLost")
    assert "create another SystemCapture" in conditions["Ready"].message
    assert plan_capture(view_of(w, plan.progress)) == CapturePlan(plan.progress)


def test_a_copy_that_is_stored_is_not_missed_when_its_node_goes() -> None:
    w = settled()
    progress = storing(w)
    reports = copied(progress, "Stored", digest="sha256:" + "1" * 64, sizeBytes=4096, uploadedBytes=4096)
    plan = plan_capture(view_of(w, progress, reports=reports, lives={}))
    assert plan.progress.phase == "Publishing"
    later = copied(progress, "Lost")
    assert kinds(plan_capture(view_of(w, plan.progress, reports=later, lives={}))) == ["CreateObject"]


def test_a_publisher_that_does_not_run_is_reported_and_waited_for() -> None:
    plan = stored(settled(), state="Copied", copiedBytes=9, reason="PublisherSilent", message="does not run")
    assert (plan.progress.phase, plan.error and plan.error.reason) == ("Storing", "PublisherSilent")


@pytest.mark.parametrize("gone", [True, False])
def test_no_vm_stays_paused_for_a_copy_that_cannot_be_made(gone: bool) -> None:
    w = settled()
    progress = paused(w)
    full = copied(progress, "Refused", copiedBytes=0, reason="NoRoom", message="1.0 GiB more")
    plan = plan_capture(view_of(w, progress, lives={}) if gone else view_of(w, progress, reports=full))
    assert resumes(plan) == {"db", "web"}
    assert plan.progress.failure == ("NotSettled" if gone else "NoRoom")


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
    ended: tuple[CapturePhase, ...] = ("Done", "Failed")
    for phase in ended:
        assert uses(progress.in_phase(phase)) == (frozenset(), frozenset())


def test_a_result_that_exists_in_part_is_completed_when_the_capture_is_deleted() -> None:
    w = settled()
    progress = stored(w).progress
    after = plan_capture(view_of(w, progress, deleting=True))
    assert created(after) == [("VMImageNode", "after-db"), ("VMImageNode", "after-web"), ("SystemNode", "after")]
    existing = {key_of(s.manifest): s.manifest["spec"] for s in after.steps if isinstance(s, CreateObject)}
    for fields in ({"existing": existing}, {"existing": {("SystemNode", "after"): {}}}):
        assert kinds(plan_capture(view_of(w, progress, deleting=True, **fields))) == ["RemoveFinalizer"]
    assert kinds(plan_capture(view_of(w, progress.in_phase("Done"), deleting=True))) == ["RemoveFinalizer"]


@pytest.mark.parametrize(
    ("error", "deleting", "phase"),
    [
        (Waiting("the namespace is being terminated"), True, "Failed"),
        (NameTaken("taken"), True, "Failed"),
        (Conflict("exists"), True, "Publishing"),
        (Unreachable("down"), True, "Publishing"),
        (NameTaken("taken"), False, "Publishing"),
    ],
)
def test_a_result_that_cannot_be_completed_does_not_hold_up_a_deletion(
    error: KigiError, deleting: bool, phase: CapturePhase
) -> None:
    w = settled()
    plan = plan_capture(view_of(w, stored(w).progress, deleting=deleting))
    results = [StepResult(plan.steps[0], w.view().now, error)]
    progress = progress_after(plan.progress, results, deleting=deleting)
    assert progress.phase == phase
    assert (error_after(progress, results) is None) == (phase == "Failed")
    if phase == "Failed":
        assert kinds(plan_capture(view_of(w, progress, deleting=True))) == ["RemoveFinalizer"]


def test_the_progress_is_what_is_left_of_the_status_after_a_restart() -> None:
    w = settled()
    for progress in (CaptureProgress(), paused(w), abandoned(w).progress, stored(w).progress):
        body = capture_status(view_of(w), [], progress).to_api()
        assert progress_of(SystemCaptureStatus.model_validate(body)) == progress


def test_the_life_of_a_node_is_that_of_its_object_and_of_its_daemon() -> None:
    assert life_of(node_exists=True, cache_alive=True) == "Alive"
    assert life_of(node_exists=True, cache_alive=False) == "Silent"
    assert life_of(node_exists=False, cache_alive=True) == "Gone"
