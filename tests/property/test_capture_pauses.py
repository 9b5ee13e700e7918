"""Laws of captures whose VMs are stopped by their node's daemon: the same as of all captures, in every history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kigi.planning import captures
from kigi.planning.capture_progress import CaptureProgress
from kigi.planning.capture_view import CaptureView
from kigi.planning.captures import plan_capture
from tests.support.capture_scripts import MOVES, Script, run, scripts
from tests.support.capture_worlds import Planner
from tests.support.monitored_worlds import MonitoredWorld

WITHOUT_MONITORS, EARLIER_DAEMONS, RESUMED, FORGOTTEN = range(4)
ACCIDENTS = (WITHOUT_MONITORS, EARLIER_DAEMONS, RESUMED, FORGOTTEN, *(7 * kind for kind in range(3, 14)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts(st.one_of(MOVES, st.integers(0, 3))))
def test_no_vm_stays_paused_and_no_partial_result_is_left_in_any_history(script: Script) -> None:
    with MonitoredWorld() as world:
        run(world, script)
        world.settle()
        world.check_settled()


def test_vms_with_monitors_are_stopped_together_and_not_by_requests() -> None:
    with MonitoredWorld() as world:
        world.settle()
        world.check_settled()
        progress = world.progress()
        assert (progress.end, progress.attempts, world.barriers) == ("Complete", 1, 1)
        assert {machine.method for machine in progress.machines} == {"Stop", "FreezeAndStop"}
        assert not any(pause for guest in world.guests.values() for pause in guest.pauses), "a request paused a VM"
        assert world.status is not None
        assert (world.status.pause_message, world.status.pause_milliseconds) == (None, 0)


@pytest.mark.parametrize("accident", [WITHOUT_MONITORS, RESUMED])
def test_vms_that_a_daemon_cannot_stop_are_paused_by_kubevirt_in_the_same_attempt(accident: int) -> None:
    with MonitoredWorld() as world:
        world.move(accident)
        world.settle()
        world.check_settled()
        progress = world.progress()
        assert (progress.end, progress.attempts, world.barriers) == ("Complete", 1, 0)
        assert {machine.method for machine in progress.machines} == {"Pause", "FreezeAndPause"}
        assert progress.pause_message


def interrupted(accident: int, planner: Planner = plan_capture) -> Iterator[int]:
    """Number of moves before the accident, in each run: it also falls between an order and its copies."""
    for number in range(1, 25):
        with MonitoredWorld(planner) as world:
            for each in range(number):
                world.cooperate(each)
            world.move(accident)
            for each in range(number, number + 9):
                world.cooperate(each)
            world.settle()
            world.check_settled()
            yield number


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_every_accident_at_every_moment_is_survived(accident: int) -> None:
    assert len(list(interrupted(accident))) == 24


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_every_stop_of_the_operator_with_every_accident_is_survived(accident: int) -> None:
    runs = 0
    for stop_at in range(1, 100):
        with MonitoredWorld() as world:
            world.stop_at = stop_at
            for number in range(100):
                world.cooperate(number)
                if world.stop_at is None:
                    break
            if world.stop_at is not None:
                break
            runs += 1
            world.move(accident)
            world.reconcile(stop_after=1)
            world.settle()
            world.check_settled()
    assert runs >= 8, "requests of a capture"


# Broken plans: each is found, or the laws above would be worth nothing.


def times_not_verified(monkeypatch: pytest.MonkeyPatch) -> Planner:
    def accepted(view: CaptureView, progress: CaptureProgress) -> tuple[CaptureProgress, str]:
        return progress, ""

    monkeypatch.setattr(captures, "with_stops", accepted)
    return plan_capture


def test_copies_that_are_not_verified_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = times_not_verified(monkeypatch)
    with pytest.raises((AssertionError, ExceptionGroup)):
        any_run(interrupted(EARLIER_DAEMONS, planner))


def any_run(runs: Iterable[int]) -> None:
    for _ in runs:
        pass
