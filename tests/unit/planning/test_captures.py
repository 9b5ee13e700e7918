"""The barrier of a SystemCapture: who is paused, when everybody is resumed, and what is given up."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from kigi.api.base import MACHINE_NAME
from kigi.api.capture import SystemCaptureSpec, SystemCaptureStatus
from kigi.api.deployment import SystemDeploymentSpec
from kigi.api.node_cache import CaptureReport
from kigi.planning.capture_view import RESUMED_SHOWN, CaptureView, image_name
from kigi.planning.captures import (
    AGAIN_S,
    ATTEMPTS,
    STANDSTILL,
    CapturePlan,
    after_pause,
    after_resume,
    after_verify,
    orders,
    plan_capture,
    standing,
    uses,
)
from kigi.planning.copies import life_of
from kigi.status.captures import capture_status
from tests.support.worlds import World, with_machines


def settled(state: str = "a", **spec: object) -> World:
    w = World(SystemDeploymentSpec.model_validate({"system": {"name": state}, **spec}))
    w.settle()
    return w


def view_of(w: World, status: SystemCaptureStatus | None = None, **fields: object) -> CaptureView:
    view = CaptureView(
        namespace="ns",
        name="after",
        uid="u1",
        generation=1,
        deleting=False,
        has_finalizer=True,
        spec=SystemCaptureSpec.model_validate({"deployment": {"name": "dep"}}),
        status=status or SystemCaptureStatus(),
        deployment=w.view(),
        agents=frozenset(),
        taken=frozenset(),
        reports={},
        lives=dict.fromkeys(w.view().nodes, "Alive"),
        now=w.view().now,
    )
    return replace(view, **fields)  # type: ignore[arg-type]


def begun(view: CaptureView) -> CapturePlan:
    """The plan when all nodes have said that copies are possible; or what kept it from asking them."""
    plan = plan_capture(view)
    if plan.status.phase != "Checking":
        return plan
    assert not plan.action
    return plan_capture(replace(view, status=plan.status, reports=copied(plan.status, "Possible")))


def paused(w: World) -> SystemCaptureStatus:
    """The status when all VMs stand still."""
    plan = begun(view_of(w))
    assert plan.action == "Pause"
    now = w.view().now
    outcomes = [m.model_copy(update={"requested_at": now, "paused_at": now}) for m in plan.machines]
    return after_pause(plan.status, outcomes, "")


def resumed(status: SystemCaptureStatus, w: World) -> SystemCaptureStatus:
    done = [m.model_copy(update={"resumed_at": w.view().now, "pause_milliseconds": 5}) for m in standing(status)]
    return after_resume(status, done)


def copied(status: SystemCaptureStatus, state: str = "Copied", **fields: object) -> dict[str, CaptureReport]:
    return {
        d.id: CaptureReport.model_validate({"id": d.id, "state": state, "copiedBytes": 9, **fields})
        for d in status.disks
    }


def test_every_disk_of_every_machine_is_captured() -> None:
    w = settled("b")
    plan = begun(view_of(w))
    assert [disk.name for disk in plan.status.disks] == ["db", "db/data", "db/logs", "web"]
    assert {m.method for m in plan.machines} == {"Pause"}
    assert plan.status.parent == "b"
    assert plan.status.phase == "Pausing"


def test_a_guest_with_an_agent_writes_out_its_file_systems_first() -> None:
    w = settled()
    uids = frozenset(vmi.uid for vmi in w.vmis.values())
    assert {m.method for m in begun(view_of(w, agents=uids)).machines} == {"FreezeAndPause"}
    spec = SystemCaptureSpec.model_validate({"deployment": {"name": "dep"}, "quiesce": "Pause"})
    assert {m.method for m in begun(view_of(w, agents=uids, spec=spec)).machines} == {"Pause"}


def test_nobody_is_paused_while_a_machine_is_being_reset() -> None:
    w = settled()
    w.change(reset="again")
    plan = plan_capture(view_of(w))
    assert not plan.action
    assert plan.error is not None
    assert plan.error.reason == "NotSettled"
    w.settle()
    assert begun(view_of(w)).action == "Pause"


@pytest.mark.parametrize(
    ("running", "word", "settles"), [(True, "Starting", False), (True, "Stopped", True), (False, "", True)]
)
def test_a_vm_that_is_about_to_start_is_waited_for_and_one_that_stays_off_is_not(
    running: bool, word: str, settles: bool
) -> None:
    w = settled(running=running)
    deployment = w.view()
    off = with_machines(deployment, vm={"printable_status": word}, is_off=True)
    plan = begun(view_of(w, deployment=off))
    assert (plan.error is None) == settles
    if settles:
        assert {m.method for m in plan.status.machines} == {"Off"}
    else:
        assert "about to start" in str(plan.error)


def test_nobody_is_paused_for_a_name_that_is_taken() -> None:
    w = settled()
    plan = plan_capture(view_of(w, taken=frozenset({("VMImageNode", "after-db")})))
    assert not plan.action
    assert plan.error is not None
    assert "VMImageNode ns/after-db" in str(plan.error)


def test_the_nodes_copy_only_while_the_vms_stand_still() -> None:
    w = settled()
    status = paused(w)
    assert {order.action for _, order in orders(status)} == {"Copy"}
    for phase in ("Resuming", "Storing", "Publishing"):
        later = status.model_copy(update={"phase": phase})
        assert {order.action for _, order in orders(later)} == {"Keep"}
    assert {order.action for _, order in orders(status.model_copy(update={"phase": "Checking"}))} == {"Check"}
    for phase in ("Pending", "Pausing", "Done", "Failed"):
        assert not list(orders(status.model_copy(update={"phase": phase})))


def test_copies_of_vms_that_ran_on_are_given_up() -> None:
    w = settled()
    status = paused(w)
    plan = plan_capture(view_of(w, status, reports=copied(status)))
    assert plan.action == "Verify"
    failed = after_verify(plan.status, ["db"])
    plan = plan_capture(view_of(w, failed))
    assert plan.action == "Resume"
    assert {m.name for m in plan.machines} == {"db", "web"}
    again = plan_capture(view_of(w, resumed(failed, w)))
    assert again.status.phase == "Pending"
    assert "db ran on" in capture_status(view_of(w), again.status).conditions[0].message


def test_nobody_stands_still_for_longer_than_the_limit() -> None:
    w = settled()
    status = paused(w)
    reports = dict(list(copied(status).items())[:1])
    early = view_of(w, status, reports=reports)
    assert not plan_capture(early).action
    plan = plan_capture(replace(early, now=early.now + STANDSTILL + timedelta(seconds=1)))
    assert plan.action == "Resume"
    assert {m.name for m in plan.machines} == {"db", "web"}
    assert plan.status.failure == "TooSlow"


def test_it_is_given_up_after_three_attempts_and_nobody_is_left_standing() -> None:
    w = settled()
    status = SystemCaptureStatus()
    for attempt in range(1, ATTEMPTS + 1):
        now = w.view().now + attempt * timedelta(seconds=AGAIN_S)
        if attempt > 1:
            early = plan_capture(view_of(w, status, now=now - timedelta(seconds=1)))
            assert (early.action, early.status, early.retry_after_s) == ("", status, 1.0)
        plan = begun(view_of(w, status, now=now))
        assert plan.status.attempt == attempt
        failed = after_pause(plan.status, plan.machines, "db: KubeVirt does not answer")
        assert plan_capture(view_of(w, failed)).action == "Resume"
        status = plan_capture(view_of(w, resumed(failed, w))).status
        assert not standing(status)
    assert status.phase == "Failed"
    said = {c.type: c for c in capture_status(view_of(w), status).conditions}
    assert said["Stalled"].status == "True"
    assert "KubeVirt does not answer" in said["Ready"].message


def test_a_vm_that_was_resumed_and_is_still_shown_as_paused_is_waited_for() -> None:
    """KubeVirt's own words come late: taken for somebody else's pause, it would be left to run while it is copied."""
    w = settled()
    failed = after_pause(begun(view_of(w)).status, begun(view_of(w)).machines, "no answer")
    again = plan_capture(view_of(w, resumed(failed, w))).status
    seen = with_machines(w.view(), vmi={"paused": True})
    tried_again = w.view().now + timedelta(seconds=AGAIN_S)
    plan = plan_capture(view_of(w, again, deployment=seen, now=tried_again))
    assert (plan.action, plan.error and plan.error.reason) == ("", "NotSettled")
    later = begun(view_of(w, again, deployment=seen, now=w.view().now + 2 * RESUMED_SHOWN))
    assert {machine.method for machine in later.status.machines} == {"AlreadyPaused"}


@pytest.mark.parametrize("phase", ["Pausing", "Copying", "Resuming"])
def test_a_capture_that_is_deleted_lets_everybody_go_on(phase: str) -> None:
    w = settled()
    status = paused(w).model_copy(update={"phase": phase})
    plan = plan_capture(view_of(w, status, deleting=True))
    assert plan.action == "Resume"
    after = plan_capture(view_of(w, resumed(plan.status, w), deleting=True))
    assert after.action == "RemoveFinalizer"


def storing(w: World) -> SystemCaptureStatus:
    status = resumed(after_verify(paused(w), []), w)
    status = plan_capture(view_of(w, status)).status
    assert status.phase == "Storing"
    return status


def stored(w: World, **one: object) -> CapturePlan:
    status = storing(w)
    reports = copied(status, "Stored", digest="sha256:" + "1" * 64, sizeBytes=4096, uploadedBytes=4096)
    first = status.disks[0].id
    if one:
        reports[first] = CaptureReport.model_validate({"id": first, **one})
    return plan_capture(view_of(w, status, reports=reports))


def test_a_machine_that_wrote_nothing_keeps_its_image() -> None:
    plan = stored(settled(), state="Unchanged")
    *images, system = plan.objects
    assert [image["metadata"]["name"] for image in images] == ["after-web"]
    assert {m["name"]: m["image"]["name"] for m in system["spec"]["machines"]} == {"db": "db", "web": "after-web"}
    assert plan.status.added_bytes == 4096


def test_a_layer_that_cannot_be_stored_is_said_and_waited_for() -> None:
    plan = stored(settled(), state="Refused", copiedBytes=9, reason="AccessDenied", message="credentials")
    assert not plan.action
    assert plan.status.phase == "Storing"
    assert plan.error is not None
    assert "disk db" in str(plan.error)


def test_a_copy_that_was_lost_is_made_anew() -> None:
    plan = stored(settled(), state="Lost")
    assert plan.status.failure == "CopyLost"
    assert plan_capture(view_of(settled(), plan.status)).status.phase == "Pending"


def test_skew_counts_from_the_first_request_for_an_answer_may_come_late() -> None:
    w = settled()
    plan = begun(view_of(w))
    asked = w.view().now
    assert {machine.requested_at for machine in plan.machines} == {asked}
    answers = [
        machine.model_copy(update={"paused_at": asked + timedelta(milliseconds=900 + 10 * number)})
        for number, machine in enumerate(plan.machines)
    ]
    status = after_pause(plan.status, answers, "")
    assert status.skew_milliseconds == 900 + 10 * (len(answers) - 1)


def test_an_operator_after_the_one_that_paused_keeps_the_time_of_the_first_request() -> None:
    w = settled()
    first = begun(view_of(w))
    later = view_of(w, first.status, now=w.view().now + timedelta(seconds=20))
    assert {machine.requested_at for machine in plan_capture(later).machines} == {w.view().now}


def test_no_two_disks_have_one_image_name() -> None:
    assert image_name("s", "web/data") != image_name("s", "web-data")


@pytest.mark.parametrize("name", ["web-data", "web"])
def test_names_of_machines_and_disks_have_no_dot_by_which_image_names_could_meet(name: str) -> None:
    """``SYSTEM-MACHINE.DISK`` can be read in one way alone, for the last dot is the one between machine and disk."""
    label = re.compile(MACHINE_NAME)
    assert label.fullmatch(name)
    assert not label.fullmatch(f"{name}.data")
    assert set(Counter(image_name("s", disk) for disk in ("web", "web/data", "web-data", "web-data/x")).values()) == {1}


def test_no_vm_is_paused_before_each_node_has_said_that_a_copy_is_possible() -> None:
    w = settled()
    asking = plan_capture(view_of(w))
    assert (asking.status.phase, asking.action, asking.status.attempt) == ("Checking", "", 0)
    possible = copied(asking.status, "Possible")
    one_silent = dict(list(possible.items())[1:])
    assert not plan_capture(view_of(w, asking.status, reports=one_silent)).action
    assert plan_capture(view_of(w, asking.status, reports=possible)).action == "Pause"


def test_what_a_node_lacks_is_said_while_the_vms_run_and_goes_by_itself() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).status
    full = copied(asking, "Refused", copiedBytes=0, reason="NoRoom", message="1.0 GiB more")
    plan = plan_capture(view_of(w, asking, reports=full))
    assert (plan.action, plan.status.phase, plan.error and plan.error.reason) == ("", "Checking", "NoRoom")
    assert "disk db on node" in str(plan.error)
    assert {disk.reason for disk in plan.status.disks} == {"NoRoom"}
    assert plan_capture(view_of(w, plan.status, reports=copied(asking, "Possible"))).action == "Pause"


def test_an_answer_about_the_disk_before_a_reset_is_not_taken_for_one_about_the_new_disk() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).status
    w.change(reset="again")
    w.settle()
    plan = plan_capture(view_of(w, asking, reports=copied(asking, "Possible")))
    assert (plan.action, plan.status.phase) == ("", "Checking")
    assert plan.status.disks[0].id != asking.disks[0].id


def test_a_capture_that_waits_for_room_forgets_what_it_asked_when_the_instance_is_switched() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).status
    w.change(reset="again")
    plan = plan_capture(view_of(w, asking))
    assert (plan.status.phase, plan.error and plan.error.reason) == ("Pending", "NotSettled")
    assert not list(orders(plan.status))


def test_a_chain_that_the_repository_takes_no_layer_above_is_refused_finally_before_any_pause() -> None:
    w = settled()
    asking = plan_capture(view_of(w)).status
    deep = copied(asking, "Refused", copiedBytes=0, reason="ChainTooDeep", message="repositories.default.maxDepth")
    plan = plan_capture(view_of(w, asking, reports=deep))
    assert (plan.action, plan.status.phase, plan.status.attempt) == ("", "Failed", 0)
    said = {c.type: c for c in capture_status(view_of(w), plan.status).conditions}
    assert (said["Stalled"].status, said["Ready"].reason) == ("True", "ChainTooDeep")
    for words in ("before any VM was paused", "machine db of", "VMImageNode db", "maxDepth", "kigi flatten db"):
        assert words in said["Ready"].message


@pytest.mark.parametrize(("life", "reason"), [("Silent", "CacheSilent"), ("Gone", "NotSettled")])
def test_nobody_is_paused_for_a_node_that_does_not_answer(life: str, reason: str) -> None:
    w = settled()
    asking = plan_capture(view_of(w)).status
    lives = dict.fromkeys(w.view().nodes, life)
    plan = plan_capture(view_of(w, asking, lives=lives, reports=copied(asking, "Possible")))
    assert (plan.action, plan.status.phase, plan.error and plan.error.reason) == ("", "Checking", reason)


def test_a_node_that_falls_silent_while_it_stores_is_said_and_waited_for() -> None:
    w = settled()
    status = storing(w)
    silent = view_of(w, status, lives=dict.fromkeys(w.view().nodes, "Silent"), reports=copied(status, "Storing"))
    plan = plan_capture(silent)
    assert (plan.status.phase, plan.error and plan.error.reason) == ("Storing", "CacheSilent")
    assert plan.retry_after_s is not None, "silence is no event"
    assert "node" in str(plan.error)
    assert {disk.reason for disk in plan.status.disks} == {"CacheSilent"}
    back = plan_capture(view_of(w, plan.status, reports=copied(status, "Storing")))
    assert back.error is None
    assert {disk.reason for disk in back.status.disks} == {None}


def test_a_node_that_is_gone_takes_its_copies_along_for_ever() -> None:
    w = settled()
    plan = plan_capture(view_of(w, storing(w), lives={}))
    assert (plan.status.phase, plan.action, plan.objects) == ("Failed", "", ())
    said = {c.type: c for c in capture_status(view_of(w), plan.status).conditions}
    assert (said["Stalled"].status, said["Ready"].reason) == ("True", "CopyLost")
    assert "create another SystemCapture" in said["Ready"].message
    assert plan_capture(view_of(w, plan.status)) == CapturePlan(plan.status)


def test_a_copy_that_is_stored_is_not_missed_when_its_node_goes() -> None:
    w = settled()
    status = storing(w)
    reports = copied(status, "Stored", digest="sha256:" + "1" * 64, sizeBytes=4096, uploadedBytes=4096)
    plan = plan_capture(view_of(w, status, reports=reports, lives={}))
    assert (plan.status.phase, plan.action) == ("Publishing", "Publish")
    later = copied(status, "Lost")
    assert plan_capture(view_of(w, plan.status, reports=later, lives={})).action == "Publish"


def test_a_publisher_that_does_not_run_is_said_and_waited_for() -> None:
    plan = stored(settled(), state="Copied", copiedBytes=9, reason="PublisherSilent", message="does not run")
    assert (plan.status.phase, plan.error and plan.error.reason) == ("Storing", "PublisherSilent")


@pytest.mark.parametrize("gone", [True, False])
def test_nobody_stands_still_for_a_copy_that_cannot_come(gone: bool) -> None:
    w = settled()
    status = paused(w)
    full = copied(status, "Refused", copiedBytes=0, reason="NoRoom", message="1.0 GiB more")
    plan = plan_capture(view_of(w, status, lives={}) if gone else view_of(w, status, reports=full))
    assert plan.action == "Resume"
    assert {m.name for m in plan.machines} == {"db", "web"}
    assert plan.status.failure == ("NotSettled" if gone else "NoRoom")


def test_what_was_checked_does_not_count_as_copied() -> None:
    w = settled()
    status = paused(w)
    plan = plan_capture(view_of(w, status, reports=copied(status, "Possible", copiedBytes=0)))
    assert (plan.action, {disk.state for disk in plan.status.disks}) == ("", {"Waiting"})


def test_a_capture_needs_what_it_stands_on_until_it_has_ended() -> None:
    w = settled()
    status = storing(w)
    assert uses(status) == (frozenset({"a"}), frozenset({"db", "web"}))
    assert uses(None) == uses(SystemCaptureStatus()) == (frozenset(), frozenset())
    for phase in ("Done", "Failed"):
        assert uses(status.model_copy(update={"phase": phase})) == (frozenset(), frozenset())


def test_what_a_deleted_capture_has_half_written_is_completed() -> None:
    w = settled()
    plan = stored(w)
    assert plan.status.phase == "Publishing"
    after = plan_capture(view_of(w, plan.status, deleting=True))
    assert (after.action, len(after.objects)) == ("RemoveFinalizer", len(plan.objects))
    done = plan.status.model_copy(update={"phase": "Done"})
    assert plan_capture(view_of(w, done, deleting=True)).objects == ()


def test_the_life_of_a_node_is_that_of_its_object_and_of_its_daemon() -> None:
    assert life_of(node_exists=True, cache_alive=True) == "Alive"
    assert life_of(node_exists=True, cache_alive=False) == "Silent"
    assert life_of(node_exists=False, cache_alive=True) == "Gone"
