"""Laws of captures that must hold wherever the operator stops, and whatever users and nodes do in between."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings

from kigi.planning.capture_view import CaptureView, ObservedVmi
from kigi.planning.captures import CapturePlan, machines_to_verify, plan_capture
from kigi.planning.steps import CreateObject, RecordProgress, RemoveFinalizer, ResumeMachine
from tests.support.capture_scripts import Script, run, scripts
from tests.support.capture_worlds import CaptureWorld, Planner


def judge(script: Script, planner: Planner = plan_capture) -> None:
    with CaptureWorld(planner) as world:
        run(world, script)
        world.settle()
        world.check_settled()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts())
@example([("reconcile", (1, [], [])), ("cooperate", (9, 6)), ("move", 50), ("reconcile", (3, [], [0, 14, 7]))]).via(
    "a node loses its copies between their report and the order to keep them, and makes others of VMs that run again"
)
def test_no_vm_stays_paused_and_no_partial_result_is_left_in_any_history(script: Script) -> None:
    judge(script)


@pytest.mark.parametrize("stop_after", range(1, 7))
def test_an_operator_that_stops_after_every_few_requests_gets_on(stop_after: int) -> None:
    """Without faults or moves of others: every capture is Complete at its first attempt."""
    with CaptureWorld() as world:
        for number in range(400):
            if number % 5 == 0:
                world.reconcile(stop_after)
            else:
                world.cooperate(number)
        world.settle()
        world.check_settled()
        assert (world.progress().end, world.progress().attempts) == ("Complete", 1)


# Every stop, and every accident after it.

SHOW, USER_RESUMES, RESTART, RESET, LOSE_NODE, DELETE = 2, 4, 5, 11, 12, 13
ACCIDENTS = range(3, 14)
"""Moves of ``CaptureWorld.move`` that are not part of a capture without trouble."""


def explored(planner: Planner, accidents: Iterable[int] = ACCIDENTS) -> Iterator[tuple[int, int]]:
    """(request, accident) of each run: the operator stops before that request, one accident follows, and the next
    operator stops after its first request. In every second run a user has paused a VM before the capture."""
    for stop_at, accident in itertools.product(range(1, 100), accidents):
        with CaptureWorld(planner) as world:
            if (stop_at + accident) % 2:
                world.user_pauses("dep-0-db")
            world.stop_at = stop_at
            for number in range(100):
                world.cooperate(number)
                if world.stop_at is None:
                    break
            if world.stop_at is not None:
                return
            yield stop_at, accident
            world.move(7 * accident + stop_at % 7)
            world.reconcile(stop_after=1)
            world.settle()
            world.check_settled()


def interrupted(planner: Planner, accident: int) -> Iterator[int]:
    """Number of moves before the accident, in each run: it also falls between an order and its copies."""
    for number in range(1, 25):
        with CaptureWorld(planner) as world:
            for each in range(number):
                world.cooperate(each)
            world.move(7 * accident + number % 7)
            world.settle()
            world.check_settled()
            yield number


@pytest.mark.parametrize("accident", [USER_RESUMES, RESTART, RESET])
def test_a_vm_that_moves_on_at_any_moment_is_survived(accident: int) -> None:
    deque(interrupted(plan_capture, accident))


def test_every_stop_with_every_accident_is_survived() -> None:
    runs = list(explored(plan_capture))
    assert len({stop for stop, _ in runs}) >= 12, "requests of a capture"
    assert {accident for _, accident in runs} == set(ACCIDENTS)


# Broken orders: each is found, or the laws above would be worth nothing.


def recorded_after_the_pause(view: CaptureView) -> CapturePlan:
    plan = plan_capture(view)
    first = [step for step in plan.steps if not isinstance(step, RecordProgress)]
    return replace(plan, steps=(*first, *(step for step in plan.steps if isinstance(step, RecordProgress))))


def barrier_not_verified(view: CaptureView) -> CapturePlan:
    vmis = {m.name: ObservedVmi(m.vmi_uid or "", True) for m in machines_to_verify(view)}
    return plan_capture(replace(view, vmis=vmis))


def pauses_of_users_ended(view: CaptureView) -> CapturePlan:
    plan = plan_capture(view)
    if not any(isinstance(step, ResumeMachine) for step in plan.steps):
        return plan
    paused = [m.name for m in plan.progress.machines if m.method == "AlreadyPaused"]
    return replace(plan, steps=(*plan.steps, *(ResumeMachine("ns", view.vm_name(name), name) for name in paused)))


def deleted_before_vms_are_resumed(view: CaptureView) -> CapturePlan:
    plan = plan_capture(view)
    if not view.deleting or not plan.steps:
        return plan
    return replace(plan, steps=(RemoveFinalizer("ns", "after", "SystemCapture"), *plan.steps))


def state_before_its_images(view: CaptureView) -> CapturePlan:
    plan = plan_capture(view)
    return replace(plan, steps=tuple(reversed(plan.steps))) if view.progress.stage == "Publishing" else plan


def images_before_their_digests_are_recorded(view: CaptureView) -> CapturePlan:
    plan = plan_capture(view)
    if (view.progress.stage, plan.progress.stage) != ("Storing", "Publishing"):
        return plan
    creations = plan_capture(replace(view, progress=plan.progress)).steps
    return replace(plan, steps=(*(step for step in creations if isinstance(step, CreateObject)), *plan.steps))


@pytest.mark.parametrize(
    ("planner", "accident"),
    [
        (recorded_after_the_pause, SHOW),
        (pauses_of_users_ended, SHOW),
        (deleted_before_vms_are_resumed, DELETE),
        (state_before_its_images, SHOW),
        (images_before_their_digests_are_recorded, LOSE_NODE),
    ],
)
def test_a_broken_order_is_found(planner: Planner, accident: int) -> None:
    with pytest.raises((AssertionError, ExceptionGroup)):
        deque(explored(planner, [accident]))


def test_a_barrier_that_is_not_verified_is_found() -> None:
    with pytest.raises((AssertionError, ExceptionGroup)):
        deque(interrupted(barrier_not_verified, RESTART))
