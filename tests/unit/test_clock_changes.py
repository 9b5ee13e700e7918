"""Clocks that are set by an hour, and clocks of nodes that are wrong: no limit stretches, no daemon falls silent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kigi.domain.heartbeat import HEARTBEAT_S, SILENT_AFTER_S
from kigi.gather.nodes import gather_nodes
from kigi.mirror.store import Mirror
from kigi.planning.capture_limits import RETRY_S
from kigi.planning.capture_orders import action_of
from kigi.planning.capture_progress import CaptureProgress, held_machines
from kigi.planning.capture_targets import RESUMED_SHOWN
from kigi.planning.capture_view import MAX_PAUSE
from kigi.planning.captures import plan_capture
from kigi.planning.machines import FORGOTTEN_AFTER, halted_until
from tests.support.bodies import cache_body, csi_node_body, lease_body, node_body
from tests.support.worlds import World, deployment_spec, with_machines
from tests.unit.planning.test_captures import (
    abandoned,
    begun,
    paused,
    reason,
    resumed,
    resumes,
    shown_paused,
    verified,
    view_of,
)

HOUR = timedelta(hours=1)
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SET = pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["set-forward", "set-back"])


def settled() -> World:
    w = World(deployment_spec("a"))
    w.settle()
    return w


# Captures: VMs are paused for MAX_PAUSE at most.


@SET
def test_paused_vms_are_resumed_when_the_clock_is_set(step: timedelta) -> None:
    w = settled()
    plan = plan_capture(view_of(w, paused(w), now=w.view().now + step))
    assert reason(plan) == "TooSlow"
    assert resumes(plan) == {m.name for m in held_machines(plan.progress)} != set()


@pytest.mark.parametrize("seconds", [-2, 0, 30, MAX_PAUSE.seconds])
def test_paused_vms_stay_paused_while_clocks_differ_by_seconds(seconds: int) -> None:
    w = settled()
    assert not plan_capture(view_of(w, paused(w), now=w.view().now + timedelta(seconds=seconds))).steps


@SET
def test_a_failed_capture_is_retried_without_waiting_for_the_clock(step: timedelta) -> None:
    w = settled()
    late = plan_capture(view_of(w, paused(w), now=w.view().now + 2 * MAX_PAUSE))
    failed = resumed(late, w)
    assert (failed.stage, reason(late)) == ("Pending", "TooSlow")
    waits = plan_capture(view_of(w, failed))
    assert waits.retry_after_s is not None
    assert 0 < waits.retry_after_s <= RETRY_S + 5
    again = plan_capture(view_of(w, failed, now=w.view().now + step))
    assert again.progress.stage == "Checking"
    assert action_of(again.progress) == "Check"


def test_a_vm_that_was_resumed_is_captured_again_when_the_clock_is_set_back() -> None:
    w = settled()
    progress = CaptureProgress(machines=resumed(abandoned(w), w).machines)
    deployment = shown_paused(w)
    soon = begun(view_of(w, progress, instance=deployment, now=w.view().now + RESUMED_SHOWN / 2))
    assert soon.progress.stage == "Pending"
    back = begun(view_of(w, progress, instance=deployment, now=w.view().now - HOUR))
    assert back.progress.attempts == 1, "what KubeVirt reports as paused an hour before it was resumed is another pause"


def test_reports_are_accepted_at_any_time_of_the_clock() -> None:
    w = settled()
    plan = verified(w, progress := paused(w), now=w.view().now - HOUR)
    assert {disk.state for disk in plan.progress.disks} == {"Copied"}
    assert (reason(plan), resumes(plan)) == (None, {m.name for m in progress.machines})


# A VM that is kept off for FORGOTTEN_AFTER.


@SET
def test_a_vm_is_not_kept_off_when_the_clock_is_set(step: timedelta) -> None:
    w = settled()
    view = with_machines(w.view(), vm={"running": False, "halted_until": NOW + FORGOTTEN_AFTER})
    machine = view.machines[0]
    assert halted_until(machine, NOW) == NOW + FORGOTTEN_AFTER
    assert halted_until(machine, NOW + step) is None
    still_haunted = with_machines(view, vmi={"blocked_by_ghost_record": True}).machines[0]
    assert halted_until(still_haunted, NOW - HOUR) == NOW - HOUR + FORGOTTEN_AFTER


# Heartbeats of daemons.


class Heard:
    """A mirror of one node with a monotonic clock and a wall clock, and a daemon whose clock is ``skew`` ahead."""

    def __init__(self, skew: timedelta = timedelta()) -> None:
        self.seconds, self.wall, self.skew, self.version = 1000.0, NOW, skew, 1
        self.beats: list[str] = []
        self.start_operator()
        self.beat(is_event=False)

    def start_operator(self) -> None:
        """A new operator, which knows nothing but the objects."""
        self.mirror = Mirror(lambda: self.seconds)
        self.mirror.put("Node", node_body())
        self.mirror.put("CSINode", csi_node_body())
        self.mirror.put("NodeCache", cache_body())
        if self.beats:
            self.mirror.heartbeats.put(lease_body(version=self.version, renewed=self.beats[-1]), self.wall)

    def beat(self, *, is_event: bool = True) -> None:
        self.version += 1
        self.beats.append((self.wall + self.skew).isoformat())
        lease = lease_body(version=self.version, renewed=self.beats[-1])
        self.mirror.heartbeats.put(lease, self.wall, is_event=is_event)

    def pass_(self, seconds: float, *, beating: bool) -> None:
        for _ in range(int(seconds // HEARTBEAT_S)):
            self.seconds += HEARTBEAT_S
            self.wall += timedelta(seconds=HEARTBEAT_S)
            if beating:
                self.beat()

    @property
    def alive(self) -> bool:
        return gather_nodes(self.mirror)["n1"].cache_alive


def test_a_daemon_that_falls_silent_is_noticed() -> None:
    heard = Heard()
    assert heard.alive
    heard.pass_(300, beating=True)
    assert heard.alive
    heard.pass_(SILENT_AFTER_S, beating=False)
    assert not heard.alive


@SET
def test_a_daemon_with_a_wrong_clock_is_silent_only_without_heartbeats(step: timedelta) -> None:
    heard = Heard(skew=step)
    assert not heard.alive, "nothing shows yet that it is alive"
    heard.pass_(30, beating=True)
    assert heard.alive
    heard.pass_(SILENT_AFTER_S, beating=False)
    assert not heard.alive


@SET
def test_daemons_stay_alive_when_the_operators_clock_changes(step: timedelta) -> None:
    heard = Heard()
    heard.pass_(60, beating=True)
    heard.wall += step
    assert heard.alive
    heard.pass_(60, beating=True)
    assert heard.alive
    heard.pass_(120, beating=False)
    assert not heard.alive


@SET
def test_a_daemons_clock_that_is_set_changes_nothing(step: timedelta) -> None:
    heard = Heard()
    heard.skew = step
    heard.pass_(60, beating=True)
    assert heard.alive
    heard.pass_(SILENT_AFTER_S, beating=False)
    assert not heard.alive


@pytest.mark.parametrize("silence", [timedelta(minutes=3), timedelta(hours=1), timedelta(days=1)])
def test_an_operator_that_starts_takes_an_old_heartbeat_for_what_it_is(silence: timedelta) -> None:
    heard = Heard()
    heard.pass_(silence.total_seconds(), beating=False)
    heard.start_operator()
    assert not heard.alive
    heard.pass_(30, beating=True)
    assert heard.alive


def test_an_operator_that_starts_finds_daemons_that_beat_alive() -> None:
    heard = Heard()
    heard.pass_(86_400, beating=True)
    heard.start_operator()
    assert heard.alive
    heard.pass_(SILENT_AFTER_S, beating=False)
    assert not heard.alive, "a node that died just before the start is alive for one period at most"


@SET
def test_a_dead_daemon_whose_clock_was_ahead_seems_alive_for_one_period_at_most(step: timedelta) -> None:
    """By chance both clocks agree when the operator starts: the node died as long ago as its clock was ahead."""
    heard = Heard(skew=abs(step))
    heard.pass_(abs(step).total_seconds(), beating=False)
    heard.start_operator()
    assert heard.alive
    heard.pass_(SILENT_AFTER_S, beating=False)
    assert not heard.alive


def test_a_week_of_heartbeats_with_a_clock_that_is_set_every_day() -> None:
    heard = Heard()
    for day in range(7):
        heard.pass_(86_400, beating=True)
        heard.wall += HOUR * (-1) ** day
        assert heard.alive
    assert list(heard.mirror.heartbeats) == ["n1"]
