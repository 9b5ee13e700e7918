"""The report on a request: accepted or refused, how far it is, and what kstatus concludes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kigi.api.reset import MAX_FAILED, SystemResetStatus
from kigi.domain.resets import SETTLE, ResetRequest
from kigi.errors import DeploymentMissing
from kigi.planning.reset_view import MachineProgress, ResetView, seconds_until_deletion
from kigi.status.resets import finished_status, reset_status
from tests.support.kstatus import check

NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
DONE = MachineProgress("1", "db", is_fresh=True, state="Running")
OFF = MachineProgress("1", "web", is_fresh=True, state="Stopped")
OLD = MachineProgress("2", "db", is_fresh=False, state="Running")
UNSEEN = MachineProgress("2", "web", is_fresh=True)
WARMING = MachineProgress("3", "db", is_fresh=True, state="Warming")
BROKEN = MachineProgress("3", "web", is_fresh=True, state="CrashLooping", message="x" * 1000)


def view(*machines: MachineProgress, **fields: object) -> ResetView:
    request = ResetRequest("r", "u", NOON, "office")
    found = ResetView(1, request, None, 0, machines, 700, NOON + timedelta(seconds=5.5))
    return replace(found, **fields)  # type: ignore[arg-type]


def conditions(status: SystemResetStatus) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status, each.reason) for each in status.conditions}


def kstatus(status: SystemResetStatus) -> str:
    return check({"metadata": {"generation": 1}, "status": status.to_api()})


def test_a_request_is_complete_when_each_machine_is_as_desired_on_a_fresh_disk() -> None:
    status = reset_status(view(DONE, OFF))
    assert (status.targets, status.succeeded, status.failed, status.summary) == (2, 2, 0, "2/2")
    assert (status.start_time, status.completion_time) == (NOON + timedelta(seconds=5),) * 2
    assert status.missing_bytes == 700
    assert conditions(status) == {
        "Ready": ("True", "ResetComplete"),
        "Reconciling": ("False", "ResetComplete"),
        "Stalled": ("False", "ResetComplete"),
        "Accepted": ("True", "Accepted"),
        "Complete": ("True", "ResetComplete"),
        "Failed": ("False", "ResetComplete"),
    }
    assert kstatus(status) == "Current"


@pytest.mark.parametrize(
    ("last", "reason"), [(OLD, "MachinesStarting"), (UNSEEN, "MachinesStarting"), (WARMING, "LayersWarming")]
)
def test_a_machine_without_a_report_on_its_fresh_disk_is_waited_for(last: MachineProgress, reason: str) -> None:
    status = reset_status(view(DONE, last))
    assert (status.targets, status.succeeded, status.completion_time) == (2, 1, None)
    assert conditions(status)["Ready"] == ("False", reason)
    assert kstatus(status) == "InProgress"


def test_machines_with_trouble_are_listed_and_waited_for() -> None:
    status = reset_status(view(DONE, *[replace(BROKEN, instance=str(n)) for n in range(60)]))
    assert (status.failed, len(status.failed_machines)) == (60, MAX_FAILED)
    first = status.failed_machines[0]
    assert (first.instance, first.machine, first.state, len(first.message or "")) == ("0", "web", "CrashLooping", 300)
    assert "60 have trouble, such as 0/web: CrashLooping: x" in status.conditions[0].message
    assert kstatus(status) == "InProgress"


def test_a_state_that_is_not_resolved_is_waited_for() -> None:
    status = reset_status(view(DONE, unresolved=2))
    assert status.completion_time is None
    assert "the states of 2 instances are not resolved" in status.conditions[0].message


def test_a_request_about_no_machine_is_complete() -> None:
    assert conditions(reset_status(view()))["Complete"] == ("True", "ResetComplete")


def test_a_refused_request_is_stalled_and_ends_when_no_object_can_be_meant_any_more() -> None:
    error = DeploymentMissing("spec.instances: no 9; create another")
    status = reset_status(view(refusal=error))
    assert (status.targets, status.completion_time) == (0, None)
    assert conditions(status)["Accepted"] == ("False", "DeploymentMissing")
    assert conditions(status)["Failed"] == ("False", "DeploymentMissing")
    assert status.conditions[0].message == "spec.instances: no 9; create another; nothing is reset"
    assert kstatus(status) == "Failed"
    later = NOON + SETTLE + timedelta(seconds=1)
    ended = reset_status(view(refusal=error, now=later, old_status=status))
    assert (ended.start_time, ended.completion_time) == (status.start_time, later)
    assert conditions(ended)["Failed"] == ("True", "DeploymentMissing")
    assert kstatus(ended) == "Failed"


def test_the_cost_is_that_of_the_beginning() -> None:
    first = reset_status(view(OLD))
    assert reset_status(view(DONE, missing_bytes=0, old_status=first)).missing_bytes == 700


def test_a_finished_request_stays_as_it_is_when_its_time_to_live_changes() -> None:
    status = reset_status(view(DONE))
    later = finished_status(status, 3)
    assert {each.observed_generation for each in later.conditions} == {later.observed_generation} == {3}
    assert (later.completion_time, conditions(later)) == (status.completion_time, conditions(status))


@pytest.mark.parametrize(("age_s", "left_s"), [(0, 60), (59, 1), (60, 0), (4000, 0), (-4000, 60)])
def test_a_finished_request_goes_after_its_time_and_a_wrong_clock_delays_it_once_at_most(
    age_s: int, left_s: int
) -> None:
    assert seconds_until_deletion(NOON, 60, NOON + timedelta(seconds=age_s)) == left_s
