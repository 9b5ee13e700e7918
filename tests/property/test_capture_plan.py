"""Laws of captures that must hold wherever the operator stops, and whatever users and nodes do in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kigi.planning.capture_view import CaptureView, ObservedVmi
from kigi.planning.captures import CapturePlan, machines_to_verify, plan_capture
from kigi.planning.steps import CreateObject, RecordProgress, RemoveFinalizer, ResumeMachine
from tests.support.capture_worlds import CaptureWorld, Fault

faults = st.lists(st.sampled_from(["", "", "", "refused", "lost"]), max_size=6)
moves = st.integers(0, 7 * 14 - 1)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("cooperate"), st.integers(1, 40)),
        st.tuples(st.just("reconcile"), st.tuples(st.integers(0, 6), faults, st.lists(moves, max_size=4))),
        st.tuples(st.just("move"), moves),
    ),
    max_size=30,
)


def run(world: CaptureWorld, script: list[tuple[str, Any]]) -> None:
    place = 0
    for kind, argument in script:
        if kind == "cooperate":
            for _ in range(argument):
                world.cooperate(place)
                place += 1
        elif kind == "reconcile":
            world.reconcile(*argument)
        else:
            world.move(argument)
        world.check()


def judge(world: CaptureWorld, script: list[tuple[str, Any]]) -> None:
    run(world, script)
    world.settle()
    world.check_settled()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions)
def test_no_vm_stays_paused_and_no_partial_result_is_left_in_any_history(script: list[tuple[str, Any]]) -> None:
    judge(CaptureWorld(), script)


@pytest.mark.parametrize("stop_after", range(1, 7))
def test_an_operator_that_stops_after_every_few_requests_gets_on(stop_after: int) -> None:
    """Without faults or moves of others: every capture is Done at its first attempt."""
    world = CaptureWorld()
    for number in range(400):
        if number % 5 == 0:
            world.reconcile(stop_after)
        else:
            world.cooperate(number)
    world.settle()
    world.check_settled()
    assert (world.progress().phase, world.progress().attempt) == ("Done", 1)
