"""Limits of captures over hours and days: attempts, the deadline, and the life of a finished capture."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kigi.planning.capture_limits import FINISHED_RECHECK_S, RETRY_LONGEST_S, retry_delay_s
from kigi.planning.capture_progress import CaptureProgress, Failure, held_machines
from kigi.planning.capture_view import CaptureView
from kigi.planning.captures import plan_capture
from kigi.planning.steps import CreateObject, DeleteCapture
from tests.support.worlds import World
from tests.unit.planning.test_captures import (
    abandoned,
    begun,
    captured,
    created,
    key_of,
    kinds,
    paused,
    reason,
    resumed,
    resumes,
    settled,
    stored,
    storing,
    verified,
    view_of,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def test_the_pause_between_attempts_doubles_up_to_six_minutes() -> None:
    assert [retry_delay_s(n) for n in range(1, 8)] == [10, 20, 40, 80, 160, 320, RETRY_LONGEST_S]
    assert retry_delay_s(10**9) == RETRY_LONGEST_S, "the exponent is bounded"


@pytest.mark.parametrize("failed", [1, 3, 10])
def test_a_clock_that_is_set_delays_no_attempt(failed: int) -> None:
    w = settled()
    progress = replace(resumed(abandoned(w), w), attempts=failed, failed_attempts=failed)
    spec = captured(backoffLimit=20)
    waits = plan_capture(view_of(w, progress, spec=spec))
    assert waits.retry_after_s == retry_delay_s(failed)
    for step in (HOUR, -HOUR, DAY, -DAY):
        plan = plan_capture(view_of(w, progress, spec=spec, now=w.view().now + step))
        assert plan.progress.stage == "Checking"


def test_a_higher_limit_lets_a_capture_try_again_before_it_has_ended() -> None:
    w = settled()
    progress = resumed(abandoned(w), w)
    assert plan_capture(view_of(w, progress, spec=captured(backoffLimit=0))).progress.stage == "Failed"
    assert plan_capture(view_of(w, progress, spec=captured(backoffLimit=1))).retry_after_s is not None


# The deadline.


def overdue(w: World, progress: CaptureProgress, after: timedelta = DAY, **fields: object) -> CaptureView:
    """The view when a deadline of a day has just passed, or other time ``after`` the creation."""
    now = w.view().now
    spec = captured(activeDeadlineSeconds=DAY.days * 86400)
    return view_of(w, progress, spec=spec, created=now - after, **fields)


def test_a_capture_that_waits_for_days_fails_at_its_deadline() -> None:
    w = settled()
    w.change(resetToken="again")
    early = plan_capture(overdue(w, CaptureProgress(), DAY - timedelta(seconds=3)))
    assert (early.error and early.error.reason, early.retry_after_s) == ("NotSettled", 3.0)
    late = plan_capture(overdue(w, CaptureProgress()))
    assert (late.progress.stage, reason(late), kinds(late)) == ("Failed", "DeadlineExceeded", ["RecordProgress"])


def test_paused_vms_are_resumed_before_the_capture_fails_at_its_deadline() -> None:
    w = settled()
    for progress in (paused(w), begun(view_of(w)).progress):
        plan = plan_capture(overdue(w, progress))
        assert (resumes(plan), reason(plan)) == ({"db", "web"}, "DeadlineExceeded")
        still = plan_capture(overdue(w, plan.progress))
        assert resumes(still) == {"db", "web"}, "an operator that stopped is followed by another"
        end = plan_capture(overdue(w, resumed(plan, w)))
        assert (end.progress.stage, reason(end)) == ("Failed", "DeadlineExceeded")
        assert not held_machines(end.progress)


def test_copies_that_are_not_stored_at_the_deadline_are_dropped() -> None:
    w = settled()
    resuming = verified(w, paused(w)).progress
    assert resumes(plan_capture(overdue(w, resuming))) == {"db", "web"}
    end = plan_capture(overdue(w, storing(w)))
    assert (end.progress.stage, reason(end)) == ("Failed", "DeadlineExceeded")


def test_a_result_that_exists_in_part_is_completed_after_the_deadline_and_no_other() -> None:
    w = settled()
    progress = stored(w).progress
    assert reason(plan_capture(overdue(w, progress))) == "DeadlineExceeded"
    foreign = {("VMImageNode", "after-web"): {"parent": {"name": "other"}}}
    assert reason(plan_capture(overdue(w, progress, existing=foreign))) == "DeadlineExceeded"
    made = [s.manifest for s in plan_capture(view_of(w, progress)).steps if isinstance(s, CreateObject)]
    first = {key_of(made[0]): made[0]["spec"]}
    assert created(plan_capture(overdue(w, progress, existing=first))) == [key_of(manifest) for manifest in made[1:]]


def test_a_deadline_does_not_change_a_capture_that_has_ended() -> None:
    w = settled()
    for ended in (stored(w).progress.completed(), CaptureProgress().refused("NameTaken", "x")):
        assert plan_capture(overdue(w, ended)).progress == ended


# Finished captures.


def finished(w: World, age: timedelta, ttl_s: int | None, *, failed: bool = False) -> CaptureView:
    progress = CaptureProgress(
        completion_time=w.view().now - age,
        end="Failed" if failed else "Complete",
        failure=Failure("TooSlow", "60 s") if failed else None,
    )
    return view_of(w, progress, spec=captured(**({} if ttl_s is None else {"ttlSecondsAfterFinished": ttl_s})))


@pytest.mark.parametrize("failed", [True, False])
def test_a_finished_capture_is_deleted_after_its_time(failed: bool) -> None:
    w = settled()
    week_s = 7 * 86400
    assert plan_capture(finished(w, 7 * DAY, week_s, failed=failed)).steps == (DeleteCapture("ns", "after", "u1"),)
    early = plan_capture(finished(w, 7 * DAY - timedelta(seconds=5), week_s, failed=failed))
    assert (early.steps, early.retry_after_s) == ((), 5.0)
    new = plan_capture(finished(w, timedelta(), week_s, failed=failed))
    assert (new.steps, new.retry_after_s) == ((), FINISHED_RECHECK_S)
    assert plan_capture(finished(w, timedelta(), 0, failed=failed)).steps, "0: at once"


def test_a_finished_capture_without_a_time_to_live_stays() -> None:
    plan = plan_capture(finished(settled(), 1000 * DAY, None))
    assert (plan.steps, plan.retry_after_s) == ((), None)


def test_a_completion_in_the_future_was_written_by_a_wrong_clock_and_counts_as_past() -> None:
    w = settled()
    assert plan_capture(finished(w, -timedelta(seconds=3), 3600)).steps == ()
    assert kinds(plan_capture(finished(w, -DAY, 3600))) == ["DeleteCapture"]
